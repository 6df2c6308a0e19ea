"""Stain jitter beside a float64 loop and scikit-image, turns beside NumPy, and both inside the views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import augment, base
from simclr_jax.augment import stain as stain_lib

IMAGE = np.random.default_rng(0).uniform(0.05, 1, (3, 4, 3))


def loop(image, scale, shift):
    """Pixel by pixel: the amounts that explain its logarithm, changed, and their colour."""
    matrix = np.asarray([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    out = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        density = np.log(image[place]) / np.log(1e-6)
        amounts = np.linalg.solve(matrix.T, density) * scale + shift
        out[place] = np.clip(np.exp(np.log(1e-6) * (matrix.T @ amounts)), 0, 1)
    return out


def test_stains_equal_their_loop():
    scale, shift = np.asarray([0.8, 1.2, 1.1]), np.asarray([0.05, -0.02, 0.01])
    stain = augment.Stain(jnp.asarray(scale, jnp.float32), jnp.asarray(shift, jnp.float32))
    ours = jax.jit(augment.adjust_stain)(jnp.asarray(IMAGE, jnp.float32), stain)
    # A density of float32 has seven digits, times ln 1e-6 = 14 in the exponent.
    np.testing.assert_allclose(ours, loop(IMAGE, scale, shift), atol=1e-5)


def test_the_amounts_are_those_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    amounts = np.asarray([[[0.02, 0.05, 0.01], [0.1, 0.03, 0.0]]])
    rgb = np.exp(np.log(1e-6) * (amounts @ np.asarray(stain_lib.STAINS)))
    np.testing.assert_allclose(color.rgb2hed(rgb), amounts, atol=1e-10)
    shift = jnp.asarray([0.01, 0.02, 0.0], jnp.float32)
    ours = augment.adjust_stain(jnp.asarray(rgb, jnp.float32), augment.Stain(jnp.ones(3), shift))
    np.testing.assert_allclose(ours, color.hed2rgb(amounts + np.asarray(shift)), atol=1e-5)


def test_scales_and_shifts_lie_within_the_strength():
    drawn = jax.jit(jax.vmap(lambda key: augment.draw_stain(key, strength=0.2)))(
        jax.random.split(jax.random.key(0), 500)
    )
    for values in (drawn.scale - 1, drawn.shift):
        assert np.abs(values).max() <= 0.2 and np.abs(np.mean(values)) < 0.02 and np.std(values) > 0.1


def test_turns_are_numpys_and_as_likely_as_each_other():
    image = jnp.asarray(IMAGE[:, :3], jnp.float32)
    for k in range(4):
        np.testing.assert_array_equal(augment.adjust_turn(image, k), np.rot90(image, k))
    keys = jax.random.split(jax.random.key(1), 800)
    drawn = jax.jit(jax.vmap(augment.draw_turn))(keys)
    assert np.bincount(drawn, minlength=4).min() > 200 - 60, "five standard deviations"
    never = jax.jit(jax.vmap(lambda key: augment.draw_turn(key, probability=0.0)))(
        jax.random.split(jax.random.key(1), 9)
    )
    assert not np.any(never)


@pytest.mark.slow
def test_views_are_turned_and_stained_in_both_loops_alike():
    """The crop is the whole image and nothing else happens: the view is the image, turned and stained."""
    images = jnp.asarray(np.random.default_rng(2).integers(20, 255, (2, 8, 8, 3)), jnp.uint8)
    off = {f"{what}_probability": 0.0 for what in ("color_jitter", "grayscale", "blur", "flip")}
    recipe = augment.make_recipe(image_size=8, num_views=1, turn_probability=1.0, stain_strength=0.1, **off)
    sizes, positions = jnp.full((2, 2), 8, jnp.int32), jnp.arange(2, dtype=jnp.int32)
    draws = augment.draw_views(jax.random.key(7), sizes, positions, recipe=recipe)
    whole = jax.tree.map(jnp.zeros_like, draws.box)._replace(height=jnp.full((2, 1), 8), width=jnp.full((2, 1), 8))
    draws = draws._replace(box=jax.tree.map(lambda x, like: x.astype(like.dtype), whole, draws.box))
    for name in ("map", "vmap"):
        ours = augment.apply_views(images, draws, recipe=recipe._replace(loop=name))
        for i in range(2):
            turned = np.rot90(np.asarray(images[i]) / 255.0, int(draws.turns[i, 0]))
            expected = loop(turned, np.asarray(draws.stain.scale[i, 0]), np.asarray(draws.stain.shift[i, 0]))
            np.testing.assert_allclose(ours[i, 0], expected, atol=2e-5)


def test_a_strength_out_of_range_is_refused():
    with pytest.raises(base.InputError, match="stain_strength must be at least 0 and below 1; got 1"):
        augment.make_recipe(image_size=8, stain_strength=1.0)
