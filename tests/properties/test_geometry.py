"""Properties of crops, flips and resizing on unseen and hostile sizes, against float64 matrices."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import augment
from simclr_jax.augment import crop, resizing
from tests import properties
from tests.properties import augment_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=20)
MANY = hypothesis.settings(FEW, max_examples=300)
# Float32 rounding of sums of four by four taps; the tolerance of the golden files with the 1/1024 table.
TOLERANCE = 2e-6

seeds = st.integers(0, 2**31 - 1)
# Pixels: single ones, odd ones, panoramas.
sides = st.one_of(st.integers(1, 9), st.integers(10, 700), st.sampled_from([1, 2, 3, 31, 33, 4000, 16_000]))
resizes = st.sampled_from(["tf1", "tf2"])


@functools.partial(jax.jit, static_argnames=("source_size", "out_size", "resize"))
def _weights(offset, extent, flip, *, source_size, out_size, resize):
    return resizing.resize_weights(offset, extent, source_size=source_size, out_size=out_size, resize=resize, flip=flip)


def check_weights(extent: int, offset: int, flip: bool, *, source_size: int, out_size: int, resize: str) -> None:
    ours = np.asarray(_weights(offset, extent, flip, source_size=source_size, out_size=out_size, resize=resize))
    expected = np.zeros((out_size, source_size))
    expected[:, offset : offset + extent] = oracle.bicubic_matrix(extent, out_size, resize=resize)
    np.testing.assert_allclose(ours, expected[::-1] if flip else expected, rtol=0, atol=5e-7)
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=0, atol=1e-6)


# Source and target sizes: enlarging, reducing, a single pixel either way.
WEIGHT_SIZES = [(300, 224), (40, 32), (13, 96), (7, 1), (1, 5)]


@FEW
@hypothesis.given(st.data(), st.sampled_from(WEIGHT_SIZES), resizes, st.booleans())
def test_resize_weights_equal_float64_for_any_window(data, sizes, resize, flip):
    source_size, out_size = sizes
    extent = data.draw(st.integers(1, source_size))
    offset = data.draw(st.integers(0, source_size - extent))
    check_weights(extent, offset, flip, source_size=source_size, out_size=out_size, resize=resize)


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["tf1", "tf2"])
@pytest.mark.parametrize("out_size", [32, 64, 96, 160, 192, 224])
def test_resize_weights_equal_float64_for_every_window_length(out_size, resize):
    for extent in range(1, 513, 3):
        check_weights(extent, 512 - extent, extent % 2 == 0, source_size=512, out_size=out_size, resize=resize)


@functools.partial(jax.jit, static_argnames=("out_size", "resize"))
def _crop(image, box, *, out_size, resize):
    return augment.adjust_crop(image, box, size=out_size, resize=resize)


def check_crop(seed: int, box: tuple[int, int, int, int], *, shape, out_size, resize) -> None:
    image = np.random.default_rng(seed).random((*shape, 3), np.float32)
    ours = _crop(image, augment.CropBox(*(jnp.asarray(v, jnp.int32) for v in box)), out_size=out_size, resize=resize)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(
        ours, oracle.crop_resize(image, box, out_size, resize=resize), rtol=0, atol=TOLERANCE, err_msg=f"box {box}"
    )


def draw_box(data, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    height, width = (data.draw(st.integers(1, n)) for n in shape)
    return (
        data.draw(st.integers(0, shape[0] - height)),
        data.draw(st.integers(0, shape[1] - width)),
        height,
        width,
    )


@FEW
@hypothesis.given(
    st.data(), seeds, st.sampled_from([((37, 51), (32, 32)), ((1, 9), (5, 3)), ((3, 70), (7, 64))]), resizes
)
def test_crop_and_resize_equal_float64_for_any_box(data, seed, sizes, resize):
    shape, out_size = sizes
    check_crop(seed, draw_box(data, shape), shape=shape, out_size=out_size, resize=resize)


@pytest.mark.slow
@hypothesis.settings(MANY, max_examples=100)
@hypothesis.given(
    st.data(),
    seeds,
    st.sampled_from([((375, 500), (224, 224)), ((333, 301), (96, 160)), ((128, 17), (128, 128)), ((2, 2), (224, 32))]),
    resizes,
)
def test_crop_and_resize_equal_float64_for_large_boxes(data, seed, sizes, resize):
    shape, out_size = sizes
    check_crop(seed, draw_box(data, shape), shape=shape, out_size=out_size, resize=resize)


@FEW
@hypothesis.given(st.data(), seeds, resizes)
def test_the_window_alone_decides_what_a_crop_shows(data, seed, resize):
    """Pixels outside the window do not leak in, also at its borders."""
    y, x, height, width = box = draw_box(data, (37, 51))
    rng = np.random.default_rng(seed)
    image, other = rng.random((37, 51, 3), np.float32), rng.random((37, 51, 3), np.float32) + 7
    other[y : y + height, x : x + width] = image[y : y + height, x : x + width]
    traced = augment.CropBox(*(jnp.asarray(v, jnp.int32) for v in box))
    first, second = (_crop(i, traced, out_size=(32, 32), resize=resize) for i in (image, other))
    np.testing.assert_array_equal(first, second)


@FEW
@hypothesis.given(st.data(), st.floats(0, 1, width=32), resizes)
def test_a_constant_image_stays_constant_in_every_crop(data, value, resize):
    image = np.full((37, 51, 3), value, np.float32)
    box = augment.CropBox(*(jnp.asarray(v, jnp.int32) for v in draw_box(data, (37, 51))))
    np.testing.assert_allclose(_crop(image, box, out_size=(32, 32), resize=resize), value, rtol=0, atol=5e-7)


@FEW
@hypothesis.given(st.data(), seeds, resizes, st.booleans())
def test_both_resize_products_agree_for_any_window(data, seed, resize, flip):
    """The banded product (CPU) and the plain one (accelerators) leave out zeros only."""
    y, x, height, width = draw_box(data, (200, 260))
    image = np.random.default_rng(seed).random((200, 260, 3), np.float32)
    plain, banded = _both_products(image, augment.CropBox(*map(jnp.int32, (y, x, height, width))), flip, resize=resize)
    np.testing.assert_allclose(plain, banded, rtol=0, atol=5e-7)


@functools.partial(jax.jit, static_argnames="resize")
def _both_products(image, box, flip, *, resize):
    planes = resizing.to_planes(image)
    make = functools.partial(crop.crop_planes, planes, box, flip, out_size=(64, 64), resize=resize)
    return make(product=resizing.resize_planes), make(product=resizing.resize_planes_banded)


@FEW
@hypothesis.given(seeds)
def test_two_flips_are_none_and_one_moves_every_column(seed):
    image = np.random.default_rng(seed).random((5, 7, 3), np.float32)
    once = augment.adjust_flip(jnp.asarray(image), True)
    np.testing.assert_array_equal(once, image[:, ::-1])
    np.testing.assert_array_equal(augment.adjust_flip(once, True), image)
    np.testing.assert_array_equal(augment.adjust_flip(jnp.asarray(image), False), image)


@jax.jit
def _boxes(keys, height, width, *, min_area):
    draw = functools.partial(augment.draw_crop_box, height=height, width=width, area_range=(min_area, 1.0))
    return jax.vmap(draw)(keys)


@hypothesis.settings(FEW, max_examples=60)
@hypothesis.given(seeds, sides, sides, st.sampled_from([0.08, 1e-6, 0.5, 1.0]))
def test_a_crop_box_lies_inside_an_image_of_any_size(seed, height, width, min_area):
    boxes = _boxes(jax.random.split(jax.random.key(seed), 64), height, width, min_area=min_area)
    y, x, tall, wide = (np.asarray(value, np.int64) for value in boxes)
    assert (y >= 0).all() and (x >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (y + tall <= height).all() and (x + wide <= width).all()
    # The last legal offset is never drawn.
    assert ((tall == height) | (y + tall < height)).all() and ((wide == width) | (x + wide < width)).all()
    whole = (tall == height) & (wide == width)
    share = tall * wide / (height * width)
    assert ((share >= max(min_area, 0.1) - 1e-6) | whole).all()
    # Rounding the width moves the aspect by half a pixel at most.
    assert (whole | ((wide + 0.5 >= 0.75 * tall) & (wide - 0.5 <= tall * 4 / 3))).all()


@jax.jit
def _extents(aspect, pick, height, width, *, min_area):
    return crop.candidate_extent(aspect, pick, height=height, width=width, area_range=(min_area, 1.0), min_coverage=0.1)


def check_extents(seed: int, height: int, width: int, min_area: float) -> int:
    """Compares 64 attempts with the float64 sampler; returns how many lay clear of a rounding tie."""
    rng = np.random.default_rng(seed)
    aspects, picks = rng.uniform(3 / 4, 4 / 3, 64).astype(np.float32), rng.random(64, np.float32)
    ours = _extents(aspects, picks, jnp.int32(height), jnp.int32(width), min_area=min_area)
    compared = 0
    for aspect, pick, tall, wide, accepted in zip(aspects, picks, *map(np.asarray, ours), strict=True):
        # Where moving the draws by float32 rounding changes the exact answer, either answer is right.
        answers = {
            oracle.crop_extent(
                float(aspect) * (1 + d), min(max(float(pick) + e, 0.0), 1 - 2**-24), height, width, min_area=min_area
            )
            for d in (-1e-6, 0, 1e-6)
            for e in (-1e-6, 0, 1e-6)
        }
        if len(answers) == 1:
            compared += 1
            assert ((int(tall), int(wide)) if accepted else None) == answers.pop(), f"aspect {aspect!r} pick {pick!r}"
    return compared


@FEW
@hypothesis.given(seeds, sides, sides, st.sampled_from([0.08, 1e-6, 0.5]))
def test_one_attempt_of_the_crop_sampler_equals_float64(seed, height, width, min_area):
    # Long panoramas put many attempts near a tie of the area test.
    assert check_extents(seed, height, width, min_area) >= 16


@pytest.mark.slow
@MANY
@hypothesis.given(seeds, sides, sides, st.sampled_from([0.08, 1e-6, 0.5]))
def test_many_attempts_of_the_crop_sampler_equal_float64(seed, height, width, min_area):
    check_extents(seed, height, width, min_area)


_center = jax.jit(functools.partial(augment.center_crop_box, fraction=0.875))


@hypothesis.settings(FEW, max_examples=200)
@hypothesis.given(sides, sides)
def test_the_centre_crop_follows_the_rule_for_any_size(height, width):
    ours = tuple(int(value) for value in _center(height, width))
    assert ours == oracle.center_crop(height, width)


def test_the_centre_crop_follows_the_rule_for_every_square_and_odd_size():
    sizes = np.arange(1, 600)
    for other in (sizes, np.full_like(sizes, 333), 2 * sizes + 1):
        ours = jax.vmap(_center)(jnp.asarray(sizes, jnp.int32), jnp.asarray(other, jnp.int32))
        expected = [oracle.center_crop(int(h), int(w)) for h, w in zip(sizes, other, strict=True)]
        np.testing.assert_array_equal(np.stack(ours, axis=1), expected)


def test_centre_crops_round_half_a_pixel_to_even():
    # 0.875 * 12 = 10.5 and 0.875 * 4 = 3.5.
    assert [math.floor(oracle.center_crop(side, side)[2]) for side in (4, 12, 20, 28)] == [4, 10, 18, 24]
    assert [int(_center(side, side).height) for side in (4, 12, 20, 28)] == [4, 10, 18, 24]
