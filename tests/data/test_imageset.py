"""Canvas arithmetic, and what a fingerprint sees."""

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.data import imageset


def _image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8), (3, 5), (1, 8), (8, 1), (1, 1)])
def test_an_image_within_the_canvas_is_copied_unchanged(shape):
    image = _image(*shape)
    canvas, size = imageset.fit_to_canvas(image, 8)
    assert size == shape
    assert canvas.shape == (8, 8, 3)
    np.testing.assert_array_equal(canvas[: shape[0], : shape[1]], image)
    assert canvas.sum() == image.sum(dtype=np.int64)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((341, 256), (96, 72)), ((256, 341), (72, 96)), ((97, 97), (96, 96)), ((1000, 1), (96, 1)), ((1, 9000), (1, 96))],
)
def test_a_larger_image_is_shrunk_until_its_long_side_fits(shape, expected):
    image = np.full((*shape, 3), 200, np.uint8)
    canvas, size = imageset.fit_to_canvas(image, 96)
    assert size == expected
    assert (canvas[: size[0], : size[1]] == 200).all()
    assert canvas[size[0] :].sum() == 0
    assert canvas[:, size[1] :].sum() == 0


def test_shrinking_is_antialiased():
    # A checkerboard of single pixels has no content which a quarter of the resolution could hold.
    rows, columns = np.indices((128, 128))
    board = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    canvas, _ = imageset.fit_to_canvas(board, 32)
    assert np.abs(canvas[2:-2, 2:-2].astype(int) - 127.5).max() <= 2


def test_shrinking_averages_blocks_of_a_smooth_picture():
    ramp = np.linspace(0, 255, 128)
    picture = np.repeat((ramp[:, None] * 0.5 + ramp[None, :] * 0.5)[..., None], 3, axis=-1).round().astype(np.uint8)
    canvas, _ = imageset.fit_to_canvas(picture, 32)
    expected = picture.astype(float).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    # Rounding and the window's width at the border: two levels.
    assert np.abs(canvas - expected).max() <= 2


def _set(**changes):
    fields = {
        "images": np.stack([_image(4, 4, seed) for seed in range(3)]),
        "labels": np.asarray([0, 1, 1]),
        "class_names": ("a", "b"),
        "ids": ("x", "y", "z"),
    } | changes
    return imageset.make_image_set(
        fields["images"], fields["labels"], class_names=fields["class_names"], ids=fields["ids"]
    )


def test_fingerprint_depends_on_every_part_and_on_nothing_else():
    reference = _set()
    assert len(reference.fingerprint) == 64
    assert _set().fingerprint == reference.fingerprint
    pixel = reference.images.copy()
    pixel[2, 3, 3, 2] ^= 1
    changed = [
        _set(images=pixel),
        _set(images=reference.images.reshape(3, 2, 8, 3)),
        _set(labels=np.asarray([0, 1, 0])),
        _set(class_names=("a", "c")),
        _set(ids=("x", "y", "w")),
    ]
    assert len({reference.fingerprint, *(other.fingerprint for other in changed)}) == 6


@pytest.mark.parametrize("value", [0, 7, 4097, -1, 32.0, True, "32"])
def test_a_canvas_size_out_of_range_is_refused(value):
    with pytest.raises(base.InputError, match="canvas_size must be a whole number of pixels from 8 to 4096"):
        imageset.check_canvas_size(value)
    imageset.check_canvas_size(8)
    imageset.check_canvas_size(None)


def test_printable_names_stay_on_one_line():
    assert imageset.printable("a\nb\r\t\x1b[31m.jpg") == "a\\nb\\r\\t\\x1b[31m.jpg"
    assert imageset.printable("größe 猫.png") == "größe 猫.png"
    assert len(imageset.printable("x" * 500)) == 80


@pytest.mark.parametrize(
    "rules",
    [
        {"sixteen_bit_range": (0,)},
        {"sixteen_bit_range": (5, 5)},
        {"sixteen_bit_range": (0, float("nan"))},
        {"sixteen_bit_range": ("0", "9")},
        {"sixteen_bit_range": 4095},
        {"max_megapixels": 0},
        {"max_megapixels": float("inf")},
        {"max_megapixels": "many"},
    ],
)
def test_rules_that_no_decoding_can_follow_are_refused(rules):
    with pytest.raises(base.InputError, match="must be") as caught:
        imageset.check_rules(imageset.Rules(**rules))
    assert "\n" not in str(caught.value)


def test_rules_of_other_number_types_are_the_same_rules():
    assert imageset.check_rules(imageset.Rules([0, 4095], 100)) == imageset.Rules((0.0, 4095.0), 100.0)
