"""The host's random windows are those of the device, and of the reference's sampler."""

import jax
import numpy as np
import pytest

from simclr_jax import augment, train_step
from simclr_jax.data import host_draws
from tests import golden


@pytest.fixture(scope="module")
def device_boxes():
    recipe = augment.make_recipe(image_size=8, num_views=3, crop_min_scale=0.08)

    def draw(key, step, sizes, positions):
        return augment.draw_views(train_step.views_key(key, step), sizes, positions, recipe=recipe).box

    return jax.jit(draw)


@pytest.fixture(scope="module")
def torchvision_boxes():
    recipe = augment.make_recipe(image_size=8, num_views=2, crop_min_scale=0.2, crop_sampler="torchvision")

    def draw(key, step, sizes, positions):
        return augment.draw_views(train_step.views_key(key, step), sizes, positions, recipe=recipe).box

    return jax.jit(draw)


def _host(seed, step, positions, sizes):
    return host_draws.draw_boxes(seed, step, positions=positions, sizes=sizes, num_views=3, min_scale=0.08)


def test_the_words_and_uniform_numbers_are_those_of_jax():
    key = jax.random.fold_in(jax.random.key(2**32 - 5), 12345)
    ours = host_draws.fold_in((np.uint32(0), np.uint32(2**32 - 5)), 12345)
    np.testing.assert_array_equal(np.stack(ours), jax.random.key_data(key))
    places = np.asarray([0, 1, 7, 100, 201])
    np.testing.assert_array_equal(host_draws.uniform(ours, places), np.asarray(jax.random.uniform(key, (202,)))[places])
    split = jax.random.split(key, 4)
    for i in range(4):
        np.testing.assert_array_equal(np.stack(host_draws.fold_in(ours, i)), jax.random.key_data(split[i]))


@pytest.mark.few(1)
@pytest.mark.parametrize("seed, step", [(0, 0), (7, 3), (2**32 - 1, 100_000)])
def test_host_and_device_draw_the_same_windows(device_boxes, seed, step):
    rng = np.random.default_rng(step)
    sizes = rng.integers(5, 900, (3000, 2)).astype(np.int32)
    sizes[:20] = [10, 900]  # where the first attempts are often refused
    positions = (np.arange(3000) * 7 + 11).astype(np.int32)
    on_device = device_boxes(jax.random.key(seed), step, sizes, positions)
    on_host = _host(seed, step, positions, sizes)
    for name in host_draws.Boxes._fields:
        np.testing.assert_array_equal(getattr(on_host, name), np.asarray(getattr(on_device, name)), err_msg=name)


def test_host_and_device_draw_the_windows_of_torchvisions_sampler(torchvision_boxes):
    sizes = np.random.default_rng(1).integers(5, 900, (6000, 2)).astype(np.int32)
    sizes[:200] = [10, 900]  # where no attempt fits, and the middle is taken
    positions = np.arange(6000, dtype=np.int32)
    on_device = torchvision_boxes(jax.random.key(3), 5, sizes, positions)
    on_host = host_draws.draw_boxes(
        3, 5, positions=positions, sizes=sizes, num_views=2, min_scale=0.2, sampler="torchvision"
    )
    ours, theirs = (np.stack(boxes, axis=-1).astype(int) for boxes in (on_host, on_device))
    differing = (ours != theirs).any(axis=-1)
    # Of an exponential, whose last bit is the device's own.
    assert differing.mean() < 2e-4 and np.abs(ours - theirs).max() <= 1


def test_windows_do_not_depend_on_the_pictures_around_them():
    sizes, positions = np.asarray([[30, 400], [375, 500], [64, 64]]), np.asarray([5, 0, 2])
    together = _host(1, 2, positions, sizes)
    for i in range(3):
        alone = _host(1, 2, positions[i : i + 1], sizes[i : i + 1])
        np.testing.assert_array_equal(np.stack(alone)[:, 0], np.stack(together)[:, i])


def test_the_windows_have_the_distribution_of_the_reference():
    arrays = golden.load("random_crop_stats")
    name = next(key for key in arrays if key.endswith("375x500_aspect1/boxes_y_x_h_w"))
    recorded = np.asarray(arrays[name], np.float64)
    sizes = np.tile([[375, 500]], (7000, 1))
    boxes = np.stack(_host(3, 1, np.arange(7000), sizes), axis=-1).reshape(-1, 4)
    for ours, theirs in (
        (boxes[:, 2] * boxes[:, 3], recorded[:, 2] * recorded[:, 3]),
        (boxes[:, 2], recorded[:, 2]),
        (boxes[:, 0], recorded[:, 0]),
    ):
        levels = np.unique(np.concatenate([ours, theirs]))
        distance = np.abs(_share_below(ours, levels) - _share_below(theirs, levels)).max()
        assert distance < 0.035  # tests/golden/README.md


def _share_below(values, levels):
    return np.searchsorted(np.sort(values), levels, side="right") / len(values)


def test_central_windows_are_those_of_the_reference():
    sizes = np.asarray([[375, 500], [500, 375], [256, 256], [333, 500], [224, 224], [400, 301]])
    found = np.stack(host_draws.center_boxes(sizes, fraction=0.875), axis=1)
    expected = [
        [24, 86, 328, 328], [86, 24, 328, 328], [16, 16, 224, 224], [21, 105, 291, 291], [14, 14, 196, 196],
        [69, 19, 263, 263],
    ]  # fmt: skip
    np.testing.assert_array_equal(found, expected)
