"""Properties of NT-Xent, and its values and gradients on unseen and hostile projections."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import losses
from tests import properties
from tests.properties import optim_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=25)
MANY = hypothesis.settings(FEW, max_examples=200)
SHAPES = [(1, 2, 4), (5, 2, 3), (8, 2, 16)]

seeds = st.integers(0, 2**31 - 1)
shapes = st.sampled_from(SHAPES)
temperatures = st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0, 100.0])


@functools.partial(jax.jit, static_argnames="normalize")
def _value_and_gradient(z, temperature, normalize):
    loss = functools.partial(losses.nt_xent, temperature=temperature, normalize=normalize)
    return jax.value_and_grad(loss, has_aux=True)(z)


def evaluate(z: np.ndarray, *, temperature: float, normalize: bool = True):
    """(loss, metrics, gradient), with the temperature as data so that a shape is compiled once."""
    (loss, metrics), gradient = _value_and_gradient(jnp.asarray(z), jnp.asarray(temperature, z.dtype), normalize)
    return float(loss), {name: float(value) for name, value in metrics.items()}, np.asarray(gradient)


def draw(seed: int, shape: tuple[int, ...], *, alike: float = 0.0) -> np.ndarray:
    """Normal projections; `alike` in [0, 1] pulls the two views of an image together."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=shape)
    z[:, 1] = alike * z[:, 0] + (1 - alike) * z[:, 1]
    return z.astype(np.float32)


def rounding(temperature: float, *, times: float) -> float:
    """An absolute error of `times` float32 roundings of the largest logit, 1 / temperature, and of the loss."""
    return times * 2.0**-24 * (1 / temperature + 10)


def check_against_float64(z: np.ndarray, temperature: float, normalize: bool = True) -> None:
    """The golden files' tolerances: loss 1e-5 relative in float32 and 1e-10 in float64, entropy 1e-5 absolute."""
    expected = oracle.nt_xent(z, temperature=temperature, normalize=normalize)
    loss, metrics, _ = evaluate(z, temperature=temperature, normalize=normalize)
    # A loss that is the small difference of two logits cannot keep more digits than the logits have.
    assert loss == pytest.approx(expected, rel=1e-5, abs=rounding(temperature, times=8))
    with jax.enable_x64(True):
        exact, exact_metrics, _ = evaluate(z.astype(np.float64), temperature=temperature, normalize=normalize)
    assert exact == pytest.approx(expected, rel=1e-10, abs=1e-12 / temperature)
    if normalize:
        accuracy, entropy = oracle.contrastive_metrics(z, temperature=temperature)
        assert exact_metrics["contrastive_entropy"] == pytest.approx(entropy, rel=0, abs=1e-9 / temperature)
        assert metrics["contrastive_entropy"] == pytest.approx(
            entropy, rel=0, abs=1e-5 + rounding(temperature, times=40)
        )
        assert exact_metrics["contrastive_accuracy"] == pytest.approx(accuracy, abs=1e-12)


def check_gradient(z: np.ndarray, temperature: float) -> None:
    """2e-5 of the largest entry in float32 (golden files); finite differences themselves are good to 1e-8."""
    z = z.astype(np.float64)
    # A short projection turns fast: steps are a part of the shortest one.
    step = 3e-4 * min(temperature, 1.0) * min(np.linalg.norm(z, axis=-1).min(), 1.0)
    expected = oracle.finite_differences(lambda at: oracle.nt_xent(at, temperature=temperature), z, step=step)
    scale = np.abs(expected).max()
    with jax.enable_x64(True):
        exact = evaluate(z, temperature=temperature)[2]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-7 * scale + 1e-11 / temperature)
    ours = evaluate(z.astype(np.float32), temperature=temperature)[2]
    # An error e of a logit is a relative error e of its probability, and the gradient is one over the temperature.
    np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5 * scale + rounding(temperature, times=8) / temperature)


@FEW
@hypothesis.given(seeds, st.sampled_from(SHAPES[1:]), temperatures, st.sampled_from([0.0, 0.9, 1.0]), st.booleans())
def test_nt_xent_equals_float64_on_unseen_projections(seed, shape, temperature, alike, normalize):
    # Raw projections of one shape only: every pair of the two is a compilation of its own.
    check_against_float64(draw(seed, shape, alike=alike), temperature, normalize or shape == SHAPES[2])


@pytest.mark.slow
@MANY
@hypothesis.given(seeds, shapes, st.floats(0.01, 100), st.floats(0, 1), st.booleans())
def test_nt_xent_equals_float64_on_many_unseen_projections(seed, shape, temperature, alike, normalize):
    check_against_float64(draw(seed, shape, alike=alike), temperature, normalize)


@FEW
@hypothesis.given(seeds, st.sampled_from([0.05, 0.1, 0.5, 100.0]), st.sampled_from([0.0, 0.9]))
def test_the_gradient_equals_finite_differences(seed, temperature, alike):
    check_gradient(draw(seed, (5, 2, 3), alike=alike), temperature)


@pytest.mark.slow
@MANY
@hypothesis.given(seeds, shapes, st.floats(0.03, 100), st.floats(0, 1))
def test_the_gradient_equals_finite_differences_everywhere(seed, shape, temperature, alike):
    check_gradient(draw(seed, shape, alike=alike), temperature)


