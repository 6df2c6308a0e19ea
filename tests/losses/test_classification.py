"""Cross entropy and the weighted mean against both code bases of the reference, float64 loops and a library."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import base, losses
from tests import golden, parity

TF1 = golden.load("losses_tf1")
TF2 = golden.load("losses_other")
CASES = [f"smoothing{s}_{w}" for s in ("0", "0.1", "0.3") for w in ("ones", "mask")]


def loop(logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float = 0.0) -> list[float]:
    """Cross entropy, example by example and class by class."""
    values = []
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        total = math.fsum(math.exp(x - max(row)) for x in row)
        log_p = [x - max(row) - math.log(total) for x in row]
        target = [(c == label) * (1 - label_smoothing) + label_smoothing / len(row) for c in range(len(row))]
        values.append(-math.fsum(t * p for t, p in zip(target, log_p, strict=True)) if label >= 0 else 0.0)
    return values


@functools.partial(jax.jit, static_argnames="label_smoothing")
def weighted_loss_and_gradient(logits, labels, weights, *, label_smoothing):
    def total(logits):
        return losses.weighted_mean(losses.cross_entropy(logits, labels, label_smoothing=label_smoothing), weights)

    return jax.value_and_grad(total)(logits)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("case", CASES)
def test_weighted_cross_entropy_equals_the_first_reference_code(case, dtype, tolerance, compare):
    smoothing, kind = float(case.removeprefix("smoothing").split("_")[0]), case.rsplit("_", 1)[1]
    with jax.enable_x64(dtype == "float64"):
        weights = jnp.asarray(TF1["supervised/mask_weights"] if kind == "mask" else np.ones(6), dtype)
        labels, logits = jnp.asarray(TF1["supervised/labels"]), jnp.asarray(TF1["supervised/logits"], dtype)
        loss, gradient = jax.device_get(weighted_loss_and_gradient(logits, labels, weights, label_smoothing=smoothing))
    assert loss.dtype == dtype
    words = "smoothed, weighted cross entropy{}, " + dtype.replace("loat", "")
    expected = TF1[f"supervised/{case}/loss_f64"]
    compare(words.format(""), loss, expected, limit=tolerance, of=parity.EACH, source="TF1")
    # The recorded gradient is float32.
    expected = TF1[f"supervised/{case}/grad"]
    compare(words.format(", gradient"), gradient, expected, limit=1e-5, of=parity.LARGEST, source="TF1")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
def test_mean_cross_entropy_equals_the_second_reference_code(dtype, tolerance, compare):
    smoothing = float(TF2["supervised/label_smoothing"])

    @jax.jit
    def both(logits):
        means = [
            jax.value_and_grad(lambda x, s=s: jnp.mean(losses.cross_entropy(x, labels, label_smoothing=s)))(logits)
            for s in (0.0, smoothing)
        ]
        return *means[0], means[1][0]

    with jax.enable_x64(dtype == "float64"):
        labels, logits = jnp.asarray(TF2["supervised/labels"]), jnp.asarray(TF2["supervised/logits"], dtype)
        loss, gradient, smoothed = jax.device_get(both(logits))
    short = dtype.replace("loat", "")
    compare(f"cross entropy, {short}", loss, TF2["supervised/loss_f64"], limit=tolerance, of=parity.EACH)
    smoothed_loss = TF2["supervised/loss_label_smoothing_0.1_f64"]
    compare(f"smoothed cross entropy, {short}", smoothed, smoothed_loss, limit=1e-5, of=parity.EACH)
    # The recorded gradient is float32.
    compare(f"cross entropy, gradient, {short}", gradient, TF2["supervised/grad"], limit=1e-5, of=parity.LARGEST)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.25])
def test_cross_entropy_equals_the_loop_over_classes(label_smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(scale=5, size=(7, 4)).astype(np.float32), rng.integers(-1, 4, 7).astype(np.int32)
    labels[0] = -1
    ours = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), label_smoothing=label_smoothing)
    # float32 against float64, values of order 1.
    np.testing.assert_allclose(ours, loop(logits, labels, label_smoothing=label_smoothing), rtol=1e-5, atol=1e-6)


def test_cross_entropy_equals_optax():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 6)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(2).integers(0, 6, (3, 5)), jnp.int32)
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-6, atol=1e-7)


def test_unlabelled_examples_have_no_loss_and_no_gradient():
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)), jnp.float32)
    labels = jnp.asarray([1, -1, 4, -1], jnp.int32)

    def total(logits):
        values = losses.cross_entropy(logits, labels, label_smoothing=0.1)
        return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(logits)
    for result in (values, gradient):
        assert not np.asarray(result)[[1, 3]].any() and np.asarray(result)[[0, 2]].any()


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes():
    values = losses.cross_entropy(jnp.zeros((2, 10)), jnp.asarray([0, 9], jnp.int32))
    np.testing.assert_allclose(values, math.log(10), rtol=1e-6)


def test_cross_entropy_stays_finite_at_extreme_logits():
    logits = jnp.asarray([[1e30, -1e30, 0.0], [88.0, 1e4, -1e4]])
    labels = jnp.asarray([0, 1], jnp.int32)
    values, pullback = jax.vjp(lambda logits: losses.cross_entropy(logits, labels), logits)
    np.testing.assert_array_equal(values, [0.0, 0.0])
    assert np.isfinite(pullback(jnp.ones(2))[0]).all()


def test_bfloat16_logits_are_compared_in_float32():
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(3, 4)), jnp.bfloat16)
    labels = jnp.asarray([0, 1, 2], jnp.int32)
    ours = losses.cross_entropy(logits, labels)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, losses.cross_entropy(logits.astype(jnp.float32), labels))


@pytest.mark.parametrize("labels", [np.zeros((3, 4), np.int32), np.zeros(2, np.int32), np.zeros(3, np.float32)])
def test_cross_entropy_refuses_labels_that_are_not_one_class_number_per_example(labels):
    with pytest.raises(base.InputError, match=r"need integer labels \[\.\.\.\]; got \[3, 4\] and"):
        losses.cross_entropy(jnp.zeros((3, 4)), jnp.asarray(labels))


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, float("nan")])
def test_cross_entropy_refuses_an_impossible_label_smoothing(label_smoothing):
    with pytest.raises(base.InputError, match="label_smoothing must be at least 0 and below 1"):
        losses.cross_entropy(jnp.zeros((3, 4)), jnp.zeros(3, jnp.int32), label_smoothing=label_smoothing)


def test_weighted_mean_divides_by_the_number_of_weights_that_are_not_zero():
    values = jnp.asarray([1.0, 10.0, 100.0, 1000.0])
    assert float(losses.weighted_mean(values, jnp.asarray([2.0, 0.0, 0.5, 0.0]))) == (2 + 50) / 2
    assert float(losses.weighted_mean(values, jnp.asarray(0.5))) == 0.5 * 1111 / 4
    assert float(losses.weighted_mean(values[:, None] * jnp.ones((1, 3)), jnp.ones((4, 1)))) == 1111 / 4


def test_weighted_mean_of_nothing_is_zero_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: losses.weighted_mean(x, jnp.zeros(3)))(jnp.ones(3))
    assert float(value) == 0 and not np.asarray(gradient).any()
