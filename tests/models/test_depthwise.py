"""The convolution of every channel by itself: value and gradients against float64 loops and XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import depthwise

TOLERANCE = 1e-5  # of the largest; sums of up to 400 float32 products, observed 3e-7


def loops(x: np.ndarray, kernel: np.ndarray, back: np.ndarray) -> list[np.ndarray]:
    """The output, and the gradients of its sum weighted by `back`, by float64 loops over places and taps."""
    (num, height, width, _), size = x.shape, len(kernel)
    y, x_gradient, kernel_gradient = np.zeros(x.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    for image, row, column, i, j in np.ndindex(num, height, width, size, size):
        at = (image, row + i - size // 2, column + j - size // 2)
        if 0 <= at[1] < height and 0 <= at[2] < width:
            y[image, row, column] += x[at] * kernel[i, j, 0]
            x_gradient[at] += back[image, row, column] * kernel[i, j, 0]
            kernel_gradient[i, j, 0] += back[image, row, column] * x[at]
    return [y, x_gradient, kernel_gradient]


@pytest.mark.parametrize(("shape", "size", "parts"), [((4, 6, 5, 3), 7, 1), ((4, 3, 2, 2), 3, 2), ((3, 1, 1, 4), 7, 2)])
def test_value_and_gradients_are_those_of_loops(shape, size, parts):
    """Also where the maps are smaller than the kernel, and where two devices do not divide the rows."""
    rng = np.random.default_rng(0)
    x, back = rng.normal(size=shape), rng.normal(size=shape)
    kernel = rng.normal(size=(size, size, 1, shape[-1]))

    @jax.jit
    def both(x, kernel, back):
        y, pull_back = jax.vjp(lambda x, kernel: depthwise.convolve(x, kernel, parts=parts), x, kernel)
        return y, *pull_back(back)

    found = both(*(jnp.asarray(value, jnp.float32) for value in (x, kernel, back)))
    for ours, expected in zip(found, loops(x, kernel, back), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_sums_of_bfloat16_are_taken_in_float32():
    """81 products of 1/64 and 1: bfloat16 has 8 bits, so that a sum in it would stop growing."""
    ones, kernel = jnp.ones((1, 9, 9, 1), jnp.bfloat16), jnp.full((9, 9, 1, 1), 1 / 64, jnp.bfloat16)
    y, pull_back = jax.vjp(lambda kernel: depthwise.convolve(ones, kernel), kernel)
    assert y.dtype == jnp.bfloat16 and float(y[0, 4, 4, 0]) == float(jnp.bfloat16(81 / 64))
    (gradient,) = pull_back(jnp.ones_like(y))
    assert gradient.dtype == jnp.bfloat16 and float(gradient[4, 4, 0, 0]) == 81
