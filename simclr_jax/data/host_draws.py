"""The crop windows of the views, drawn on the host: the numbers that `augment.draw_views` draws on the device.

JAX's default random numbers (threefry2x32, counters split as "partitionable" keys do) and the two crop samplers, again
in NumPy, so that threads and worker processes draw without JAX. A window is a function of (seed, step,
position in the global batch, view, size of the picture) alone, on any number of hosts and workers.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
NUM_ATTEMPTS = 100
# Of 16 attempts at least one is accepted, but for pictures longer than about 5:1; for those all are drawn.
_FIRST_ATTEMPTS = 16
_ASPECTS = (3 / 4, 4 / 3)
_MIN_COVERAGE = 0.1

Words = tuple[np.ndarray, np.ndarray]


class Boxes(NamedTuple):
    """Windows of pictures: corners (y, x) and extents, int32 arrays of one shape, in pixels."""

    y: np.ndarray
    x: np.ndarray
    height: np.ndarray
    width: np.ndarray


def fold_in(key: Words, number: np.ndarray | int) -> Words:
    """The key that `jax.random.fold_in` makes, and the one at place `number` of `jax.random.split`.

    A key is two uint32 arrays, its words; keys and numbers of different shapes are broadcast.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Threefry-2x32 of 20 rounds).
    """
    low = np.asarray(number).astype(np.uint32)
    key0, key1 = np.asarray(key[0], np.uint32), np.asarray(key[1], np.uint32)
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    shape = np.broadcast_shapes(key0.shape, low.shape)
    x0 = np.broadcast_to(key0, shape).copy()
    x1 = np.add(low, key1, dtype=np.uint32) + np.zeros(shape, np.uint32)
    with np.errstate(over="ignore"):  # of scalars; the sums are meant to wrap round
        for block in range(5):
            for rotation in _ROTATIONS[block % 2]:
                x0 += x1
                x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
                x1 ^= x0
            x0 += keys[(block + 1) % 3]
            x1 += keys[(block + 2) % 3] + np.uint32(block + 1)
    return x0, x1


def uniform(key: Words, places: np.ndarray) -> np.ndarray:
    """float32 in [0, 1) at `places` (int [n]) of `jax.random.uniform(key, (m,))`: keys [...] give [..., n]."""
    x0, x1 = fold_in((key[0][..., None], key[1][..., None]), places)
    bits = (x0 ^ x1) >> np.uint32(9)
    return (bits | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)


@functools.lru_cache(maxsize=8)
def _example_root(seed: int, step: int) -> Words:
    """The key below which every example of update `step` has its own; see `train_step.views_key` and `draw_views`."""
    run_key = np.asarray(seed >> 32, np.uint32), np.asarray(seed & 0xFFFFFFFF, np.uint32)
    return fold_in(fold_in(fold_in(run_key, step), 0), 0)


def draw_boxes(
    seed: int,
    step: int,
    *,
    positions: np.ndarray,
    sizes: np.ndarray,
    num_views: int,
    min_scale: float,
    sampler: str = "reference",
) -> Boxes:
    """The windows of all views of some pictures of a batch: arrays [n, num_views].

    Args:
        seed: of the run.
        step: 0-based number of the update.
        positions: int [n], places in the global batch.
        sizes: int [n, 2], (height, width) of the pictures, whole.
        num_views: V.
        min_scale: `crop_min_scale` of the views.
        sampler: `crop_sampler` of the views, "reference" or "torchvision".

    Reference: `augment.draw_views`, which gives the same windows on a device; float32 throughout. Those of torchvision
    rest on an exponential, by whose last bit one window in some 200,000 differs by a pixel between devices.
    """
    root = _example_root(seed, step)
    examples = fold_in(root, np.asarray(positions))
    views = fold_in((examples[0][:, None], examples[1][:, None]), np.arange(num_views))
    box_keys = fold_in(views, 0)
    height, width = (np.repeat(np.asarray(sizes)[:, [axis]], num_views, axis=1).astype(np.int32) for axis in (0, 1))
    if sampler == "torchvision":
        return _torchvision_boxes(box_keys, height, width, min_scale=min_scale)
    boxes, found = _first_accepted(box_keys, height, width, attempts=_FIRST_ATTEMPTS, min_scale=min_scale)
    if not found.all():
        rest = ~found
        keys = box_keys[0][rest], box_keys[1][rest]
        late, _ = _first_accepted(keys, height[rest], width[rest], attempts=NUM_ATTEMPTS, min_scale=min_scale)
        for array, values in zip(boxes, late, strict=True):
            array[rest] = values
    return boxes


def _first_accepted(
    keys: Words, height: np.ndarray, width: np.ndarray, *, attempts: int, min_scale: float
) -> tuple[Boxes, np.ndarray]:
    """(the windows of the first accepted attempts, or the whole picture; whether one was)."""
    places = np.concatenate([[0, 1], 2 + np.arange(attempts), 2 + NUM_ATTEMPTS + np.arange(attempts)])
    u = uniform(keys, places)
    # Product and sum are rounded once, as compilers for devices fuse them.
    spread = float(np.float32(_ASPECTS[1] - _ASPECTS[0]))
    aspect = (_ASPECTS[0] + u[..., 2 : 2 + attempts].astype(np.float64) * spread).astype(np.float32)
    heights, widths, accepted = _extents(aspect, u[..., 2 + attempts :], height[..., None], width[..., None], min_scale)
    first, found = accepted.argmax(axis=-1)[..., None], accepted.any(axis=-1)
    crop_height = np.where(found, np.take_along_axis(heights, first, -1)[..., 0], height)
    crop_width = np.where(found, np.take_along_axis(widths, first, -1)[..., 0], width)
    y = np.floor(u[..., 0] * (height - crop_height).astype(np.float32)).astype(np.int32)
    x = np.floor(u[..., 1] * (width - crop_width).astype(np.float32)).astype(np.int32)
    return Boxes(y, x, crop_height, crop_width), np.asarray(found)


def _extents(
    aspect: np.ndarray, u: np.ndarray, height: np.ndarray, width: np.ndarray, min_scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(crop heights, crop widths, accepted) of attempts; see `augment.crop.candidate_extent`, line by line."""

    def width_of(crop_height: np.ndarray) -> np.ndarray:
        return np.rint(crop_height.astype(np.float32) * aspect).astype(np.int32)

    image_area = (height * width).astype(np.float32)
    min_area, max_area = np.float32(min_scale) * image_area, np.float32(1.0) * image_area
    tallest = np.rint(np.sqrt(max_area / aspect)).astype(np.int32)
    fitting = np.floor((width.astype(np.float32) + np.float32(0.5 - 1e-7)) / aspect).astype(np.int32)
    fitting = fitting - (width_of(fitting) > width)
    tallest = np.minimum(np.where(width_of(tallest) > width, fitting, tallest), height)
    lowest = np.minimum(np.rint(np.sqrt(min_area / aspect)).astype(np.int32), tallest)
    crop_height = lowest + np.floor(u * (tallest - lowest + 1).astype(np.float32)).astype(np.int32)
    crop_height = crop_height + ((crop_height * width_of(crop_height)).astype(np.float32) < min_area)
    crop_height = crop_height - ((crop_height * width_of(crop_height)).astype(np.float32) > max_area)
    crop_width = width_of(crop_height)
    area = (crop_height * crop_width).astype(np.float32)
    accepted = (
        (area >= min_area)
        & (area <= max_area)
        & (crop_height <= height)
        & (crop_width <= width)
        & (np.minimum(crop_height, crop_width) > 0)
        & (area >= np.float32(_MIN_COVERAGE) * image_area)
    )
    return crop_height, crop_width, accepted


