"""Bicubic resizing as two matrix products, with the reference's two kernels.

Cropping, resizing and mirroring are one linear map an axis (`resize_weights`): no gathers, the same code on any device.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from simclr_jax import base

# Channel axis of the working layout [H, 3, W]: rows of separate colour planes. Both resize products are plain
# matrix products in this layout, and pixel arithmetic runs along contiguous memory.
PLANES_AXIS = 1

# Cubic parameter and source coordinate convention of the two releases of the reference.
_CUBIC_PARAMETER = {"tf2": -0.5, "tf1": -0.75}
_TABLE_STEPS = 1024.0

# Output pixels that one narrow product makes in `resize_planes_banded`; much smaller and larger blocks were slower.
BLOCK = 32

ResizePlanes = Callable[[base.Array, base.Array, base.Array], base.Array]


def check_resize(resize: str) -> None:
    """Raises InputError unless `resize` names a known bicubic kernel."""
    base.check_choice(resize, _CUBIC_PARAMETER, name="resize", remedy="Use 'tf2'.")


def resize_weights(
    offset: base.Array | int,
    extent: base.Array | int,
    *,
    source_size: int,
    out_size: int,
    resize: str = "tf2",
    flip: base.Array | bool = False,
) -> base.Array:
    """The matrix, float32 [out_size, source_size], that resizes `extent` source pixels from `offset` on.

    Bicubic interpolation without anti-aliasing; rows sum to 1. Pixels outside the window do not contribute, as if the
    window had been cut out first. `offset`, `extent` and `flip` may be traced scalars; `flip` mirrors the output.

    resize="tf2": Keys' kernel (a = -0.5), pixel centres at half integers, taps outside the window dropped and the
    others renormalised. resize="tf1" (all released checkpoints were trained with it): a = -0.75, no half-pixel shift,
    taps outside the window repeat its edge pixel.

    Reference: TensorFlow's ResizeBicubic kernel, including its rounding of the position to 1/1024 pixel.

    Example:
        >>> augment.resize_weights(0, 8, source_size=8, out_size=4).shape
        (4, 8)
    """
    check_resize(resize)
    extent = jnp.asarray(extent, jnp.int32)
    row = lax.iota(jnp.int32, out_size)
    row = jnp.where(jnp.asarray(flip, jnp.bool_), out_size - 1 - row, row).astype(jnp.float32)
    # The reference rounds the scale, the product and the difference to float32 each. Positions close to a tie of the
    # 1/1024 rounding show any other order, so the divisor is hidden from the compiler (it would multiply by the
    # reciprocal) and the maximum keeps it from fusing the product with the next sum.
    scale = extent.astype(jnp.float32) / lax.optimization_barrier(jnp.float32(out_size))
    half = 0.5 if resize == "tf2" else 0.0
    position = jnp.maximum((row + half) * scale, 0.0) - half
    whole = jnp.floor(position)
    fraction = jnp.rint((position - whole) * _TABLE_STEPS) * (1 / _TABLE_STEPS)
    taps = _cubic_taps(fraction, _CUBIC_PARAMETER[resize])
    index = whole.astype(jnp.int32)[:, None] + jnp.arange(-1, 3, dtype=jnp.int32)
    if resize == "tf2":
        taps = jnp.where((index >= 0) & (index < extent), taps, 0.0)
        taps = taps / jnp.sum(taps, axis=1, keepdims=True)
    else:
        index = jnp.clip(index, 0, extent - 1)
    index = index + jnp.asarray(offset, jnp.int32)
    source = lax.iota(jnp.int32, source_size)[None, :]
    placed = [jnp.where(source == index[:, k : k + 1], taps[:, k : k + 1], 0.0) for k in range(4)]
    return (placed[0] + placed[1]) + (placed[2] + placed[3])


def _cubic_taps(fraction: base.Array, a: float) -> base.Array:
    """Weights, float32 [n, 4], of the pixels at distances 1 + f, f, 1 - f and 2 - f; factored to avoid cancellation."""
    f, g = fraction, 1.0 - fraction

    def near(t: base.Array) -> base.Array:
        return ((a + 2) * t - (a + 3)) * t * t + 1.0

    return jnp.stack([a * f * g * g, near(f), near(g), a * g * f * f], axis=1)


def to_planes(image: base.Array) -> base.Array:
    """[H, W, 3] -> [H, 3, W], the working layout of the view recipes."""
    return jnp.swapaxes(image, 1, 2)


def from_planes(planes: base.Array) -> base.Array:
    """[H, 3, W] -> [H, W, 3]."""
    return jnp.swapaxes(planes, 1, 2)


def resize_planes(planes: base.Array, rows: base.Array, columns: base.Array) -> base.Array:
    """Applies `rows` [h, H] and `columns` [w, W] to an image in planes [H, 3, W]; returns float32 [h, 3, w]."""
    height, channels, width = planes.shape
    tall = jnp.matmul(rows, planes.reshape(height, channels * width), precision=lax.Precision.HIGHEST)
    wide = jnp.matmul(tall.reshape(-1, width), columns.T, precision=lax.Precision.HIGHEST)
    return wide.reshape(rows.shape[0], channels, columns.shape[0])


def resize_planes_banded(planes: base.Array, rows: base.Array, columns: base.Array) -> base.Array:
    """`resize_planes` for matrices of `resize_weights`, leaving out most of their zeros.

    A block of output pixels reads few source pixels, so it is a product with a narrow window of the source: a quarter
    of the arithmetic at 224 pixels. The windows' places are data, which suits a loop over images and not `vmap`.
    """
    height, channels, width = planes.shape
    lines = planes.reshape(height, channels * width)
    tall = jnp.concatenate(
        [
            jnp.matmul(band, lax.dynamic_slice_in_dim(lines, start, band.shape[1]), precision=lax.Precision.HIGHEST)
            for band, start in _bands(rows)
        ]
    ).reshape(-1, width)
    wide = jnp.concatenate(
        [
            jnp.matmul(
                lax.dynamic_slice_in_dim(tall, start, band.shape[1], axis=1), band.T, precision=lax.Precision.HIGHEST
            )
            for band, start in _bands(columns)
        ],
        axis=1,
    )
    return wide.reshape(rows.shape[0], channels, columns.shape[0])


def _bands(weights: base.Array) -> list[tuple[base.Array, base.Array | int]]:
    """`weights` [out, source] as blocks of rows cut to the columns they use: [(block, its first column), ...]."""
    out_size, source_size = weights.shape
    # A window is at most the whole source, so neighbouring rows are at most source / out pixels apart; four taps.
    band_size = math.ceil((BLOCK - 1) * source_size / out_size) + 5
    if out_size % BLOCK or 2 * band_size > source_size:
        return [(weights, 0)]
    bands: list[tuple[base.Array, base.Array | int]] = []
    for top in range(0, out_size, BLOCK):
        block = weights[top : top + BLOCK]
        first = jnp.argmax(jnp.any(block != 0, axis=0)).astype(jnp.int32)
        start = jnp.minimum(first, source_size - band_size)
        bands.append((lax.dynamic_slice_in_dim(block, start, band_size, axis=1), start))
    return bands
