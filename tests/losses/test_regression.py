"""BYOL and SimSiam: recorded values and gradients, float64 restatements, and what a collapse looks like."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family

BYOL, SIMSIAM = family.load("loss_byol"), family.load("loss_simsiam")
ZERO = ("same_views",)
FORMS = {
    "byol": (BYOL, lambda case: losses.byol(case["p"], case["z"])),
    "simsiam": (SIMSIAM, lambda case: losses.simsiam(case["p"], case["z"])),
}


@functools.cache
def recorded(name: str, program: tuple[str, ...], dtype: str):
    arrays, form = FORMS[name]
    return family.run(arrays, program, form, inputs=("p", "z"), dtype=dtype)


@pytest.mark.parametrize(("case", "dtype"), family.rows(family.cases(BYOL, "p")))
def test_byol_equals_the_recorded_loss_and_gradient(case, dtype, compare):
    result = recorded("byol", family.program(family.cases(BYOL, "p"), case), dtype)[case]
    check_constant_targets(result)
    if case == "zero_row":  # the official gradient of that row is 1e6 times the incoming one
        values = family.own(BYOL, case)
        assert result[0][0] == pytest.approx(values["loss_f64"], rel=1e-10 if dtype == "float64" else 2e-6)
        assert np.isfinite(result[1]["p"]).all()
        return
    family.check(BYOL, case, (result[0], {"p": result[1]["p"]}), dtype=dtype, compare=(compare, "BYOL"), zero=ZERO)


@pytest.mark.parametrize(("case", "dtype"), family.rows(family.cases(SIMSIAM, "p")))
def test_simsiam_equals_the_recorded_loss_and_gradient(case, dtype, compare):
    result = recorded("simsiam", family.program(family.cases(SIMSIAM, "p"), case), dtype)[case]
    check_constant_targets(result)
    family.check(
        SIMSIAM, case, (result[0], {"p": result[1]["p"]}), dtype=dtype, compare=(compare, "SimSiam"), zero=ZERO
    )


def check_constant_targets(result) -> None:
    assert not result[1]["z"].any()


def units(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True))


def test_byol_is_its_definition_in_float64():
    z = np.random.default_rng(0).normal(size=(5, 2, 3))

    def oracle(p):
        total = 0.0
        for i in range(5):
            for a, b in ((0, 1), (1, 0)):
                total += np.sum((units(p[i, a]) - units(z[i, b])) ** 2)
        return total / 5

    family.check_oracle(lambda p: losses.byol(p, jnp.asarray(z)), oracle, np.random.default_rng(1).normal(size=z.shape))


def test_simsiam_is_its_definition_in_float64():
    z = np.random.default_rng(0).normal(size=(5, 2, 3))

    def oracle(p):
        return -sum(units(p[i, a]) @ units(z[i, 1 - a]) for i in range(5) for a in (0, 1)) / 10

    family.check_oracle(
        lambda p: losses.simsiam(p, jnp.asarray(z)), oracle, np.random.default_rng(1).normal(size=z.shape)
    )


def test_the_spread_is_one_for_random_directions_and_zero_for_a_collapse():
    z = jax.random.normal(jax.random.key(0), (512, 2, 64))
    assert float(losses.projection_spread(z)) == pytest.approx(1.0, abs=0.02)
    assert float(losses.projection_spread(jnp.broadcast_to(z[:1], z.shape))) == 0.0


@pytest.mark.parametrize("loss", [losses.byol, losses.simsiam])
@pytest.mark.parametrize("shape", [(4, 8), (4, 3, 8), (2, 4, 8)])
def test_other_shapes_are_refused(loss, shape):
    with pytest.raises(base.InputError, match=r"two arrays \[B, 2, d\]"):
        loss(jnp.ones(shape), jnp.ones(shape))
