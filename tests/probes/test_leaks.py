"""Near-duplicates: copies are found through compression, and different images are not copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from simclr_jax import base, probes


def _photos(count, *, seed=0, size=24):
    """Smooth random pictures, which JPEG keeps well."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, size // 4, size // 4, 1))).astype(np.uint8)


def _recompressed(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling=0)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("size", [24, 64])
def test_a_copy_is_found_through_compression(size):
    train, test = _photos(30, size=size), _photos(12, seed=1, size=size)
    test[4], test[9] = _recompressed(train[17]), train[2]
    assert probes.near_duplicates(train, test).tolist() == [[4, 17], [9, 2]]
    assert probes.near_duplicates(train, _photos(12, seed=1, size=size)).tolist() == []


def test_grey_images_among_coloured_ones_are_compared_by_one_rule():
    train, test = _photos(10), np.repeat(_photos(3, seed=2)[..., :1], 3, axis=-1)
    train[6] = test[1]
    assert probes.near_duplicates(train, test).tolist() == [[1, 6]]


def test_images_without_contrast_or_of_another_brightness_are_no_copies():
    train, test = _photos(5) // 2, _photos(5) // 2 + 60
    assert probes.near_duplicates(train, test).tolist() == []
    black = np.zeros((3, 24, 24, 3), np.uint8)
    assert probes.near_duplicates(black, black).tolist() == []
    assert probes.near_duplicates(black[:0], black).shape == (0, 2)
    with pytest.raises(base.InputError, match="images of one size"):
        probes.near_duplicates(black, black[:, :8])


def test_in_images_of_few_pixels_a_copy_has_to_be_nearer():
    train = _photos(4, size=8)
    near = np.clip(train[:2].astype(int) + np.asarray([3, 1])[:, None, None, None], 0, 255).astype(np.uint8)
    assert probes.near_duplicates(train, near).tolist() == [[1, 1]]
    assert probes.near_duplicates(train, near, mean_difference=4 / 255).tolist() == [[0, 0], [1, 1]]


def test_a_lower_correlation_finds_what_only_resembles():
    train = _photos(6)
    blurred = np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.BoxBlur(1))) for image in train[:2]])
    assert probes.near_duplicates(train, blurred).tolist() == []
    loose = probes.near_duplicates(train, blurred, correlation=0.5, mean_difference=1.0)
    assert loose.tolist() == [[0, 0], [1, 1]]
