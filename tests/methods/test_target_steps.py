"""Whole steps of BYOL, SimSiam, MoCo v1 to v3 and NNCLR beside those of the official codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import optim
from simclr_jax.methods import METHODS
from tests.methods import steps

DTYPES = ("float64", pytest.param("float32", marks=pytest.mark.slow))
# Recording -> (method, its settings, optimizer and options, biases before a BatchNorm: their gradient is rounding).
RECORDINGS = {
    "step_byol": (
        "byol",
        {"num_steps": 4, "proj_hidden_dim": 6, "proj_out_dim": 4, "pred_hidden_dim": 7, "target_decay": 0.9},
        ("lars", {"rate_place": "outside"}),
        ("projector/dense1/bias", "predictor/dense1/bias"),
    ),
    "step_mocov1": (
        "moco",
        {"num_proj_layers": 1, "proj_out_dim": 3, "queue_length": 8, "target_decay": 0.9, "bn_splits": 1},
        ("sgd", {"decayed": "all"}),
        (),
    ),
    "step_mocov2": (
        "moco",
        {"num_proj_layers": 2, "proj_out_dim": 3, "queue_length": 8, "target_decay": 0.9, "bn_splits": 1},
        ("sgd", {"decayed": "all"}),
        (),
    ),
    "step_mocov3": (
        "moco_v3",
        {"num_steps": 3, "proj_hidden_dim": 6, "proj_out_dim": 4, "pred_hidden_dim": 6, "target_decay": 0.99},
        ("lars", {"rate_place": "outside"}),
        (),
    ),
    "step_simsiam": ("simsiam", {"proj_out_dim": 6, "pred_hidden_dim": 3}, ("sgd", {"decayed": "all"}), ()),
    "step_simsiam_fixed_predictor_lr": (
        "simsiam",
        {"proj_out_dim": 6, "pred_hidden_dim": 3},
        ("sgd", {"decayed": "all", "constant_rate_for": "predictor"}),
        (),
    ),
    "step_nnclr": (
        "nnclr",
        {"proj_hidden_dim": 6, "proj_out_dim": 3, "pred_hidden_dim": 5, "queue_length": 8},
        ("sgd", {"decayed": "all"}),
        (*(f"projector/dense{layer}/bias" for layer in (1, 2, 3)), "projector/bn3/bias", "predictor/dense1/bias"),
    ),
}


@functools.cache
def run(name: str, dtype: str) -> tuple[dict[str, np.ndarray], list[steps.Step]]:
    arrays = steps.load(name)
    method, options, (optimizer, how), _ = RECORDINGS[name]
    settings = {key.removeprefix("settings/"): value for key, value in arrays.items() if key.startswith("settings/")}
    options = options | ({"temperature": float(settings["temperature"])} if "temperature" in settings else {})
    with jax.enable_x64(dtype == "float64"):
        recorded = settings.get("learning_rate", arrays.get("learning_rate"))
        rates = jnp.broadcast_to(jnp.asarray(recorded, dtype), arrays["loss"].shape)
        tx = optim.make_optimizer(
            optimizer,
            learning_rate=lambda step: rates[step],
            weight_decay=float(settings["weight_decay"]),
            momentum=float(settings["momentum"]),
            **how,
        )
        made = METHODS[method](steps.TinyEncoder(5), dtype=dtype, **options)
        return arrays, steps.run(made, tx, arrays, views=settings["views"], dtype=dtype)


@pytest.mark.few(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_method_makes_the_official_steps(name, dtype):
    arrays, history = run(name, dtype)
    steps.check(history, arrays, tolerance=steps.tolerance(arrays, dtype), skip=RECORDINGS[name][3])


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["step_byol", "step_mocov1", "step_mocov2", "step_mocov3"])
def test_the_momentum_network_follows_as_the_official_one(name):
    arrays, history = run(name, "float64")
    kind = "target_after" if name == "step_byol" else "target_used"
    recorded = {key.removeprefix(f"{kind}/"): value for key, value in arrays.items() if key.startswith(kind)}
    for number, step in enumerate(history):
        target = steps.named(step.method_state["target"]["params"])
        assert set(target) == set(recorded)
        # What a step has used was moved at its beginning, which is here the end of the step before.
        later = number if kind == "target_after" else number + 1
        for key, value in target.items():
            if later < len(history):
                expected = recorded[key][later]
                np.testing.assert_allclose(
                    value.reshape(expected.shape), expected, rtol=0, atol=1e-9 * np.abs(recorded[key]).max()
                )


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["step_mocov1", "step_mocov2", "step_nnclr"])
def test_the_queue_is_the_official_one(name):
    arrays, history = run(name, "float64")
    for number, step in enumerate(history):
        queue = step.method_state["queue"]
        np.testing.assert_allclose(queue["rows"], arrays["queue_after"][number], rtol=0, atol=1e-9)
        if "pointer_after" in arrays:
            assert queue["pointer"] == arrays["pointer_after"][number]


def after_moves(ours: np.ndarray, start: float, count: int, momentum: float = 0.9) -> np.ndarray:
    """The sum that moving averages from `start` hold after `count` moves."""
    return ours - start * momentum**count


@pytest.mark.parametrize(("name", "kinds"), [("step_mocov2", ("query", "key")), ("step_simsiam", ("",))])
def test_running_statistics_move_view_by_view_and_each_network_has_its_own(name, kinds):
    """The official variances are unbiased ones; of the images' pixels of one view."""
    arrays, history = run(name, "float64")
    count = arrays["settings/views"].shape[1] * 9
    for kind in kinds:
        folder = f"statistics_{kind}".rstrip("_") + "/encoder/bn"
        for number, step in enumerate(history):
            state = step.method_state["target"] if kind == "key" else step.method_state
            bn, moves = state["batch_stats"]["encoder"]["bn"], (number + 1) * (1 if kinds != ("",) else 2)
            recorded = arrays[f"{folder}/mean"], arrays[f"{folder}/var_unbiased"]
            if recorded[0].ndim == 1:  # only those at the end
                if number + 1 < len(history):
                    continue
                mean, var = recorded
            else:
                mean, var = recorded[0][number], recorded[1][number]
            np.testing.assert_allclose(bn["mean"], mean, rtol=0, atol=1e-10)
            unbiased = after_moves(bn["var"], 1.0, moves) * count / (count - 1)
            np.testing.assert_allclose(unbiased, after_moves(var, 1.0, moves), rtol=0, atol=1e-10)


