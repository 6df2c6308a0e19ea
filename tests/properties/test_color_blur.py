"""Colour operations and blur on unseen and hostile images, against float64."""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import augment
from simclr_jax.augment import blur
from tests import properties
from tests.properties import augment_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=20)
MANY = hypothesis.settings(FEW, max_examples=300)
TOLERANCE = 3e-6  # colour, golden files
BLUR_TOLERANCE = 2e-6  # blur, golden files

seeds = st.integers(0, 2**31 - 1)
SHAPE = (6, 7, 3)


def black(rng):
    return np.zeros(SHAPE)


def white(rng):
    return np.ones(SHAPE)


def constant(rng):
    return np.full(SHAPE, rng.random(3))


def random(rng):
    return rng.random(SHAPE)


def overshooting(rng):
    """As bicubic resizing leaves images: some pixels have all channels below 0 or above 1."""
    return rng.uniform(-0.12, 1.12, SHAPE) + rng.choice([-0.6, 0.0, 0.5], SHAPE[:2])[..., None]


def nearly_grey(rng):
    """Chroma of a few float32 steps."""
    return rng.random(SHAPE[:2])[..., None] + rng.integers(-2, 3, SHAPE) * 2.0**-23


def tied(rng):
    """Channels in eighths: many pixels have two or three equal ones."""
    return rng.integers(0, 9, SHAPE) / 8


def dark(rng):
    """Values near the smallest that float32 tells from 0 with all its digits."""
    return rng.random(SHAPE) * 1e-6


IMAGES = {kind.__name__: kind for kind in (black, white, constant, random, overshooting, nearly_grey, tied, dark)}
kinds = st.sampled_from(sorted(IMAGES))


def image_of(kind: str, seed: int) -> np.ndarray:
    return IMAGES[kind](np.random.default_rng(seed)).astype(np.float32)


# Ours, the float64 one, the values: what strength 1.25 can draw, and beyond.
OPERATIONS = {
    "brightness": (augment.adjust_brightness, lambda x, f: x.astype(np.float64) * f, (0.0, 2.0)),
    "additive": (augment.adjust_brightness_additive, lambda x, d: x.astype(np.float64) + d, (-1.0, 1.0)),
    "contrast": (augment.adjust_contrast, oracle.contrast, (0.0, 2.0)),
    "saturation": (augment.adjust_saturation, oracle.saturation, (0.0, 2.0)),
    "hue": (augment.adjust_hue, oracle.hue, (-0.5, 0.5)),
    "grey": (lambda x, _: augment.adjust_grayscale(x), lambda x, _: oracle.grey(x), (0.0, 1.0)),
}
_JITTED = {name: jax.jit(row[0]) for name, row in OPERATIONS.items()}


def check_operation(name: str, kind: str, seed: int, share: float) -> None:
    low, high = OPERATIONS[name][2]
    value = np.float32(low + share * (high - low))
    image = image_of(kind, seed)
    ours = _JITTED[name](image, value)
    assert ours.dtype == jnp.float32 and ours.shape == image.shape
    np.testing.assert_allclose(ours, OPERATIONS[name][1](image, float(value)), rtol=0, atol=TOLERANCE)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", OPERATIONS)
@hypothesis.settings(FEW, max_examples=40)
@hypothesis.given(kinds, seeds, st.floats(0, 1))
def test_operation_equals_float64_on_hostile_images(name, kind, seed, share):
    check_operation(name, kind, seed, share)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@MANY
@hypothesis.given(kinds, seeds, st.floats(0, 1))
def test_operation_equals_float64_on_many_hostile_images(name, kind, seed, share):
    check_operation(name, kind, seed, share)


@functools.partial(jax.jit, static_argnames="brightness")
def _jitter(image, jitter, *, brightness):
    return augment.adjust_color_jitter(image, jitter, brightness=brightness)


def check_jitter(order, kind: str, seed: int, form: str, strength: float) -> None:
    rng = np.random.default_rng(seed)
    image = image_of(kind, seed)
    wide, narrow = 0.8 * strength, 0.2 * strength
    center = 1.0 if form == "multiply" else 0.0
    values = [center + wide * rng.uniform(-1, 1), *(1 + wide * rng.uniform(-1, 1, 2)), narrow * rng.uniform(-1, 1)]
    values = [np.float32(value) for value in values]
    draws = augment.ColorJitter(jnp.asarray(order, jnp.int32), *map(jnp.asarray, values))
    ours = np.asarray(_jitter(image, draws, brightness=form))
    names = ("brightness", "contrasts", "saturations", "turns")
    expected = oracle.jitter(image, order, form=form, **{n: float(v) for n, v in zip(names, values, strict=True)})
    assert ours.dtype == np.float32 and ours.min() >= 0 and ours.max() <= 1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE, err_msg=f"{kind} {order} {form} {values}")


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter_in_every_order_equals_float64(order):
    for form, kind in itertools.product(("multiply", "add"), ("overshooting", "random", "constant")):
        check_jitter(order, kind, sum(order[k] * 5**k for k in range(4)), form, 1.0)


