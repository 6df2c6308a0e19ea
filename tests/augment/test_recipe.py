"""Recipes of other methods: settings that differ between views, small crops beside the views, another crop sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import augment, base
from tests import golden

KEY = jax.random.key(3)
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), np.uint8))
OFF = {f"{what}_probability": 0.0 for what in ("color_jitter", "grayscale")}


def draws(count: int = 2000, **settings) -> augment.ViewDraws:
    recipe = augment.make_recipe(image_size=8, **settings)
    sizes, positions = jnp.full((count, 2), 16, jnp.int32), jnp.arange(count, dtype=jnp.int32)
    return jax.jit(lambda: augment.draw_views(KEY, sizes, positions, recipe=recipe))()


def test_blur_and_solarisation_happen_as_often_as_each_view_says():
    drawn = draws(blur_probability=(1.0, 0.1), solarize_probability=(0.0, 0.2))
    # Four standard deviations of a share of 2000.
    np.testing.assert_allclose(np.mean(drawn.blur_applied, axis=0), [1.0, 0.1], atol=4 * (0.09 / 2000) ** 0.5)
    np.testing.assert_allclose(np.mean(drawn.solarize_applied, axis=0), [0.0, 0.2], atol=4 * (0.16 / 2000) ** 0.5)


@pytest.mark.slow
def test_views_take_several_numbers_in_turn():
    drawn = draws(count=50, num_views=5, blur_probability=(1.0, 0.0))
    np.testing.assert_array_equal(np.mean(drawn.blur_applied, axis=0), [1, 0, 1, 0, 1])
    alike = draws(count=50, blur_probability=(0.5,))
    np.testing.assert_array_equal(alike.blur_applied, draws(count=50, blur_probability=0.5).blur_applied)


@pytest.mark.slow
def test_what_other_settings_draw_does_not_depend_on_solarisation():
    plain, more = draws(count=50), draws(count=50, solarize_probability=0.7)
    for ours, expected in zip(jax.tree.leaves(more)[:-1], jax.tree.leaves(plain)[:-1], strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not np.any(plain.solarize_applied) and 0 < np.mean(more.solarize_applied) < 1


@pytest.mark.slow
def test_four_strengths_are_the_widths_of_the_jitter():
    """Factors in 1 +- b, 1 +- c, 1 +- s, shifts in +- h; the same as one strength where that says the same."""
    jitter = draws(color_jitter_strength=(0.4, 0.3, 0.2, 0.1)).jitter
    for values, middle, width in (
        (jitter.brightness, 1, 0.4),
        (jitter.contrast, 1, 0.3),
        (jitter.saturation, 1, 0.2),
        (jitter.hue, 0, 0.1),
    ):
        assert abs(float(np.min(values)) - (middle - width)) < 0.01 * width + 1e-6
        assert abs(float(np.max(values)) - (middle + width)) < 0.01 * width + 1e-6
    one, four = draws(count=50, color_jitter_strength=0.5), draws(count=50, color_jitter_strength=(0.4, 0.4, 0.4, 0.1))
    for ours, expected in zip(jax.tree.leaves(four), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(ours, expected)


MULTI = {"image_size": 8, "num_small_views": 3, "small_image_size": 4, "crop_min_scale": 0.14, **OFF}


@functools.cache
def multi_crop(loop: str) -> tuple[np.ndarray, ...]:
    return jax.device_get(jax.jit(augment.make_simclr_views(**MULTI, solarize_probability=0.5, loop=loop))(KEY, IMAGES))


@pytest.mark.slow
def test_small_crops_come_beside_the_views():
    large, small = multi_crop("map")
    assert (large.shape, small.shape) == ((4, 2, 8, 8, 3), (4, 3, 4, 4, 3))
    assert augment.views_shape(augment.make_recipe(**MULTI), batch_size=4) == (large.shape, small.shape)
    for views in (large, small):
        assert views.dtype == np.float32 and views.min() >= 0 and views.max() <= 1
    one = jax.jit(augment.make_simclr_views(**MULTI, solarize_probability=0.5, loop="map"))(KEY, IMAGES[0])
    np.testing.assert_allclose(one[1], small[0], atol=1e-6)


@pytest.mark.slow
def test_the_views_are_the_same_with_and_without_small_crops():
    alone = jax.jit(augment.make_simclr_views(**{**MULTI, "num_small_views": 0}, solarize_probability=0.5, loop="map"))
    np.testing.assert_allclose(alone(KEY, IMAGES), multi_crop("map")[0], atol=1e-6)


@pytest.mark.slow
def test_map_and_vmap_give_the_same_small_crops():
    for ours, expected in zip(multi_crop("vmap"), multi_crop("map"), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.slow
def test_small_crops_have_the_area_they_are_given_and_the_views_theirs():
    recipe = augment.make_recipe(**MULTI)
    sizes, positions = jnp.full((500, 2), 100, jnp.int32), jnp.arange(500, dtype=jnp.int32)
    for part, (low, high) in zip(augment.by_size(recipe), ((0.14, 1.0), (0.05, 0.14)), strict=True):
        box = jax.jit(lambda part=part: augment.draw_views(KEY, sizes, positions, recipe=part))().box
        area = np.asarray(box.height * box.width) / 1e4
        assert low - 0.01 <= area.min() < low + 0.02 and high - 0.08 < area.max() <= high + 0.01


CROPS = golden.load("family/crops")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sample Kolmogorov-Smirnov distance."""
    at = np.sort(np.concatenate([a, b]))
    return float(
        np.max(
            np.abs(
                np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(b)
            )
        )
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("case", ["mocov2", "swav_large", "swav_small"])
def test_crops_of_torchvisions_sampler_are_distributed_as_torchvisions(case):
    (height, width), scale = CROPS[f"{case}/height_width"].tolist(), CROPS[f"{case}/scale"].tolist()
    recorded = CROPS[f"{case}/boxes_y_x_h_w"].astype(np.float64).T
    draw = functools.partial(augment.draw_crop_box_torchvision, height=height, width=width, area_range=tuple(scale))
    ours = np.stack(jax.jit(jax.vmap(draw))(jax.random.split(KEY, len(recorded[0]))), dtype=np.float64)
    for boxes in (ours, recorded):
        assert np.all(boxes >= 0) and np.all(boxes[0] + boxes[2] <= height) and np.all(boxes[1] + boxes[3] <= width)
    for statistic in (
        lambda y, x, h, w: h * w,
        lambda y, x, h, w: w / h,
        lambda y, x, h, w: y + h / 2,
        lambda y, x, h, w: x + w / 2,
    ):
        assert distance(statistic(*ours), statistic(*recorded)) < 0.04
    # Unlike the reference's sampler it draws the last offset too.
    assert np.any((ours[0] + ours[2] == height) & (ours[2] < height))


@pytest.mark.slow
def test_torchvisions_sampler_takes_the_middle_of_an_image_that_nothing_fits():
    draw = functools.partial(augment.draw_crop_box_torchvision, height=4, width=400, area_range=(0.9, 1.0))
    boxes = np.stack(jax.vmap(draw)(jax.random.split(KEY, 20)))
    np.testing.assert_array_equal(boxes, np.array([[0], [197], [4], [5]]) * np.ones(20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur_probability": (0.5, 1.5)}, r"blur_probability must be in \[0, 1\]; got 1.5"),
        ({"solarize_probability": ()}, "solarize_probability must be in"),
        ({"color_jitter_strength": (0.4, 0.4)}, "color_jitter_strength must be one number, or four"),
        ({"crop_sampler": "timm"}, "crop_sampler must be one of reference, torchvision"),
        ({"num_small_views": -1}, "num_small_views must be at least 0"),
        ({"small_image_size": 0}, "small_image_size must be 1 to 4096"),
        ({"small_crop_scale": (0.5, 0.1)}, "small_crop_scale must be two numbers that rise"),
    ],
)
def test_mistakes_are_refused(settings, message):
    with pytest.raises(base.InputError, match=message):
        augment.make_recipe(image_size=8, **settings)