def test_statistics_of_byol_are_the_official_ones_of_either_network():
    """Theirs start from zero and are divided by what has moved in."""
    arrays, history = run("step_byol", "float64")
    step, moves = history[-1], 2 * len(history)
    for kind, state in (("online", step.method_state), ("target", step.method_state["target"])):
        bn = state["batch_stats"]["encoder"]["bn"]
        for ours, start, name in ((bn["mean"], 0.0, "mean"), (bn["var"], 1.0, "var")):
            expected = arrays[f"statistics_{kind}/encoder/bn/{name}_debiased"]
            expected = expected[-1] if expected.ndim > 1 and len(expected) == len(history) else expected
            debiased = after_moves(ours, start, moves) / (1 - 0.9**moves)
            np.testing.assert_allclose(debiased, expected.reshape(debiased.shape), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("step_mocov3", "moco_v3"), ("step_simsiam", "simsiam")])
def test_one_pass_of_both_views_is_another_loss(name, method):
    arrays = steps.load(name)
    expected = arrays["joint_batchnorm_loss_step_1"]
    with jax.enable_x64(True):
        tx = optim.make_optimizer("sgd", learning_rate=0.0, weight_decay=0.0)
        made = METHODS[method](steps.TinyEncoder(5), dtype="float64", bn_per="batch", **RECORDINGS[name][1])
        history = steps.run(made, tx, arrays, views=arrays["settings/views"][:1], dtype="float64")
    assert history[0].loss == pytest.approx(float(expected), rel=1e-9)
    assert abs(history[0].loss - arrays["loss"][0]) > 1e-3
