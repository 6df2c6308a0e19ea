"""Convolution padding, BatchNorm's constants, and the max-pool with its own gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax.models import convolution, layers, taps

ALL_SIDES = ((1, 1), (1, 1))


@functools.partial(jax.jit, static_argnums=(2, 3))
def value_and_gradient(x, cotangent, pool, padding):
    y, pull_back = jax.vjp(lambda x: pool(x, padding), x)
    return y, pull_back(cotangent)[0]


def window_reduction(x, padding):
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), *padding, (0, 0)))


@pytest.mark.few(4)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("values", ["distinct", "with ties"])
@pytest.mark.parametrize("padding", ["same", "all sides"])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (7, 8)])
def test_max_pool_and_its_gradient_are_bit_equal_to_the_window_reduction(size, padding, values, dtype):
    rng = np.random.default_rng(1)
    shape = (2, *size, 3)
    x = rng.normal(size=shape) if values == "distinct" else rng.integers(-1, 2, shape)
    x = jnp.asarray(x, dtype)
    padding = layers.same_padding(shape) if padding == "same" else ALL_SIDES
    out = jax.eval_shape(lambda x: window_reduction(x, padding), x).shape
    cotangent = jnp.asarray(rng.normal(size=out), dtype)
    ours, gradient = value_and_gradient(x, cotangent, layers.max_pool, padding)
    theirs, expected = value_and_gradient(x, cotangent, window_reduction, padding)
    np.testing.assert_array_equal(ours, theirs)
    if dtype == "float32":
        np.testing.assert_array_equal(gradient, expected)
    else:  # at most four terms, each rounded to 8 bits, possibly added in another width
        np.testing.assert_allclose(gradient.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.02)


def test_max_pool_gradient_needs_no_scatter():
    x = jnp.ones((1, 8, 8, 4))
    lowered = jax.jit(jax.grad(lambda x: layers.max_pool(x, layers.same_padding(x.shape)).sum())).lower(x).as_text()
    assert "scatter" not in lowered
    reference = jax.jit(jax.grad(lambda x: window_reduction(x, ALL_SIDES).sum())).lower(x).as_text()
    assert "scatter" in reference


@pytest.mark.parametrize(("size", "expected"), [(1, (1, 1)), (2, (0, 1)), (7, (1, 1)), (112, (0, 1))])
def test_same_padding_is_that_of_tensorflow(size, expected):
    missing = max(2 * (-(-size // 2) - 1) + 3 - size, 0)
    assert (missing // 2, missing - missing // 2) == expected
    assert layers.same_padding((1, size, 4, 3))[0] == expected


@pytest.mark.few(2)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 2)])
def test_mean_pool_counts_padding_with_stride_two_only(size, strides):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    ours = layers.mean_pool(jnp.asarray(x, jnp.float32), strides)
    out = [-(-n // strides) for n in size]
    expected = np.zeros((2, *out, 3))
    for i in range(out[0]):
        for j in range(out[1]):
            window = x[:, i * strides : i * strides + 2, j * strides : j * strides + 2]
            expected[:, i, j] = window.mean(axis=(1, 2)) if strides == 1 else window.sum(axis=(1, 2)) / 4
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kernel_size", "strides", "size"), [(3, 2, 6), (3, 2, 7), (7, 2, 8), (1, 2, 5), (3, 1, 5)])
def test_convolution_pads_by_the_kernel_alone(kernel_size, strides, size):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, size, size, 2)), rng.normal(size=(kernel_size, kernel_size, 2, 3))
    conv = layers.Conv(3, kernel_size, strides)
    ours = conv.apply({"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}, jnp.asarray(x, jnp.float32))
    before = (kernel_size - 1) // 2
    padded = np.pad(x, ((0, 0), (before, kernel_size - 1 - before), (before, kernel_size - 1 - before), (0, 0)))
    out = (padded.shape[1] - kernel_size) // strides + 1
    expected = np.zeros((1, out, out, 3))
    for i in range(out):
        for j in range(out):
            window = padded[0, i * strides : i * strides + kernel_size, j * strides : j * strides + kernel_size]
            expected[0, i, j] = np.einsum("hwc,hwco->o", window, kernel)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


# All images at once, one after the other, and one after the other in three parts.
@pytest.mark.few(4)
@pytest.mark.parametrize(("cached_bytes", "parts"), [(2**20, 1), (1, 1), (1, 3)])
@pytest.mark.parametrize(
    ("kernel_size", "strides", "size"),
    [(3, 1, (6, 5)), (3, 2, (6, 7)), (7, 2, (8, 9)), (1, 2, (6, 5)), (1, 1, (4, 4)), (2, 2, (5, 4))],
)
def test_the_gradient_of_a_convolution_is_that_of_jax(kernel_size, strides, size, cached_bytes, parts, monkeypatch):
    monkeypatch.setattr(taps, "_CACHED_BYTES", cached_bytes)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, *size, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 4, 5)), jnp.float32)
    before = (kernel_size - 1) // 2
    padding = [(before, kernel_size - 1 - before)] * 2

    def theirs(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (strides, strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @functools.partial(jax.jit, static_argnums=0)
    def run(convolve, x, kernel):
        y, pull_back = jax.vjp(convolve, x, kernel)
        return y, *pull_back(jnp.cos(y))

    ours = run(lambda x, kernel: convolution.convolve(x, kernel, strides, parts=parts), x, kernel)
    for number, (a, b) in enumerate(zip(ours, run(theirs, x, kernel), strict=True)):
        if kernel.shape[0] > 1 and number < 2 and not taps.pays(ours[0].shape[1:3], 4):
            np.testing.assert_array_equal(a, b)
        else:  # matrix products, which take their sums in another order
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-7 * np.sqrt(x.size) * np.abs(b).max())


@pytest.mark.parametrize("strides", [1, 2])
def test_the_gradient_in_a_kernel_of_bfloat16_is_rounded_once(strides, monkeypatch):
    monkeypatch.setattr(taps, "_CACHED_BYTES", 1)  # as many partial sums as there are images
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((64, 8, 8, 4), (3, 3, 4, 5)))

    @jax.jit
    def gradient(x, kernel):
        y, pull_back = jax.vjp(lambda kernel: convolution.convolve(x, kernel, strides), kernel)
        return pull_back(jnp.ones_like(y))[0]

    exact = gradient(x.astype(jnp.float32), kernel.astype(jnp.float32))
    # Half a unit in the last of 8 bits, and float32's rounding of the sums.
    np.testing.assert_allclose(gradient(x, kernel).astype(jnp.float32), exact, rtol=2**-8, atol=1e-4)


def test_convolutions_inside_a_loop_keep_the_order_of_axes_that_is_fast_on_a_cpu():
    """XLA's CPU backend has fast code for this order only, and reorders axes outside of loops only."""
    x, kernel = jnp.ones((3, 2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def total(convolve):
        def compute(kernel, x):
            return jax.lax.scan(lambda sum, x: (sum + convolve(convolve(x, kernel), kernel).sum(), None), 0.0, x)[0]

        hlo = jax.jit(jax.grad(compute)).lower(kernel, x).compile().as_text()
        return [line for line in hlo.splitlines() if " convolution(" in line]

    assert all("dim_labels=b01f_01io->b01f" in line for line in total(lambda x, k: convolution.convolve(x, k, 1)))
    assert not all(
        "dim_labels=b01f_01io->b01f" in line for line in total(lambda x, k: convolution._plain_convolution(x, k, 1))
    )


def test_batch_norm_keeps_nine_tenths_of_the_old_statistics_and_the_biased_variance():
    x = np.random.default_rng(0).normal(2.0, 3.0, (5, 4))
    norm = layers.make_batch_norm("float32", True)()
    variables = norm.init(jax.random.key(0), jnp.zeros((2, 4)))
    y, state = norm.apply(variables, jnp.asarray(x, jnp.float32), mutable=["batch_stats"])
    mean, variance = x.mean(axis=0), x.var(axis=0)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=0, atol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (64, 3), (2, 1, 1, 3)])
