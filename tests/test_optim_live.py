"""Optimizers over some steps on random gradients in float64: beside optax's, and beside loops over one tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import optim
from tests import oracles, parity
from tests.test_optim import to_tree

START = {
    name: np.random.default_rng(seed).normal(size=shape)
    for seed, (name, shape) in enumerate(
        {"conv1/kernel": (3, 3, 4, 8), "bn1/gamma": (8,), "dense/kernel": (8, 5), "dense/bias": (5,)}.items(), start=90
    )
}
RATES = (0.0, 0.1, 0.2, 0.15, 0.05)
DECAY = 1e-2
TOLERANCE = {"limit": 1e-12, "of": parity.LARGEST}


def gradients(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=start.shape) for name, start in START.items()}


def scheduled(rates: tuple[float, ...] = RATES) -> optax.Schedule:
    """A schedule that reads its values from a table."""
    return lambda step: jnp.asarray(rates)[step]


def run(make_tx, *, num_steps: int = len(RATES)) -> dict[str, np.ndarray]:
    """Parameters by name after some steps of the optimizer that `make_tx` makes of a schedule."""
    with jax.enable_x64(True):
        tx, params = make_tx(scheduled()), to_tree(START, "float64")
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(num_steps):
            updates, state = update(to_tree(gradients(step), "float64"), state, params)
            params = optax.apply_updates(params, updates)
        return oracles.named_leaves(jax.device_get(params))


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_equals_optax_with_its_masks_written_out_and_a_loop(nesterov, compare):
    kernels = jax.tree.map(bool, to_tree({name: name.endswith("kernel") for name in START}, "bool"))
    masks = {"weight_decay_mask": kernels, "trust_ratio_mask": kernels, "trust_coefficient": 1e-3}
    ours = run(lambda rate: optim.make_lars(learning_rate=rate, weight_decay=DECAY, nesterov=nesterov))
    theirs = run(lambda rate: optax.lars(rate, weight_decay=DECAY, **masks, momentum=0.9, nesterov=nesterov))
    for name, start in START.items():
        compare("LARS with masks, f64", ours[name], theirs[name], source="optax.lars", **TOLERANCE)
        kernel, weight, velocity = name.endswith("kernel"), start, np.zeros_like(start)
        for step, rate in enumerate(RATES):
            weight, velocity = oracles.lars_step(
                *(weight, gradients(step)[name], velocity),
                learning_rate=rate,
                weight_decay=DECAY if kernel else 0.0,
                adapted=kernel,
                nesterov=nesterov,
            )
        compare("LARS, f64", ours[name], weight, source="NumPy", **TOLERANCE)


@pytest.mark.few(1)
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_optax(nesterov, compare):
    ours = run(lambda rate: optim.make_sgd(learning_rate=rate, weight_decay=0.0, nesterov=nesterov))
    theirs = run(lambda rate: optax.sgd(rate, momentum=0.9, nesterov=nesterov))
    for name in START:
        compare("SGD, momentum, f64", ours[name], theirs[name], source="optax.sgd", **TOLERANCE)
