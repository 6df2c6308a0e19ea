"""Barlow Twins and VICReg against recorded values, loops, and what follows from their formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

BARLOW, VICREG = family.load("loss_barlow"), family.load("loss_vicreg")
CASES_BARLOW, CASES_VICREG = family.cases(BARLOW, "z"), family.cases(VICREG, "z")
WEIGHTS = ("invariance_weight", "variance_weight", "covariance_weight")


@functools.cache
def results(name: str, dtype: str, cases: tuple[str, ...]):
    if name == "barlow":
        return family.run(
            BARLOW,
            cases,
            lambda case: losses.barlow_twins(case["z"], redundancy_weight=case["lambda"]),
            inputs=("z",),
            dtype=dtype,
        )

    def vicreg(case):
        return losses.vicreg(case["z"], **dict(zip(WEIGHTS, case["coefficients"], strict=True)))

    return family.run(VICREG, cases, vicreg, inputs=("z",), dtype=dtype)


@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES_BARLOW))
def test_barlow_twins_equals_the_reference(case, dtype, compare):
    # Batches of two rows lose digits in the variance: the README's tolerance.
    result = results("barlow", dtype, family.program(CASES_BARLOW, case))[case]
    family.check(BARLOW, case, result, dtype=dtype, compare=(compare, "Barlow Twins"), gradient_tolerance=5e-4)


@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES_VICREG))
def test_vicreg_and_its_terms_equal_the_reference(case, dtype, compare):
    result = results("vicreg", dtype, family.program(CASES_VICREG, case))[case]
    family.check(VICREG, case, result, dtype=dtype, compare=(compare, "VICReg"))
    (_, metrics), _ = result
    tolerance = 2e-6 if dtype == "float32" else 1e-10
    for name, expected in zip(WEIGHTS, VICREG[f"{case}/terms_f64"], strict=True):
        value = metrics[name.replace("weight", "loss")]
        assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_both_equal_loops_in_float64():
    z = np.random.default_rng(0).normal(1.0, 2.0, size=(6, 2, 4))
    family.check_oracle(
        functools.partial(losses.barlow_twins, redundancy_weight=0.3),
        lambda z: family_oracles.barlow_twins(z, 0.3),
        z,
    )
    # Some dimensions below and some above a deviation of 1, where the hinge ends.
    z[:, :, :2] *= 0.2
    family.check_oracle(losses.vicreg, lambda z: family_oracles.vicreg(z, (25.0, 25.0, 1.0)), z)


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg])
def test_a_common_offset_changes_nothing_and_leaves_no_rounding_behind(loss):
    """0.1 is not a float32 and its mean over seven rows is not 0.1."""
    rows = jnp.full((7, 2, 3), 0.1) * 1e4
    value, gradient = jax.jit(jax.value_and_grad(lambda z: loss(z)[0]))(rows)
    expected = 3.0 if loss is losses.barlow_twins else 24.75
    assert float(value) == pytest.approx(expected, rel=1e-6) and np.abs(gradient).max() <= 1e-5


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg])
def test_an_image_alone_has_no_statistics(loss):
    with pytest.raises(base.InputError, match="needs at least 2 images; got 1"):
        loss(jnp.ones((1, 2, 4)))


@pytest.mark.parametrize(("shape", "remedy"), [((2, 8, 4), "swapaxes"), ((8, 4), "stack"), ((8, 3, 4), "stack")])
def test_anything_but_two_views_is_refused_with_a_remedy(shape, remedy):
    with pytest.raises(base.InputError, match=rf"must have shape \[B, 2, d\]; got .*{remedy}"):
        losses.barlow_twins(jnp.ones(shape))


def test_bfloat16_projections_are_compared_in_float32():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 4)), jnp.bfloat16)
    for loss in (losses.barlow_twins, losses.vicreg):
        value, metrics = jax.jit(loss)(z)
        exact, _ = jax.jit(loss)(z.astype(jnp.float32))
        assert value.dtype == jnp.float32 and float(value) == float(exact)
        assert {metric.dtype for metric in metrics.values()} == {jnp.dtype("float32")}