@FEW
@hypothesis.given(
    st.permutations(range(4)),
    kinds,
    seeds,
    st.sampled_from(["multiply", "add"]),
    st.sampled_from([0.1, 0.5, 1.0, 1.25]),
)
def test_jitter_of_any_strength_equals_float64_on_hostile_images(order, kind, seed, form, strength):
    check_jitter(order, kind, seed, form, strength)


@pytest.mark.slow
@MANY
@hypothesis.given(st.permutations(range(4)), kinds, seeds, st.sampled_from(["multiply", "add"]), st.floats(0, 1.25))
def test_jitter_of_any_strength_equals_float64_on_many_images(order, kind, seed, form, strength):
    check_jitter(order, kind, seed, form, strength)


@FEW
@hypothesis.given(kinds, seeds)
def test_neutral_values_change_nothing(kind, seed):
    image = image_of(kind, seed)
    for name, neutral in (("brightness", 1.0), ("additive", 0.0), ("contrast", 1.0), ("hue", 0.0), ("hue", 1.0)):
        np.testing.assert_allclose(_JITTED[name](image, np.float32(neutral)), image, rtol=0, atol=5e-7, err_msg=name)
    # Saturation sets pixels below black to grey even at factor 1.
    inside = np.clip(image, 0, 1)
    np.testing.assert_allclose(_JITTED["saturation"](inside, np.float32(1)), inside, rtol=0, atol=5e-7)


@FEW
@hypothesis.given(kinds, seeds, st.floats(-0.5, 0.5))
def test_hue_keeps_each_pixels_largest_and_smallest_channel(kind, seed, turns):
    image = image_of(kind, seed)
    ours = np.asarray(_JITTED["hue"](image, np.float32(turns)))
    np.testing.assert_allclose(ours.max(axis=-1), image.max(axis=-1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.min(axis=-1), image.min(axis=-1), rtol=0, atol=1e-6)


# Odd shapes, one pixel high, and a block of the banded product (64, 96).
BLUR_SHAPES = [((33, 41), 3), ((1, 9), 4), ((64, 96), 9), ((5, 7), 22)]
_blur = jax.jit(augment.adjust_gaussian_blur, static_argnames="kernel_size")


def check_blur(seed: int, shape: tuple[int, int], kernel_size: int, sigma: float) -> None:
    image = np.random.default_rng(seed).random((*shape, 3), np.float32)
    ours = _blur(image, np.float32(sigma), kernel_size=kernel_size)
    assert ours.dtype == jnp.float32
    expected = oracle.blur(image, float(np.float32(sigma)), kernel_size=kernel_size)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=BLUR_TOLERANCE)


@FEW
@hypothesis.given(seeds, st.sampled_from(BLUR_SHAPES), st.one_of(st.sampled_from([0.1, 2.0]), st.floats(0.1, 2.0)))
def test_blur_equals_a_zero_padded_convolution(seed, case, sigma):
    check_blur(seed, *case, sigma)


@pytest.mark.slow
@hypothesis.settings(FEW, max_examples=100)
@hypothesis.given(
    seeds, st.sampled_from([*BLUR_SHAPES, ((224, 224), 22), ((160, 96), 16), ((129, 255), 12)]), st.floats(0.1, 2.0)
)
def test_blur_of_larger_images_equals_a_zero_padded_convolution(seed, case, sigma):
    check_blur(seed, *case, sigma)


@FEW
@hypothesis.given(st.floats(0, 1, width=32), st.floats(0.1, 2.0))
def test_blur_keeps_a_constant_image_away_from_its_borders(value, sigma):
    ours = np.asarray(_blur(np.full((33, 41, 3), value, np.float32), np.float32(sigma), kernel_size=8))
    np.testing.assert_allclose(ours[4:-4, 4:-4], value, rtol=0, atol=5e-7)
    assert (ours <= value + 5e-7).all() and (ours >= 0).all()


_taps = jax.jit(blur.blur_kernel, static_argnames="kernel_size")


@FEW
@hypothesis.given(st.floats(0.1, 2.0), st.sampled_from([0, 1, 3, 4, 22]))
def test_the_taps_are_symmetric_sum_to_one_and_fall_outwards(sigma, kernel_size):
    taps = np.asarray(_taps(np.float32(sigma), kernel_size=kernel_size))
    assert taps.shape == (2 * int(kernel_size / 2) + 1,)
    assert float(taps.sum(dtype=np.float64)) == pytest.approx(1, abs=5e-7)
    # Compilers compute the last few exponentials of a vector in another way: one rounding.
    np.testing.assert_allclose(taps, taps[::-1], rtol=3e-7)
    assert (np.diff(taps[: len(taps) // 2 + 1]) >= 0).all()
