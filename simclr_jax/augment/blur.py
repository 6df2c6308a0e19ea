"""Gaussian blur as two banded matrix products; zero padding darkens the borders, as in the reference."""

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax import base

SIGMA_RANGE = (0.1, 2.0)


def kernel_size_for(height: int) -> int:
    """The nominal kernel size in pixels that the reference uses for images of this height: a tenth of it."""
    return height // 10


def _half_width(kernel_size: int) -> int:
    # The reference truncates: a nominal size of 22 has 11 taps on each side, 23 in all; 0 and 1 leave one tap.
    return kernel_size // 2


def blur_kernel(sigma: base.Array | float, *, kernel_size: int) -> base.Array:
    """The taps, float32 [2 * (kernel_size // 2) + 1], of a Gaussian of `sigma` pixels; they sum to 1.

    Reference: google-research/simclr data_util.gaussian_blur.
    """
    radius = _half_width(kernel_size)
    distance = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    taps = jnp.exp(-jnp.square(distance) / (2 * jnp.square(jnp.asarray(sigma, jnp.float32))))
    return taps / jnp.sum(taps)


def blur_planes(planes: base.Array, sigma: base.Array | float, *, kernel_size: int) -> base.Array:
    """`adjust_gaussian_blur` for an image in planes: float32 [H, 3, W] -> float32 [H, 3, W]."""
    height, channels, width = planes.shape
    rows = _band(sigma, height, kernel_size=kernel_size)
    columns = rows if width == height else _band(sigma, width, kernel_size=kernel_size)
    across = jnp.matmul(planes.reshape(-1, width), columns.T, precision=lax.Precision.HIGHEST)
    down = jnp.matmul(rows, across.reshape(height, -1), precision=lax.Precision.HIGHEST)
    return down.reshape(height, channels, width)


def _band(sigma: base.Array | float, size: int, *, kernel_size: int) -> base.Array:
    """The symmetric matrix [size, size] that convolves a line with the kernel, zeros beyond its ends."""
    taps = blur_kernel(sigma, kernel_size=kernel_size)
    radius = _half_width(kernel_size)
    difference = lax.iota(jnp.int32, size)[:, None] - lax.iota(jnp.int32, size)[None, :]
    scale = 2 * jnp.square(jnp.asarray(sigma, jnp.float32))
    weights = jnp.exp(-jnp.square(difference.astype(jnp.float32)) / scale) * taps[radius]
    return jnp.where(jnp.abs(difference) <= radius, weights, 0.0)


def adjust_gaussian_blur(image: base.Array, sigma: base.Array | float, *, kernel_size: int) -> base.Array:
    """`image` [H, W, 3] convolved with a Gaussian of `sigma` pixels, cut off at `kernel_size // 2` pixels.

    Pixels outside the image count as 0, so borders darken. Float32 in and out, not clipped.

    Reference: google-research/simclr data_util.gaussian_blur (padding "SAME").
    """
    return jnp.swapaxes(blur_planes(jnp.swapaxes(image, 1, 2), sigma, kernel_size=kernel_size), 1, 2)


def draw_sigma(key: base.Array) -> base.Array:
    """A standard deviation in pixels, float32, uniform in SIGMA_RANGE."""
    return jax.random.uniform(key, (), jnp.float32, *SIGMA_RANGE)


def random_gaussian_blur(
    key: base.Array, image: base.Array, *, probability: float = 0.5
) -> tuple[base.Array, tuple[base.Array, base.Array]]:
    """Blurs `image` [H, W, 3] with `probability`, kernel H // 10: (image, (whether it was blurred, sigma)).

    Not clipped. Reference: google-research/simclr data_util.random_blur; the sigma is this image's own, see
    `views.make_simclr_views` for the reference's choice of one per view.
    """
    applied_key, sigma_key = jax.random.split(key)
    applied, sigma = jax.random.bernoulli(applied_key, probability), draw_sigma(sigma_key)
    blurred = adjust_gaussian_blur(image, sigma, kernel_size=kernel_size_for(image.shape[0]))
    return jnp.where(applied, blurred, image), (applied, sigma)