@FEW
@hypothesis.given(seeds, st.permutations(range(8)), temperatures)
def test_nt_xent_ignores_the_order_of_the_examples(seed, order, temperature):
    z = draw(seed, (8, 2, 16))
    before, after = evaluate(z, temperature=temperature), evaluate(z[order], temperature=temperature)
    assert after[0] == pytest.approx(before[0], rel=1e-6, abs=rounding(temperature, times=4))
    np.testing.assert_allclose(after[2], before[2][order], rtol=0, atol=rounding(temperature, times=4) / temperature)
    assert after[1]["contrastive_accuracy"] == before[1]["contrastive_accuracy"]


@FEW
@hypothesis.given(seeds, temperatures)
def test_nt_xent_ignores_which_view_is_the_first(seed, temperature):
    z = draw(seed, (8, 2, 16))
    before, after = evaluate(z, temperature=temperature), evaluate(z[:, ::-1], temperature=temperature)
    assert after[0] == pytest.approx(before[0], rel=1e-6, abs=rounding(temperature, times=4))
    np.testing.assert_allclose(after[2], before[2][:, ::-1], atol=rounding(temperature, times=4) / temperature)


@FEW
@hypothesis.given(seeds, temperatures)
def test_nt_xent_ignores_a_rotation_of_the_space(seed, temperature):
    z = draw(seed, (8, 2, 16))
    rotation = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(16, 16)))[0]
    turned = (z.astype(np.float64) @ rotation).astype(np.float32)
    before, after = (evaluate(x, temperature=temperature)[0] for x in (z, turned))
    assert after == pytest.approx(before, rel=1e-5, abs=rounding(temperature, times=16))


@FEW
@hypothesis.given(seeds, temperatures, st.integers(-12, 40))
def test_nt_xent_ignores_the_length_of_each_projection(seed, temperature, power):
    """Every row gets its own scale; powers of two leave the directions bit for bit."""
    z = draw(seed, (8, 2, 16))
    powers = np.random.default_rng(seed).integers(min(power, 0), max(power, 0) + 1, size=(8, 2, 1))
    before, after = (evaluate(x, temperature=temperature)[0] for x in (z, np.ldexp(z, powers).astype(np.float32)))
    assert after == pytest.approx(before, rel=1e-5, abs=rounding(temperature, times=8))


@FEW
@hypothesis.given(seeds, shapes, temperatures)
def test_loss_and_metrics_stay_in_their_bounds(seed, shape, temperature):
    loss, metrics, _ = evaluate(draw(seed, shape), temperature=temperature)
    slack = rounding(temperature, times=4)
    assert -slack <= loss <= 2 / temperature + math.log(2 * shape[0] - 1) + slack
    assert 0 <= metrics["contrastive_accuracy"] <= 1
    assert -1e-6 <= metrics["contrastive_entropy"] <= math.log(shape[0]) + 1e-5


@FEW
@hypothesis.given(seeds, temperatures, st.booleans())
def test_one_pair_has_loss_and_gradient_zero(seed, temperature, normalize):
    """The only candidate is the positive: -log 1."""
    loss, metrics, gradient = evaluate(draw(seed, (1, 2, 4)), temperature=temperature, normalize=normalize)
    assert loss == 0 and not gradient.any()
    assert metrics["contrastive_accuracy"] == 1 and abs(metrics["contrastive_entropy"]) < 1e-7


@FEW
@hypothesis.given(st.lists(st.floats(-3, 3, width=32), min_size=16, max_size=16), temperatures)
def test_equal_projections_of_any_value_have_the_collapse_value(row, temperature):
    loss, _, gradient = evaluate(np.tile(np.float32(row), (8, 2, 1)), temperature=temperature)
    assert 2 * loss == pytest.approx(2 * math.log(15), rel=1e-6)
    length = max(np.linalg.norm(np.float32(row)), 1e-6)
    # All candidates tie: the true gradient is zero.
    assert np.abs(gradient).max() <= 1e-5 / temperature / length


@FEW
@hypothesis.given(seeds, temperatures, st.lists(st.integers(0, 7), min_size=1, unique=True))
def test_rows_of_zeros_stay_zero_and_keep_the_loss_right(seed, temperature, rows):
    z = draw(seed, (8, 2, 16))
    z[rows, 0] = 0
    check_against_float64(z, temperature)
    assert np.isfinite(evaluate(z, temperature=temperature)[2]).all()


@FEW
@hypothesis.given(seeds, temperatures)
def test_bfloat16_projections_are_taken_at_their_value(seed, temperature):
    z = jnp.asarray(draw(seed, (8, 2, 16)), jnp.bfloat16)
    (loss, _), gradient = _value_and_gradient(z, jnp.asarray(temperature, jnp.float32), True)
    expected = oracle.nt_xent(np.asarray(z, np.float64), temperature=temperature)
    assert loss.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=rounding(temperature, times=8))


@jax.jit
def _weighted(z, temperature, weights):
    return losses.nt_xent(z, temperature=temperature, weights=weights)[0]


@FEW
@hypothesis.given(seeds, temperatures, st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=8, max_size=8))
def test_weights_scale_an_image_and_count_where_they_are_not_zero(seed, temperature, weights):
    z = draw(seed, (8, 2, 16))
    ours = _weighted(z, np.float32(temperature), np.float32(weights))
    anchors = oracle.nt_xent_of_anchors(z, temperature=temperature)
    expected = np.sum(np.tile(weights, 2) * anchors) / max(2 * np.count_nonzero(weights), 1)
    # Weights go up to 3.
    assert float(ours) == pytest.approx(expected, rel=1e-5, abs=3 * rounding(temperature, times=8))


@pytest.mark.few(1)
@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_a_projection_of_very_many_dimensions_equals_float64(temperature):
    check_against_float64(draw(0, (2, 2, 100_000), alike=0.5), temperature)
