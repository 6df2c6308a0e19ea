"""Gaussian blur as two banded matrix products; zero padding darkens the borders, as in the reference."""

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax import base
from simclr_jax.augment import pixels

SIGMA_RANGE = (0.1, 2.0)

# Pixels that one narrow product blurs.
_BLOCK = 32


def kernel_size_for(height: int) -> int:
    """The nominal kernel size in pixels that the reference uses for images of this height: a tenth of it."""
    return height // 10


def _half_width(kernel_size: int) -> int:
    # The reference truncates: a nominal size of 22 has 11 taps on each side, 23 in all; 0 and 1 leave one tap.
    return kernel_size // 2


def blur_kernel(sigma: base.Array | float, *, kernel_size: int) -> base.Array:
    """The taps, float32 [2 * (kernel_size // 2) + 1], of a Gaussian of `sigma` pixels; they sum to 1.

    Reference: google-research/simclr data_util.gaussian_blur.

    Example:
        >>> [round(float(tap), 3) for tap in augment.blur_kernel(1.0, kernel_size=4)]
        [0.054, 0.244, 0.403, 0.244, 0.054]
    """
    radius = _half_width(kernel_size)
    distance = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    taps = jnp.exp(-jnp.square(distance) / (2 * jnp.square(jnp.asarray(sigma, jnp.float32))))
    return taps / jnp.sum(taps)


def blur_planes(planes: base.Array, sigma: base.Array | float, *, kernel_size: int) -> base.Array:
    """`adjust_gaussian_blur` for an image in planes: float32 [H, 3, W] -> float32 [H, 3, W]."""
    height, channels, width = planes.shape
    radius = _half_width(kernel_size)
    block, band = _band(sigma, width, kernel_size=kernel_size)
    padded = jnp.pad(planes.reshape(-1, width), ((0, 0), (radius, radius)))
    windows = [padded[:, left : left + block + 2 * radius] for left in range(0, width, block)]
    across = jnp.concatenate([jnp.matmul(x, band.T, precision=lax.Precision.HIGHEST) for x in windows], axis=1)
    block, band = _band(sigma, height, kernel_size=kernel_size)
    padded = jnp.pad(across.reshape(height, -1), ((radius, radius), (0, 0)))
    windows = [padded[top : top + block + 2 * radius] for top in range(0, height, block)]
    down = jnp.concatenate([jnp.matmul(band, x, precision=lax.Precision.HIGHEST) for x in windows])
    return down.reshape(height, channels, width)


def _band(sigma: base.Array | float, size: int, *, kernel_size: int) -> tuple[int, base.Array]:
    """A block length that divides `size`, and the matrix [block, block + 2 * radius] that convolves one block.

    All blocks share the matrix; it reads the block and its surroundings. Blocks save most of the products with zeros.
    """
    radius = _half_width(kernel_size)
    block = _BLOCK if size % _BLOCK == 0 and 2 * (_BLOCK + 2 * radius) <= size else size
    taps = blur_kernel(sigma, kernel_size=kernel_size)
    shape = (block, block + 2 * radius)
    distance = lax.broadcasted_iota(jnp.int32, shape, 1) - lax.broadcasted_iota(jnp.int32, shape, 0) - radius
    scale = 2 * jnp.square(jnp.asarray(sigma, jnp.float32))
    weights = jnp.exp(-jnp.square(distance.astype(jnp.float32)) / scale) * taps[radius]
    return block, jnp.where(jnp.abs(distance) <= radius, weights, 0.0)


def blur_at_once(planes: base.Array, sigma: base.Array, applied: base.Array, *, kernel_size: int) -> base.Array:
    """`blur_planes` where the bool scalar `applied`, for many images at once: float32 [3, H, W] -> float32 [3, H, W].

    Sums of shifted images: an accelerator reads an image once and writes it once per direction, where the blocks of
    `blur_planes` are cut out, multiplied and joined by passes of their own. An image that is not blurred has the taps
    0, 1, 0 and comes back bit for bit, without a pass that selects.
    """
    radius = _half_width(kernel_size)
    taps = blur_kernel(sigma, kernel_size=kernel_size)
    identity = (jnp.arange(2 * radius + 1, dtype=jnp.int32) == radius).astype(jnp.float32)
    taps = jnp.where(applied, taps, identity)
    for axis in (2, 1):
        # Behind a barrier nothing before it is computed once per tap.
        planes = _sum_of_shifts(lax.optimization_barrier(planes), taps, axis=axis)
    return planes


def _sum_of_shifts(planes: base.Array, taps: base.Array, *, axis: int) -> base.Array:
    radius, size = taps.shape[0] // 2, planes.shape[axis]
    widths = [(radius, radius) if a == axis else (0, 0) for a in range(planes.ndim)]
    padded = jnp.pad(planes, widths)

    def shifted(by: int) -> base.Array:
        return lax.slice_in_dim(padded, radius + by, radius + by + size, axis=axis)

    total = planes * taps[radius]
    for by in range(1, radius + 1):
        total = total + (shifted(-by) + shifted(by)) * taps[radius + by]
    return total


def adjust_gaussian_blur(image: base.Array, sigma: base.Array | float, *, kernel_size: int) -> base.Array:
    """`image` [H, W, 3] convolved with a Gaussian of `sigma` pixels, cut off at `kernel_size // 2` pixels.

    Pixels outside the image count as 0, so borders darken. Float32 in and out, not clipped.

    Reference: google-research/simclr data_util.gaussian_blur (padding "SAME").

    Example:
        >>> augment.adjust_gaussian_blur(image, 1.0, kernel_size=4).shape
        (8, 10, 3)
    """
    image = pixels.as_float(image)
    return jnp.swapaxes(blur_planes(jnp.swapaxes(image, 1, 2), sigma, kernel_size=kernel_size), 1, 2)


def draw_sigma(key: base.Array) -> base.Array:
    """A standard deviation in pixels, float32, uniform in SIGMA_RANGE.

    Example:
        >>> 0.1 <= float(augment.draw_sigma(key)) < 2.0
        True
    """
    return jax.random.uniform(key, (), jnp.float32, *SIGMA_RANGE)


def random_gaussian_blur(key: base.Array, image: base.Array, *, probability: float = 0.5) -> base.Array:
    """`image` [H, W, 3], with `probability` blurred by a kernel of H // 10 pixels and a sigma ~ U[0.1, 2) pixels.

    Not clipped. Reference: google-research/simclr data_util.random_blur; the sigma is this image's own, see
    `views.make_simclr_views` for the reference's choice of one per view.

    Example:
        >>> augment.random_gaussian_blur(key, image).shape
        (8, 10, 3)
    """
    applied_key, sigma_key = jax.random.split(key)
    image = pixels.as_float(image)
    blurred = adjust_gaussian_blur(image, draw_sigma(sigma_key), kernel_size=kernel_size_for(image.shape[0]))
    return jnp.where(jax.random.bernoulli(applied_key, probability), blurred, image)