def _torchvision_boxes(keys: Words, height: np.ndarray, width: np.ndarray, *, min_scale: float) -> Boxes:
    """See `augment.draw_crop_box_torchvision`, line by line."""
    attempts = 10
    u = uniform(keys, np.arange(2 * attempts + 2)).astype(np.float64)
    tall, wide = (side.astype(np.float32)[..., None] for side in (height, width))
    # Products and sums are rounded once, as compilers for devices fuse them.
    share = (np.float32(min_scale) + u[..., 2 : attempts + 2] * float(np.float32(1 - min_scale))).astype(np.float32)
    low, high = math.log(_ASPECTS[0]), math.log(_ASPECTS[1])
    exponent = (np.float32(low) + u[..., attempts + 2 :] * float(np.float32(high - low))).astype(np.float32)
    area, aspect = tall * wide * share, np.exp(exponent.astype(np.float64)).astype(np.float32)
    heights, widths = (np.rint(np.sqrt(x)).astype(np.int32) for x in (area / aspect, area * aspect))
    fits = (heights > 0) & (widths > 0) & (heights <= height[..., None]) & (widths <= width[..., None])
    first, found = fits.argmax(axis=-1)[..., None], fits.any(axis=-1)
    central_height = np.minimum(np.rint(wide[..., 0] / np.float32(_ASPECTS[0])).astype(np.int32), height)
    central_width = np.minimum(np.rint(tall[..., 0] * np.float32(_ASPECTS[1])).astype(np.int32), width)
    crop_height = np.where(found, np.take_along_axis(heights, first, -1)[..., 0], central_height)
    crop_width = np.where(found, np.take_along_axis(widths, first, -1)[..., 0], central_width)
    offsets = []
    for place, slack in enumerate((height - crop_height, width - crop_width)):
        drawn = np.floor(u[..., place].astype(np.float32) * (slack + 1).astype(np.float32)).astype(np.int32)
        offsets.append(np.where(found, np.minimum(drawn, slack), slack // 2))
    return Boxes(offsets[0], offsets[1], crop_height, crop_width)


def center_boxes(sizes: np.ndarray, *, fraction: float) -> Boxes:
    """The central squares that keep `fraction` of the shorter sides: arrays [n]. See `augment.center_crop_box`."""
    height, width = np.asarray(sizes, np.int32).T
    side = np.rint(np.float32(fraction) * np.minimum(height, width).astype(np.float32)).astype(np.int32)
    return Boxes((height - side + 1) // 2, (width - side + 1) // 2, side, side)
