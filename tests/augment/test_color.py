"""Colour operations against the reference's recorded values, printed tables and Python's colorsys."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.augment import color, color_jitter
from tests import golden

# Observed differences of float32 implementations are 6e-7 for single operations, 8e-7 for the whole jitter.
TOLERANCE = 3e-6

# How docs/parity.md calls them.
ROWS = {"brightness_v2": "brightness v2 (times)", "brightness_v1": "brightness v1 (plus)"}
OPERATIONS = {
    "brightness_v2": (color.adjust_brightness, "brightness_v2_factors"),
    "brightness_v1": (color.adjust_brightness_additive, "brightness_v1_deltas"),
    "contrast": (color.adjust_contrast, "contrast_factors"),
    "saturation": (color.adjust_saturation, "saturation_factors"),
    "hue": (color.adjust_hue, "hue_deltas"),
}
WITH_CHANNEL_AXIS = ("contrast", "saturation", "hue")
PIXELS = np.asarray([[[0.1, 0.5, 0.9], [0.8, 0.2, 0.4]], [[0.3, 0.3, 0.3], [1.0, 0.0, 0.6]]], np.float32)


def _stored_images(arrays, operation):
    return [name for name in arrays["image_names"] if f"{operation}/{name}" in arrays]


@pytest.mark.few(3)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_equals_the_reference(operation, compare):
    arrays = golden.load("colour")
    adjust, values = OPERATIONS[operation]
    names = _stored_images(arrays, operation)
    assert {"overshoot", "pure_colours_and_ties", "constant_grey"} <= set(names)
    for name in names:
        ours = jax.jit(jax.vmap(adjust, in_axes=(None, 0)))(arrays[f"input/{name}"], arrays[values])
        compare(ROWS.get(operation, operation), ours, arrays[f"{operation}/{name}"], limit=TOLERANCE)


def test_grayscale_equals_the_reference(compare):
    arrays = golden.load("colour")
    for name in _stored_images(arrays, "grey"):
        ours = color.adjust_grayscale(jnp.asarray(arrays[f"input/{name}"]))
        compare("grey", ours, arrays[f"grey/{name}"], limit=TOLERANCE)


@pytest.mark.slow
def test_every_operation_equals_the_reference_on_every_recorded_image(compare):
    arrays = golden.load_full("colour")
    for operation, (adjust, values) in OPERATIONS.items():
        for name in arrays["image_names"]:
            ours = jax.jit(jax.vmap(adjust, in_axes=(None, 0)))(arrays[f"input/{name}"], arrays[values])
            compare(ROWS.get(operation, operation), ours, arrays[f"{operation}/{name}"], limit=TOLERANCE)


@jax.jit
def _jitter_multiply(image, jitter):
    return color_jitter.adjust_color_jitter(image, jitter, brightness="multiply")


@jax.jit
def _jitter_add(image, jitter):
    return color_jitter.adjust_color_jitter(image, jitter, brightness="add")


def test_color_jitter_equals_the_reference(compare):
    arrays = golden.load("colour")
    fields = color_jitter.ColorJitter._fields
    implementations = set()
    for k, (name, impl) in enumerate(zip(arrays["jitter_param/image"], arrays["jitter_param/impl"], strict=True)):
        jitter = color_jitter.ColorJitter(*(jnp.asarray(arrays[f"jitter_param/{field}"][k]) for field in fields))
        apply = {"simclrv1": _jitter_add, "simclrv2": _jitter_multiply}[str(impl)]
        ours = apply(arrays[f"input/{name}"], jitter)
        version = str(impl).removeprefix("simclr")
        compare(f"jitter {version}, random order", ours, arrays[f"jitter/{k:02d}"], limit=TOLERANCE)
        implementations.add(str(impl))
    assert implementations == {"simclrv1", "simclrv2"}


def test_color_jitter_in_fixed_order_equals_the_reference(compare):
    arrays = golden.load("colour")
    values = arrays["jitter_fixed_order/params_brightness_contrast_saturation_hue"]
    jitter = color_jitter.ColorJitter(jnp.arange(4, dtype=jnp.int32), *(jnp.float32(v) for v in values))
    ours = _jitter_multiply(arrays["input/" + str(arrays["jitter_fixed_order/image"])], jitter)
    compare("jitter v2, fixed order", ours, arrays["jitter_fixed_order/output"], limit=TOLERANCE)


@jax.jit
def _jitter_at_once(image, jitter, applied):
    made = color_jitter.adjust_color_jitter_at_once(tuple(image[..., c] for c in range(3)), jitter, applied)
    return jnp.stack(made, axis=-1)


def test_color_jitter_at_once_equals_the_reference(compare):
    arrays = golden.load("colour")
    fields = color_jitter.ColorJitter._fields
    cases = [k for k, impl in enumerate(arrays["jitter_param/impl"]) if str(impl) == "simclrv2"]
    assert len({tuple(arrays["jitter_param/order"][k]) for k in cases}) > 3
    for k in cases:
        jitter = color_jitter.ColorJitter(*(jnp.asarray(arrays[f"jitter_param/{field}"][k]) for field in fields))
        image = arrays["input/" + str(arrays["jitter_param/image"][k])]
        ours = _jitter_at_once(image, jitter, jnp.bool_(True))
        compare("jitter v2, all images at once", ours, arrays[f"jitter/{k:02d}"], limit=TOLERANCE)


@pytest.mark.slow
def test_color_jitter_at_once_takes_every_order_and_leaves_images_alone():
    # From below 0 to above 1, as a bicubic resize leaves them.
    image = np.random.default_rng(3).uniform(-0.1, 1.1, (9, 7, 3)).astype(np.float32)
    values = [jnp.full(24, v, jnp.float32) for v in (1.3, 0.6, 1.7, 0.15)]
    jitter = color_jitter.ColorJitter(jnp.asarray(list(itertools.permutations(range(4))), jnp.int32), *values)
    at_once = jax.jit(jax.vmap(_jitter_at_once, in_axes=(None, 0, None)))
    one_by_one = jax.jit(
        lambda j: jax.lax.map(lambda one: color_jitter.adjust_color_jitter(jnp.asarray(image), one), j)
    )
    expected = np.asarray(one_by_one(jitter))
    # Saturation and hue commute behind a clip: four of the 24 results are another's.
    assert len(np.unique(expected.round(4), axis=0)) == 20
    np.testing.assert_allclose(at_once(image, jitter, jnp.bool_(True)), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(at_once(image, jitter, jnp.bool_(False)), np.broadcast_to(image, expected.shape))


PRINTED = [
    (
        color.adjust_contrast,
        1.5,
        [-0.125, 0.625, 1.075, 0.925, 0.175, 0.325, 0.175, 0.325, 0.175, 1.225, -0.125, 0.625],
    ),
    (color.adjust_contrast, 0.2, [0.46, 0.3, 0.62, 0.6, 0.24, 0.52, 0.5, 0.26, 0.5, 0.64, 0.2, 0.56]),
    (color.adjust_saturation, 1.8, [0, 0.45, 0.9, 0.8, 0, 0.266667, 0.3, 0.3, 0.3, 1, 0, 0.6]),
    (color.adjust_saturation, 0.2, [0.74, 0.82, 0.9, 0.8, 0.68, 0.72, 0.3, 0.3, 0.3, 1, 0.8, 0.92]),
    (color.adjust_hue, 0.1, [0.18, 0.1, 0.9, 0.8, 0.36, 0.2, 0.3, 0.3, 0.3, 1, 0, 0]),
    (color.adjust_hue, -0.2, [0.1, 0.9, 0.34, 0.48, 0.2, 0.8, 0.3, 0.3, 0.3, 0.2, 0, 1]),
]


@pytest.mark.parametrize("adjust, value, expected", PRINTED)
def test_operation_equals_the_printed_values(adjust, value, expected):
    np.testing.assert_allclose(np.ravel(adjust(jnp.asarray(PIXELS), value)), expected, atol=1e-6)


def test_grayscale_equals_the_printed_values():
    ours = color.adjust_grayscale(jnp.asarray(PIXELS))
    np.testing.assert_allclose(np.ravel(ours[..., 2]), [0.42599, 0.40212, 0.29997, 0.3673], atol=1e-6)


def _hsv_oracle(pixel, *, saturation=1.0, hue=0.0):
    """One pixel through Python's colorsys in float64."""
    import colorsys

    h, s, v = colorsys.rgb_to_hsv(*pixel)
    return colorsys.hsv_to_rgb((h + hue) % 1.0, min(max(s * saturation, 0.0), 1.0), v)


