"""SGD and AdamW beside torch's, with decay, in float64."""

import pytest

from simclr_jax import optim
from tests import test_optim_live as live

pytestmark = pytest.mark.slow  # for docs/parity.md

# Our optimizer, torch's, whether it decays a parameter, other settings of torch's.
CASES = {
    "SGD, Nesterov, decay": (
        *("sgd", "SGD"),
        lambda name: not name.startswith("bn"),
        {"momentum": 0.9, "nesterov": True},
    ),
    "AdamW": ("adamw", "AdamW", lambda name: name.endswith("kernel"), {}),
}


@pytest.mark.parametrize("words", CASES)
def test_optimizer_equals_torch(words, compare):
    torch = pytest.importorskip("torch")
    ours, theirs, decays, settings = CASES[words]
    nesterov = "nesterov" in settings
    found = live.run(
        lambda rate: optim.make_optimizer(ours, learning_rate=rate, weight_decay=live.DECAY, nesterov=nesterov)
    )
    for name, start in live.START.items():
        parameter = torch.nn.Parameter(torch.tensor(start))
        decay = live.DECAY if decays(name) else 0.0
        optimizer = getattr(torch.optim, theirs)([parameter], lr=0.1, weight_decay=decay, **settings)
        for step, rate in enumerate(live.RATES):
            optimizer.param_groups[0]["lr"] = rate
            parameter.grad = torch.tensor(live.gradients(step)[name])
            optimizer.step()
        expected = parameter.detach().numpy()
        compare(f"{words}, f64", found[name], expected, source=f"torch.optim.{theirs}", **live.TOLERANCE)
