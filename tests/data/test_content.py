"""Pictures without information are told; pictures with it are not."""

import numpy as np
import pytest

from simclr_jax.data import content, decode

RNG = np.random.default_rng(0)


def _look(pixels, levels=None, has_more=False):
    canvas = np.zeros((24, 24, 3), np.uint8)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    return content.look_at(decode.Picture(pixels, levels, has_more), canvas, pixels.shape[:2])


def _noise(low=0, high=256):
    return RNG.integers(low, high, (16, 20, 3)).astype(np.uint8)


def _tell(contents):
    return content.describe(contents, [f"file{index}" for index in range(len(contents))])


def test_ordinary_pictures_say_nothing():
    assert _tell([_look(_noise()) for _ in range(20)]) == ()


def test_pictures_of_one_colour_are_named():
    flat = np.broadcast_to(np.uint8([200, 10, 90]), (16, 20, 3))
    almost = flat + RNG.integers(0, 3, (16, 20, 3)).astype(np.uint8)
    told = _tell([_look(_noise()), _look(flat), _look(_noise()), _look(almost)])
    assert told == ("2 of 4 images (file1, file3) are of a single colour, with nothing to learn from",)


def test_a_split_of_12_bit_levels_read_as_16_bits_is_told_twice():
    # Levels 0 to 4095 of 65535 are 0 to 16 of 255.
    contents = [_look(_noise(0, 17), (0.0, 4095.0, 0.0, 65535.0)) for _ in range(9)]
    narrow, levels = _tell(contents)
    assert "9 of 9 images (file0, file1, file2, ...) are nearly of a single colour" in narrow
    assert "levels from 0 to 4095, shown as 0 = black to 65535 = white: set sixteen_bit_range=(0,4095)" in levels


@pytest.mark.parametrize(
    ("levels", "is_told"),
    [
        ((0.0, 60000.0, 0.0, 65535.0), False),
        ((20000.0, 60000.0, 0.0, 65535.0), False),
        ((0.0, 255.0, 0.0, 1.0), True),
        ((-1000.0, 60000.0, 0.0, 65535.0), True),
        ((0.0, 0.9, 0.0, 1.0), False),
    ],
)
def test_a_range_that_does_not_fit_the_levels_is_told(levels, is_told):
    assert bool(_tell([_look(_noise(), levels)])) is is_told


def test_a_few_dark_pictures_among_others_are_not_told():
    assert _tell([_look(_noise(0, 20))] + [_look(_noise()) for _ in range(3)]) == ()


def test_many_copies_are_told_and_a_few_are_not():
    one = _noise()
    many = [_look(_noise()) for _ in range(150)]
    assert _tell([*many, _look(one), _look(one)]) == ()
    (told,) = _tell([*many[:50], _look(one), _look(one)])
    assert told == "1 of 52 images are exact copies of another one (file51 = file50)"
    (told,) = _tell([_look(one)] * 5)
    assert told.startswith("all the same picture: 4 of 5 images are exact copies")


def test_equal_pixels_of_other_sizes_are_no_copies():
    black = np.zeros((16, 20, 3), np.uint8)
    assert _look(black).digest != _look(black.transpose(1, 0, 2)).digest


def test_files_with_further_pages_are_named():
    (told,) = _tell([_look(_noise(), has_more=True), _look(_noise())])
    assert told.startswith("1 of 2 images (file0) are the first of several pages or frames")