def test_hue_and_saturation_equal_colorsys_inside_the_unit_cube():
    pixels = np.random.default_rng(0).random((200, 1, 3)).astype(np.float32)
    for value in (0.13, -0.31, 0.5, 1.25):
        expected = [_hsv_oracle(p[0].astype(np.float64), hue=value) for p in pixels]
        np.testing.assert_allclose(color.adjust_hue(jnp.asarray(pixels), value)[:, 0], expected, atol=2e-6)
    for value in (0.0, 0.4, 1.0, 1.7):
        expected = [_hsv_oracle(p[0].astype(np.float64), saturation=value) for p in pixels]
        np.testing.assert_allclose(color.adjust_saturation(jnp.asarray(pixels), value)[:, 0], expected, atol=2e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_keeps_shape_and_dtype_and_vectorises(operation):
    adjust = OPERATIONS[operation][0]
    images = jnp.asarray(np.random.default_rng(1).random((3, 5, 7, 3), np.float32))
    values = jnp.asarray([0.2, 0.5, 0.3], jnp.float32)
    batched = jax.jit(jax.vmap(adjust))(images, values)
    assert batched.shape == images.shape and batched.dtype == jnp.float32
    singles = [adjust(image, value) for image, value in zip(images, values, strict=True)]
    np.testing.assert_allclose(batched, jnp.stack(singles), atol=1e-6)
    assert adjust(images[0].astype(jnp.bfloat16), 0.3).dtype == jnp.bfloat16


@pytest.mark.few(3)
@pytest.mark.parametrize("operation", WITH_CHANNEL_AXIS)
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_operation_takes_channels_on_any_axis(operation, axis):
    adjust = OPERATIONS[operation][0]
    image = jnp.asarray(np.random.default_rng(2).random((5, 7, 3), np.float32))
    moved = adjust(jnp.moveaxis(image, -1, axis), 0.3, channel_axis=axis)
    np.testing.assert_allclose(jnp.moveaxis(moved, axis, -1), adjust(image, 0.3), atol=1e-6)


@pytest.mark.parametrize("brightness", color_jitter.BRIGHTNESS_FORMS)
def test_color_jitter_draws_are_uniform_in_their_ranges(brightness):
    count, strength = 24_000, 0.5
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: color_jitter.draw_color_jitter(key, strength=strength, brightness=brightness)))
    jitter = draw(keys)
    ranges = {
        "brightness": (0.6, 1.4) if brightness == "multiply" else (-0.4, 0.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.6, 1.4),
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in ranges.items():
        values = np.sort(np.asarray(getattr(jitter, name), np.float64))
        assert values[0] >= low - 1e-6 and values[-1] <= high + 1e-6
        # 1 % level of the one-sample Kolmogorov-Smirnov test: 1.63 / sqrt(count) = 0.0105.
        assert np.abs((values - low) / (high - low) - np.arange(count) / count).max() < 0.012
    orders, counts = np.unique(np.asarray(jitter.order), axis=0, return_counts=True)
    assert len(orders) == 24 and (np.sort(orders, axis=1) == np.arange(4)).all()
    assert np.abs(counts - count / 24).max() < 4.5 * np.sqrt(count / 24)
    # Orders and the four numbers are drawn independently.
    table = np.stack([getattr(jitter, name) for name in ranges] + [np.asarray(jitter.order)[:, 0]], axis=1)
    assert np.abs(np.corrcoef(table.T.astype(np.float64)) - np.eye(5)).max() < 0.03


def test_color_jitter_output_is_in_the_unit_interval_whatever_goes_in():
    image = jnp.asarray(np.random.default_rng(0).uniform(-0.2, 1.2, (16, 16, 3)).astype(np.float32))
    random = jax.jit(lambda key: color_jitter.random_color_jitter(key, image, strength=1.25))
    for seed in range(8):
        view = random(jax.random.key(seed))
        assert float(view.min()) >= 0 and float(view.max()) <= 1
        jitter = color_jitter.draw_color_jitter(jax.random.key(seed), strength=1.25)
        np.testing.assert_allclose(view, _jitter_multiply(image, jitter), atol=TOLERANCE)


RANDOM = ("brightness", "brightness_additive", "contrast", "saturation", "hue")


@pytest.mark.parametrize("name", RANDOM)
def test_random_operation_applies_what_is_drawn_from_its_key(name):
    random, draw, adjust = (getattr(color, f"{verb}_{name}") for verb in ("random", "draw", "adjust"))
    image, key = jnp.asarray(PIXELS), jax.random.key(4)
    value = draw(key, limit=0.4)
    np.testing.assert_array_equal(random(key, image, limit=0.4), adjust(image, value))
    assert abs(float(value) - (0 if name in ("hue", "brightness_additive") else 1)) <= 0.4
    assert float(draw(jax.random.key(5), limit=0.4)) != float(value)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", [*RANDOM, "grayscale"])
def test_bytes_are_taken_for_the_same_image_in_the_unit_interval(name):
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3)), jnp.uint8)
    random, key = getattr(color, f"random_{name}"), jax.random.key(4)
    np.testing.assert_array_equal(random(key, image), random(key, image.astype(jnp.float32) * (1 / 255)))
    with pytest.raises(base.InputError, match=r"uint8 in \[0, 255\] or float in \[0, 1\]; got int32"):
        random(key, image.astype(jnp.int32))


