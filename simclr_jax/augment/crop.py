"""Geometry: which window of an image a view shows, and how the window becomes `out_size` pixels.

Cropping, resizing and flipping are one linear map per axis, so a view is two matrix products (`resize_weights`):
no gathers, the same code on CPU, GPU and TPU. Colours belong to color.py.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax import base
from simclr_jax.augment import pixels

# Channel axis of the working layout [H, 3, W]: rows of separate colour planes. Both resize products are plain
# matrix products in this layout, and pixel arithmetic runs along contiguous memory.
PLANES_AXIS = 1

# Cubic parameter and source coordinate convention of the two releases of the reference.
_CUBIC_PARAMETER = {"tf2": -0.5, "tf1": -0.75}
_TABLE_STEPS = 1024.0

# Output pixels that one narrow product makes in `resize_planes_banded`; much smaller and larger blocks were slower.
BLOCK = 32

ResizePlanes = Callable[[base.Array, base.Array, base.Array], base.Array]


class CropBox(NamedTuple):
    """A window of an image: top left corner (y, x) and extent, int32 scalars (or [B] when batched), in pixels."""

    y: base.Array
    x: base.Array
    height: base.Array
    width: base.Array


def check_resize(resize: str) -> None:
    """Raises InputError unless `resize` names a known bicubic kernel."""
    base.check_choice(resize, _CUBIC_PARAMETER, name="resize", remedy="Use 'tf2'.")


def candidate_extent(
    aspect: base.Array,
    u: base.Array,
    *,
    height: base.Array,
    width: base.Array,
    area_range: tuple[float, float],
    min_coverage: float,
) -> tuple[base.Array, base.Array, base.Array]:
    """One attempt of the crop sampler without its random part.

    Args:
        aspect: float32, proposed width / height of the crop.
        u: float32 in [0, 1), picks the crop height from the integers that the area range allows.
        height, width: int32, extent of the image.
        area_range: smallest and largest crop area as a fraction of the image.
        min_coverage: crops below this fraction of the image are rejected.

    Returns:
        (crop height int32, crop width int32, accepted bool), shaped like `aspect`.

    Reference: TensorFlow's sample_distorted_bounding_box (GenerateRandomCrop) with the whole image as the only box.
    """

    def width_of(crop_height: base.Array) -> base.Array:
        return jnp.rint(crop_height.astype(jnp.float32) * aspect).astype(jnp.int32)

    image_area = (height * width).astype(jnp.float32)
    min_area, max_area = area_range[0] * image_area, area_range[1] * image_area
    tallest = jnp.rint(jnp.sqrt(max_area / aspect)).astype(jnp.int32)
    fitting = jnp.floor((width.astype(jnp.float32) + (0.5 - 1e-7)) / aspect).astype(jnp.int32)
    fitting = fitting - (width_of(fitting) > width).astype(jnp.int32)
    tallest = jnp.minimum(jnp.where(width_of(tallest) > width, fitting, tallest), height)
    lowest = jnp.minimum(jnp.rint(jnp.sqrt(min_area / aspect)).astype(jnp.int32), tallest)
    crop_height = lowest + jnp.floor(u * (tallest - lowest + 1).astype(jnp.float32)).astype(jnp.int32)

    # Rounding may leave the area just outside its range: one pixel more, then one pixel less, is tried.
    too_small = (crop_height * width_of(crop_height)).astype(jnp.float32) < min_area
    crop_height = crop_height + too_small.astype(jnp.int32)
    too_large = (crop_height * width_of(crop_height)).astype(jnp.float32) > max_area
    crop_height = crop_height - too_large.astype(jnp.int32)
    crop_width = width_of(crop_height)
    area = (crop_height * crop_width).astype(jnp.float32)
    accepted = (
        (area >= min_area)
        & (area <= max_area)
        & (crop_height <= height)
        & (crop_width <= width)
        & (jnp.minimum(crop_height, crop_width) > 0)
        & (area / image_area >= min_coverage)
    )
    return crop_height, crop_width, accepted


def draw_crop_box(
    key: base.Array,
    *,
    height: base.Array | int,
    width: base.Array | int,
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
    min_coverage: float = 0.1,
    num_attempts: int = 100,
) -> CropBox:
    """A random crop window as the reference draws it; `height` and `width` may be traced int32 scalars.

    The aspect ratio is uniform, then the crop HEIGHT is a uniform integer, then the offset is a uniform integer whose
    last legal value is never drawn. Attempts below `min_coverage` of the image area are rejected, so with the
    defaults crops cover 10 to 100 % of the image. If every attempt fails the window is the whole image.

    All attempts are drawn at once and the first accepted one is taken, which has the same distribution as trying one
    after the other and needs no loop. One attempt fails with probability about 0.06 for images up to 2:1 (the
    fallback then has probability 0.06**100) and about 0.75 at 10:1 (1e-12 for 100 attempts).

    Args:
        aspect_range: width / height of the window; for targets that are not square multiply it by the target's.

    Reference: SimCLR, appendix A "random crop and resize"; google-research/simclr data_util.crop_and_resize. Differs
    in the random numbers only.
    """
    height, width = jnp.asarray(height, jnp.int32), jnp.asarray(width, jnp.int32)
    u = jax.random.uniform(key, (2 * num_attempts + 2,))
    aspect = aspect_range[0] + u[2 : num_attempts + 2] * (aspect_range[1] - aspect_range[0])
    heights, widths, accepted = candidate_extent(
        aspect, u[num_attempts + 2 :], height=height, width=width, area_range=area_range, min_coverage=min_coverage
    )
    first, found = jnp.argmax(accepted), jnp.any(accepted)
    crop_height = jnp.where(found, heights[first], height)
    crop_width = jnp.where(found, widths[first], width)
    # floor(u * slack) is at most slack - 1, which leaves out the last legal offset as the reference does.
    slack = jnp.stack([height - crop_height, width - crop_width])
    offset = jnp.floor(u[:2] * slack.astype(jnp.float32)).astype(jnp.int32)
    return CropBox(offset[0], offset[1], crop_height, crop_width)


def center_crop_box(
    height: base.Array | int, width: base.Array | int, *, fraction: float = 0.875, aspect: float = 1.0
) -> CropBox:
    """The central window that keeps `fraction` of the image's shorter side (for `aspect` = width / height = 1).

    `height` and `width` may be traced int32 scalars.

    Reference: google-research/simclr data_util.center_crop, after its fix of December 2021 (aspect not inverted).
    """
    height, width = jnp.asarray(height, jnp.int32), jnp.asarray(width, jnp.int32)
    tall, wide = height.astype(jnp.float32), width.astype(jnp.float32)
    narrow_image = aspect > wide / tall
    crop_height = jnp.rint(jnp.where(narrow_image, fraction / aspect * wide, fraction * tall)).astype(jnp.int32)
    crop_width = jnp.rint(jnp.where(narrow_image, fraction * wide, fraction * aspect * tall)).astype(jnp.int32)
    return CropBox((height - crop_height + 1) // 2, (width - crop_width + 1) // 2, crop_height, crop_width)


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


def crop_planes(
    planes: base.Array,
    box: CropBox,
    flip: base.Array | bool = False,
    *,
    out_size: tuple[int, int],
    resize: str = "tf2",
    product: ResizePlanes = resize_planes,
) -> base.Array:
    """`adjust_crop` in planes: float [H, 3, W] -> float32 [h, 3, w], mirrored left to right where `flip`.

    `product` is `resize_planes` or `resize_planes_banded`.
    """
    height, _, width = planes.shape
    rows = resize_weights(box.y, box.height, source_size=height, out_size=out_size[0], resize=resize)
    columns = resize_weights(box.x, box.width, source_size=width, out_size=out_size[1], resize=resize, flip=flip)
    return product(planes, rows, columns)


def adjust_crop(image: base.Array, box: CropBox, *, size: int | tuple[int, int], resize: str = "tf2") -> base.Array:
    """Cuts `box` out of `image` and resizes it: [H, W, 3] -> float32 [h, w, 3].

    Bicubic interpolation overshoots, so values may leave [0, 1] by about 0.1; they are NOT clipped here.

    Args:
        image: uint8 in [0, 255] or float in [0, 1].
        box: the window, see `draw_crop_box` and `center_crop_box`.
        size: (height, width) of the result in pixels, or one number for a square.
        resize: "tf2" or "tf1", see `resize_weights`.

    Raises:
        InputError: unknown `resize`, a size below 1, or an image of another type.
    """
    planes = to_planes(pixels.as_float(image))
    return from_planes(crop_planes(planes, box, out_size=pixels.size_pair(size), resize=resize))


def random_resized_crop(
    key: base.Array,
    image: base.Array,
    *,
    size: int | tuple[int, int],
    area_range: tuple[float, float] = (0.08, 1.0),
    resize: str = "tf2",
) -> base.Array:
    """A random window of an image, resized: [H, W, 3] -> float32 [h, w, 3], not clipped (see `adjust_crop`).

    For the window itself draw it by `draw_crop_box` and apply it by `adjust_crop`.

    Args:
        key: a random key.
        image: uint8 in [0, 255] or float in [0, 1].
        size: (height, width) of the result in pixels, or one number for a square.
        area_range: smallest and largest window as a fraction of the image; below 10 % is rejected in any case.
        resize: "tf2" or "tf1", see `resize_weights`.

    Raises:
        InputError: as for `adjust_crop`.

    Reference: google-research/simclr data_util.random_crop_with_resize. Not torchvision's RandomResizedCrop, whose
    windows and resizing differ.
    """
    height, width = pixels.size_pair(size)
    target = width / height
    box = draw_crop_box(
        key,
        height=image.shape[0],
        width=image.shape[1],
        area_range=area_range,
        aspect_range=(3 / 4 * target, 4 / 3 * target),
    )
    return adjust_crop(image, box, size=size, resize=resize)
