"""Views of crops that the host has cut are the device's views of the whole picture, to the rounding of the crops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import augment, train_step
from simclr_jax.data import host_crop, host_draws

pytest.importorskip("cv2")
SIZE, SEED, STEP = 16, 5, 9


def _pictures():
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 190, (5, 6, 7, 3))  # far from black and white, so that nothing is clipped
    return np.stack([np.kron(c, np.ones((8, 8, 1))) for c in coarse]).astype(np.uint8)


def _crops(pictures, positions):
    sizes = np.tile([pictures.shape[1:3]], (len(pictures), 1))
    boxes = host_draws.draw_boxes(SEED, STEP, positions=positions, sizes=sizes, num_views=2, min_scale=0.08)
    crops = np.empty((len(pictures), 2, SIZE, SIZE, 3), np.uint8)
    for i, v in np.ndindex(len(pictures), 2):
        host_crop.crop(pictures[i], tuple(int(part[i, v]) for part in boxes), out=crops[i, v])
    return crops


@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_views_of_given_crops_are_those_of_the_whole_pictures(loop):
    # Without the colour jitter, which turns a clip and half a level into more.
    settings = {"image_size": SIZE, "color_jitter_probability": 0.0, "loop": loop}
    pictures, positions = _pictures(), np.asarray([3, 0, 8, 1, 2], np.int32)
    key = train_step.views_key(jax.random.key(SEED), jnp.int32(STEP))
    expected = jax.jit(augment.make_simclr_views(**settings))(key, pictures, None, positions)
    found = jax.jit(augment.make_views_of_crops(**settings))(key, _crops(pictures, positions), None, positions)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    # Half a level; grey is a mean of three and blur of more. Above that only where float32 moves a tie.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.502 / 255)


@pytest.mark.slow
def test_the_jitter_is_the_same_too():
    settings = {"image_size": SIZE, "color_jitter_strength": 0.5}
    pictures, positions = np.full((6, 30, 40, 3), [200, 120, 60], np.uint8), np.arange(6, dtype=np.int32)
    key = train_step.views_key(jax.random.key(SEED), jnp.int32(STEP))
    expected = jax.jit(augment.make_simclr_views(**settings))(key, pictures, None, positions)
    found = jax.jit(augment.make_views_of_crops(**settings))(key, _crops(pictures, positions), None, positions)
    # One colour has no overshoot and no rounding, so that only the order of sums differs.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