def test_random_grayscale_follows_its_probability():
    image = jnp.asarray(PIXELS)
    keys = jax.random.split(jax.random.key(0), 4000)
    applied = jax.vmap(lambda key: color.draw_grayscale(key, probability=0.2))(keys)
    assert abs(float(jnp.mean(applied.astype(jnp.float32))) - 0.2) < 0.026  # four standard errors
    np.testing.assert_array_equal(color.random_grayscale(keys[0], image, probability=0.0), image)
    np.testing.assert_array_equal(
        color.random_grayscale(keys[0], image, probability=1.0), color.adjust_grayscale(image)
    )


def test_strengths_beyond_the_references_limits_are_refused():
    key, image = jax.random.key(0), jnp.asarray(PIXELS)
    color_jitter.draw_color_jitter(key, strength=1.25)
    with pytest.raises(base.InputError, match=r"strength must be at most 1.25.*got 1.3"):
        color_jitter.draw_color_jitter(key, strength=1.3)
    with pytest.raises(base.InputError, match="contrast limit"):
        color.random_contrast(key, image, limit=1.1)
    with pytest.raises(base.InputError, match="saturation limit"):
        color.random_saturation(key, image, limit=1.1)
    with pytest.raises(base.InputError, match="hue limit"):
        color.random_hue(key, image, limit=0.6)
    with pytest.raises(base.InputError, match="multiply, add; got 'v2'"):
        color_jitter.draw_color_jitter(key, brightness="v2")