def test_moments_and_their_gradient_equal_float64_also_where_the_mean_is_large(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, [0.5, 1.0, 2.0], shape).astype(np.float32)
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(np.float64)
    weights = rng.normal(size=(2, 3))

    @jax.jit
    def both(x):
        total = lambda x: sum(jnp.sum(w * m) for w, m in zip(weights, layers.moments(x), strict=True))  # noqa: E731
        return layers.moments(x), jax.grad(total)(x)

    (mean, variance), gradient = both(jnp.asarray(x))
    np.testing.assert_allclose(mean, wide.mean(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var(axis=axes), rtol=2e-6)
    expected = (weights[0] + 2 * weights[1] * (wide - wide.mean(axis=axes))) / (x.size / 3)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_moments_of_bfloat16_are_float32_and_their_gradient_is_bfloat16():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 2)), jnp.bfloat16)
    (mean, variance), pull_back = jax.vjp(layers.moments, x)
    wide = np.asarray(x.astype(jnp.float32), np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 1, 2)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 1, 2)), rtol=1e-5)
    assert mean.dtype == variance.dtype == jnp.float32
    assert pull_back((mean, variance))[0].dtype == jnp.bfloat16


@pytest.mark.few(1)
@pytest.mark.parametrize("parts", [2, 4, 5])
def test_moments_of_a_batch_in_parts_equal_float64(parts):
    """5 parts of 8 rows: no common divisor, as if it were one part."""
    x = np.random.default_rng(2).normal(1.0, size=(8, 5, 3, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    (mean, variance), pull_back = jax.vjp(functools.partial(layers.moments, parts=parts), x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 1, 2)), rtol=2e-6)
    slope = pull_back((jnp.ones(6, jnp.float32), jnp.full(6, 2.0, jnp.float32)))[0]
    expected = (1 + 2 * 2 * (wide - wide.mean(axis=(0, 1, 2)))) / (8 * 5 * 3)
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_batch_norm_has_the_variables_of_flax_and_its_results():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 3, 4)), jnp.float32)
    ours, theirs = layers.make_batch_norm("float32", True)(), nn.BatchNorm(use_running_average=False, momentum=0.9)
    variables = ours.init(jax.random.key(0), x)
    flax_variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, flax_variables)
    (y, state), (expected, flax_state) = (m.apply(variables, x, mutable=["batch_stats"]) for m in (ours, theirs))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(flax_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
