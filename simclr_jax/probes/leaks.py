"""Test images that are training images too, or nearly: scores on them tell what was memorised."""

import numpy as np

from simclr_jax import base
from simclr_jax.probes import baselines, nearest

_MEAN_DIFFERENCE = 6 / 255
# Of few pixels many images look alike: below so many a side a copy has to be nearer.
_SMALL_SIDE, _MEAN_DIFFERENCE_SMALL = 16, 2 / 255
# An image with less contrast than this is like any other of its brightness.
_LEAST_CONTRAST = 4 / 255


def near_duplicates(
    train_images: np.ndarray,
    test_images: np.ndarray,
    *,
    correlation: float = 0.99,
    mean_difference: float | None = None,
) -> np.ndarray:
    """Pairs (test row, training row) of images that are the same but for compression: int64 [K, 2], by test row.

    Both are reduced to at most 32x32. Of every test image only the training image that correlates most is looked
    at. Images of almost no contrast take no part. Mirrored, rotated or otherwise cropped copies are not found.

    Args:
        train_images: uint8 [N, h, w, 3], evaluation views, or what `small_images` kept of them.
        test_images: uint8 [M, h, w, 3], or the same.
        correlation: of the pixels of a pair, at least; -1 to 1.
        mean_difference: of the pixels of a pair, at most, for values in [0, 1]; None for 6/255, or 2/255 in images
            below 16 pixels, where many look alike.

    Raises:
        InputError: the two have images of different sizes.

    Example:
        >>> one = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
        >>> probes.near_duplicates(one, one[2:]).tolist()
        [[0, 2]]
    """
    if train_images.shape[1:] != test_images.shape[1:]:
        raise base.InputError(
            f"near_duplicates compares images of one size; got {train_images.shape[1:]} and {test_images.shape[1:]}. "
            "Use evaluation views of the same size."
        )
    if not len(train_images) or not len(test_images):
        return np.zeros((0, 2), np.int64)
    # Together, so that grey images are told by one rule.
    pixels = baselines.pixel_features(np.concatenate([train_images, test_images]))
    train, test = pixels[: len(train_images)], pixels[len(train_images) :]
    similarities, rows = nearest.neighbors(_centred(train), _centred(test), k=1)
    rows = rows[:, 0].astype(np.int64)
    alike = (similarities[:, 0] >= correlation) & (test.std(axis=1) >= _LEAST_CONTRAST)
    if mean_difference is None:
        is_small = min(test_images.shape[1:3]) < _SMALL_SIDE
        mean_difference = _MEAN_DIFFERENCE_SMALL if is_small else _MEAN_DIFFERENCE
    alike &= np.abs(test - train[rows]).mean(axis=1) <= mean_difference
    found = np.flatnonzero(alike)
    return np.stack([found, rows[found]], axis=1)


def _centred(pixels: np.ndarray) -> np.ndarray:
    return pixels - pixels.mean(axis=1, keepdims=True)