def _jitters(image):
    """The jitter of one image in all 24 orders, by both of its forms: float32 [24, 2, H, W, C]."""
    keys = jax.random.split(jax.random.key(3), 24)
    drawn = jax.vmap(color_jitter.draw_color_jitter)(keys)
    drawn = drawn._replace(order=jnp.asarray(list(itertools.permutations(range(4))), jnp.int32))

    def both(jitter):
        channels = tuple(image[..., c] for c in range(image.shape[-1]))
        at_once = color_jitter.adjust_color_jitter_at_once(channels, jitter, jnp.asarray(True))
        return jnp.stack([color_jitter.adjust_color_jitter(image, jitter), jnp.stack(at_once, axis=-1)])

    return drawn, np.asarray(jax.jit(jax.vmap(both))(drawn))


@pytest.mark.few(1)
@pytest.mark.parametrize("num_channels", [1, 6])
def test_any_number_of_channels_has_brightness_and_contrast_and_no_color(num_channels):
    image = np.random.default_rng(6).uniform(0, 1, (4, 5, num_channels)).astype(np.float32)
    drawn, found = _jitters(jnp.asarray(image))
    for row, order in enumerate(np.asarray(drawn.order)):
        expected = image.astype(np.float64)
        for operation in order:
            if operation == 0:
                expected = expected * float(drawn.brightness[row])
            elif operation == 1:
                mean = expected.mean(axis=(0, 1))
                expected = (expected - mean) * float(drawn.contrast[row]) + mean
            expected = expected.clip(0, 1)
        np.testing.assert_allclose(found[row], np.stack([expected, expected]), atol=2e-6)
    for adjust in (
        lambda x: color.adjust_hue(x, 0.3),
        lambda x: color.adjust_saturation(x, 0.3),
        color.adjust_grayscale,
    ):
        np.testing.assert_array_equal(adjust(jnp.asarray(image)), image)
