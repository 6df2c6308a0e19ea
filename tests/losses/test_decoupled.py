"""DCL and DCLW against recorded values, a loop, and what follows from their formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

GOLDEN = family.load("loss_dcl")
CASES = family.cases(GOLDEN, "z")
FORMS = pytest.mark.parametrize("loss", [losses.dcl, losses.dclw])


@functools.cache
def results(dtype: str, cases: tuple[str, ...]):
    def form(case):
        if "sigma" in case:
            return losses.dclw(case["z"], temperature=case["temperature"], sigma=case["sigma"])
        return losses.dcl(case["z"], temperature=case["temperature"])

    return family.run(GOLDEN, cases, form, inputs=("z",), dtype=dtype)


@pytest.mark.few(4)
@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES))
def test_both_equal_the_reference(case, dtype, compare):
    family.check(
        GOLDEN,
        case,
        results(dtype, family.program(CASES, case))[case],
        dtype=dtype,
        compare=(compare, case.partition("/")[0].upper()),
    )


def test_both_equal_the_loop():
    z = np.random.default_rng(0).normal(size=(5, 2, 4))
    family.check_oracle(
        functools.partial(losses.dcl, temperature=0.2), functools.partial(family_oracles.dcl, temperature=0.2), z
    )
    # The weights are constants of the gradient: those at z, wherever the oracle moves.
    weights = family_oracles.dclw_weights(z, 0.5)
    assert np.ptp(weights) > 0.1 and weights.mean() == pytest.approx(1)
    family.check_oracle(
        functools.partial(losses.dclw, temperature=0.2, sigma=0.5),
        functools.partial(family_oracles.dcl, temperature=0.2, weights=weights),
        z,
    )


@FORMS
def test_zero_rows_have_a_finite_loss_and_gradient(loss):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), jnp.float32).at[1].set(0.0)
    value, gradient = jax.jit(jax.value_and_grad(lambda z: loss(z)[0]))(z)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@FORMS
def test_an_image_alone_has_no_negatives(loss):
    with pytest.raises(base.InputError, match="needs at least 2 images; got 1"):
        loss(jnp.ones((1, 2, 4)))


def test_numbers_that_are_not_positive_are_refused():
    with pytest.raises(base.InputError, match="temperature of dcl must be above 0; got -1"):
        losses.dcl(jnp.ones((2, 2, 4)), temperature=-1)
    with pytest.raises(base.InputError, match="sigma of dclw must be above 0; got nan"):
        losses.dclw(jnp.ones((2, 2, 4)), sigma=float("nan"))
