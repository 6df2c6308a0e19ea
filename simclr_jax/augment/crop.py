"""Geometry: which window of an image a view shows, and how the window becomes `out_size` pixels (`resizing`)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.augment import pixels, resizing

SAMPLERS = ("reference", "torchvision")


class CropBox(NamedTuple):
    """A window of an image: top left corner (y, x) and extent, int32 scalars (or [B] when batched), in pixels."""

    y: base.Array
    x: base.Array
    height: base.Array
    width: base.Array


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
    # The coverage as a product: compilers make a division another one, and crops of just `min_coverage` show it.
    accepted = (
        (area >= min_area)
        & (area <= max_area)
        & (crop_height <= height)
        & (crop_width <= width)
        & (jnp.minimum(crop_height, crop_width) > 0)
        & (area >= min_coverage * image_area)
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

    Example:
        >>> box = augment.draw_crop_box(key, height=8, width=10)
        >>> 0 <= int(box.y) and int(box.y + box.height) <= 8
        True
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


def draw_crop_box_torchvision(
    key: base.Array,
    *,
    height: base.Array | int,
    width: base.Array | int,
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
    num_attempts: int = 10,
) -> CropBox:
    """A random crop window as torchvision draws it; `height` and `width` may be traced int32 scalars.

    Area (uniform) and aspect ratio (uniform in its logarithm) are drawn until the window fits, at most
    `num_attempts` times; every offset is equally likely. If no attempt fits, the window is the largest central one
    with an aspect ratio in the range. All attempts are drawn at once and the first that fits is taken.

    Reference: torchvision.transforms.RandomResizedCrop.get_params. Differs in the random numbers only.

    Example:
        >>> box = augment.draw_crop_box_torchvision(key, height=8, width=10)
        >>> 0 <= int(box.y) and int(box.y + box.height) <= 8
        True
    """
    height, width = jnp.asarray(height, jnp.int32), jnp.asarray(width, jnp.int32)
    tall, wide = height.astype(jnp.float32), width.astype(jnp.float32)
    u = jax.random.uniform(key, (2 * num_attempts + 2,))
    area = tall * wide * (area_range[0] + u[2 : num_attempts + 2] * (area_range[1] - area_range[0]))
    low, high = math.log(aspect_range[0]), math.log(aspect_range[1])
    aspect = jnp.exp(low + u[num_attempts + 2 :] * (high - low))
    heights, widths = (jnp.rint(jnp.sqrt(x)).astype(jnp.int32) for x in (area / aspect, area * aspect))
    fits = (heights > 0) & (widths > 0) & (heights <= height) & (widths <= width)
    first, found = jnp.argmax(fits), jnp.any(fits)
    central_height = jnp.minimum(jnp.rint(wide / aspect_range[0]).astype(jnp.int32), height)
    central_width = jnp.minimum(jnp.rint(tall * aspect_range[1]).astype(jnp.int32), width)
    crop_height = jnp.where(found, heights[first], central_height)
    crop_width = jnp.where(found, widths[first], central_width)
    slack = jnp.stack([height - crop_height, width - crop_width])
    drawn = jnp.floor(u[:2] * (slack + 1).astype(jnp.float32)).astype(jnp.int32)
    offset = jnp.where(found, jnp.minimum(drawn, slack), slack // 2)
    return CropBox(offset[0], offset[1], crop_height, crop_width)


def center_crop_box(
    height: base.Array | int, width: base.Array | int, *, fraction: float = 0.875, aspect: float = 1.0
) -> CropBox:
    """The central window that keeps `fraction` of the image's shorter side (for `aspect` = width / height = 1).

    `height` and `width` may be traced int32 scalars.

    Reference: google-research/simclr data_util.center_crop, after its fix of December 2021 (aspect not inverted).

    Example:
        >>> [int(value) for value in augment.center_crop_box(100, 200)]
        [6, 56, 88, 88]
    """
    height, width = jnp.asarray(height, jnp.int32), jnp.asarray(width, jnp.int32)
    tall, wide = height.astype(jnp.float32), width.astype(jnp.float32)
    narrow_image = aspect > wide / tall
    crop_height = jnp.rint(jnp.where(narrow_image, fraction / aspect * wide, fraction * tall)).astype(jnp.int32)
    crop_width = jnp.rint(jnp.where(narrow_image, fraction * wide, fraction * aspect * tall)).astype(jnp.int32)
    return CropBox((height - crop_height + 1) // 2, (width - crop_width + 1) // 2, crop_height, crop_width)


def crop_planes(
    planes: base.Array,
    box: CropBox | None,
    flip: base.Array | bool = False,
    *,
    out_size: tuple[int, int],
    resize: str = "tf2",
    product: resizing.ResizePlanes = resizing.resize_planes,
) -> base.Array:
    """`adjust_crop` in planes: float [H, 3, W] -> float32 [h, 3, w], mirrored left to right where `flip`.

    `product` is `resize_planes` or `resize_planes_banded`. Without a box the planes are the crop already.
    """
    height, _, width = planes.shape
    if box is None:
        return jnp.where(jnp.asarray(flip, jnp.bool_), planes[..., ::-1], planes)
    rows = resizing.resize_weights(box.y, box.height, source_size=height, out_size=out_size[0], resize=resize)
    columns = resizing.resize_weights(
        box.x, box.width, source_size=width, out_size=out_size[1], resize=resize, flip=flip
    )
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

    Example:
        >>> box = augment.center_crop_box(8, 10)
        >>> augment.adjust_crop(image, box, size=4).shape
        (4, 4, 3)
    """
    planes = resizing.to_planes(pixels.as_float(image))
    return resizing.from_planes(crop_planes(planes, box, out_size=pixels.size_pair(size), resize=resize))


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

    Example:
        >>> augment.random_resized_crop(key, image, size=6).shape
        (6, 6, 3)
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
