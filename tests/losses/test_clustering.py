"""Sinkhorn and SwAV against recorded values, values by hand, and a loop."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

GOLDEN = family.load("sinkhorn")
LOSSES = family.cases(GOLDEN, "queue_scores")
ASSIGNMENTS = [case for case in family.cases(GOLDEN, "scores") if case not in LOSSES]
DTYPES = ("float32", pytest.param("float64", marks=pytest.mark.slow))
_sinkhorn = jax.jit(losses.sinkhorn)


@functools.cache
def assignments(dtype: str):
    with jax.enable_x64(dtype == "float64"):
        chosen = {case: family.own(GOLDEN, case) for case in ASSIGNMENTS}
        given = {case: jnp.asarray(values["scores"], dtype) for case, values in chosen.items()}
        numbers = {case: {name: values[name] for name in ("epsilon", "iterations")} for case, values in chosen.items()}
        every = jax.jit(lambda given: {case: losses.sinkhorn(x, **numbers[case]) for case, x in given.items()})
        return jax.device_get(every(given))


@functools.cache
def results(dtype: str, cases: tuple[str, ...]):
    def form(case):
        numbers = {name: case[name] for name in ("temperature", "epsilon", "iterations")}
        return losses.swav(case["scores"], queue_scores=case["queue_scores"], **numbers)

    return family.run(GOLDEN, cases, form, inputs=("scores",), dtype=dtype)


@pytest.mark.few(4)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ASSIGNMENTS)
def test_sinkhorn_equals_the_reference_also_where_its_float32_overflows(case, dtype):
    ours = assignments(dtype)[case]
    atol = 1e-5 if dtype == "float32" else 1e-10
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, GOLDEN[f"{case}/assignments_f64"], rtol=0, atol=atol)


@pytest.mark.parametrize(("case", "dtype"), family.rows(LOSSES))
def test_swav_equals_the_reference(case, dtype, compare):
    family.check(
        GOLDEN, case, results(dtype, family.program(LOSSES, case))[case], dtype=dtype, compare=(compare, "SwAV")
    )


def test_sinkhorn_has_the_values_by_hand():
    # exp(scores) = [[1, 1], [3, 1]]; prototypes: [[1/4, 1/2], [3/4, 1/2]]; samples: [[1/3, 2/3], [3/5, 2/5]].
    scores = jnp.log(jnp.asarray([[1.0, 1.0], [3.0, 1.0]]))
    ours = _sinkhorn(scores, epsilon=1.0, iterations=1)
    np.testing.assert_allclose(ours, [[1 / 3, 2 / 3], [3 / 5, 2 / 5]], rtol=1e-6)
    # Prototypes again: divided by 14/15 and 16/15, hence [[5/14, 10/16], [9/14, 6/16]], of sums 55/56 and 57/56.
    ours = _sinkhorn(scores, epsilon=1.0, iterations=2)
    np.testing.assert_allclose(ours, [[20 / 55, 35 / 55], [36 / 57, 21 / 57]], rtol=1e-6)


def test_sinkhorn_in_the_end_uses_all_prototypes_equally():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32)
    ours = _sinkhorn(scores, epsilon=0.5, iterations=200)
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(ours.sum(axis=0), 3, rtol=1e-4)


def test_others_take_part_as_if_they_were_further_samples():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(7, 4)), jnp.float32)
    apart = _sinkhorn(scores[:3], epsilon=0.3, others=scores[3:])
    np.testing.assert_allclose(apart, _sinkhorn(scores, epsilon=0.3)[:3], rtol=1e-5)
    assert np.abs(apart - _sinkhorn(scores[:3], epsilon=0.3)).max() > 0.01
    np.testing.assert_array_equal(
        _sinkhorn(scores, epsilon=0.3, others=jnp.zeros((0, 4))), _sinkhorn(scores, epsilon=0.3)
    )


@pytest.mark.parametrize("size", [1e-6, 1.0, 100.0])
def test_sinkhorn_in_float32_equals_the_loop_at_any_size_of_scores(size):
    scores = (size * np.random.default_rng(0).normal(size=(6, 3))).astype(np.float32)
    expected = family_oracles.sinkhorn(scores, epsilon=0.05, iterations=3)
    ours = _sinkhorn(jnp.asarray(scores))
    # A score of 100 over 0.05 is rounded at 1e-4; the digits of float32 are gone for the small shares of such samples.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6 * max(1, size))


def test_swav_equals_the_loop():
    scores = np.random.default_rng(0).normal(size=(4, 3, 5))
    assigned = np.stack([family_oracles.sinkhorn(scores[:, a], epsilon=0.5, iterations=3) for a in range(2)], axis=1)
    family.check_oracle(
        functools.partial(losses.swav, temperature=0.3, epsilon=0.5),
        lambda scores: family_oracles.swav(scores, assigned, temperature=0.3),
        scores,
    )


def test_equal_scores_have_the_value_and_the_entropy_of_uniform_assignments():
    loss, metrics = jax.jit(losses.swav)(jnp.full((6, 3, 5), 0.7))
    assert float(loss) == pytest.approx(math.log(5), rel=1e-6)
    assert float(metrics["assignment_entropy"]) == pytest.approx(math.log(5), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.sinkhorn(jnp.ones((2, 3, 4))), r"sinkhorn needs scores \[N, K\]"),
        (lambda: losses.sinkhorn(jnp.ones((2, 3)), others=jnp.ones((2, 4))), r"others \[L, K\]; got"),
        (lambda: losses.sinkhorn(jnp.ones((2, 3)), epsilon=0.0), "epsilon of sinkhorn must be above 0"),
        (lambda: losses.sinkhorn(jnp.ones((2, 3)), iterations=-1), "iterations of sinkhorn must be at least 0"),
        (lambda: losses.swav(jnp.ones((2, 1, 3))), "at least two crops"),
        (lambda: losses.swav(jnp.ones((2, 2, 3)), queue_scores=jnp.ones((2, 3))), r"must be \[L, 2, 3\]"),
        (lambda: losses.swav(jnp.ones((2, 2, 3)), temperature=-1.0), "temperature of swav must be above 0"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(call, message):
    with pytest.raises(base.InputError, match=message):
        call()
