"""Properties of whole view recipes: one image alone, inside a batch, under vmap, and from its recorded draws."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import augment
from simclr_jax.augment import views
from tests import properties
from tests.properties import augment_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=6)
MANY = hypothesis.settings(FEW, max_examples=60)
# Ten operations in float32; the golden files allow 5e-6 for crop, resize, flip, jitter and grey.
TOLERANCE = 5e-6

CANVAS, SIZE = (33, 29), 20
BATCH = 2
RECIPES = {
    name: augment.make_recipe(image_size=SIZE, **settings)
    for name, settings in {
        "tf2": {},
        "tf1": {
            "resize": "tf1",
            "brightness": "add",
            "color_jitter_strength": 0.5,
            "blur_sigma_per": "image",
            "crop_min_scale": 0.3,
        },
    }.items()
}
DRAW = {
    name: jax.jit(lambda k, s, p, r=recipe: views.draw_views(k, s, p, recipe=r)) for name, recipe in RECIPES.items()
}
APPLY = {name: jax.jit(lambda x, d, r=recipe: views.apply_views(x, d, recipe=r)) for name, recipe in RECIPES.items()}

seeds = st.integers(0, 2**31 - 1)
# A recipe takes seconds to compile: the fast tests share one.
names = st.just("tf2")
all_names = st.sampled_from(sorted(RECIPES))
# Valid regions of a canvas, down to one pixel.
valid_sizes = st.tuples(st.integers(1, CANVAS[0]), st.integers(1, CANVAS[1]))


def batch_of(seed: int, count: int = BATCH) -> np.ndarray:
    """Noise, plus images that are black, white or of two values."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *CANVAS, 3))
    kind = rng.integers(0, 4, count)
    images[kind == 1] = rng.choice([0, 255])
    images[kind == 2] = 255 * (images[kind == 2] > 127)
    return images.astype(np.uint8)


def full_sizes(count: int = BATCH) -> jax.Array:
    return jnp.asarray([CANVAS] * count, jnp.int32)


def positions(first: int = 0) -> jax.Array:
    return jnp.arange(first, first + BATCH, dtype=jnp.int32)


def make_views(name: str, seed: int, images, sizes, places):
    return APPLY[name](images, DRAW[name](jax.random.key(seed), sizes, places))


def expected_view(image: np.ndarray, draws: augment.ViewDraws, recipe: augment.ViewRecipe) -> np.ndarray:
    """The view of one image in float64, from its draws."""
    box = tuple(int(value) for value in draws.box)
    view = oracle.crop_resize(
        image.astype(np.float64) / 255, box, (recipe.image_size, recipe.image_size), resize=recipe.resize
    )
    if draws.flip:
        view = view[:, ::-1]
    if draws.jitter_applied:
        jitter = draws.jitter
        view = oracle.jitter(
            view,
            [int(k) for k in jitter.order],
            brightness=float(jitter.brightness),
            contrasts=float(jitter.contrast),
            saturations=float(jitter.saturation),
            turns=float(jitter.hue),
            form=recipe.brightness,
        )
    if draws.gray_applied:
        view = oracle.grey(view)
    view = np.clip(view, 0, 1)
    if draws.blur_applied:
        view = np.clip(oracle.blur(view, float(draws.blur_sigma), kernel_size=recipe.image_size // 10), 0, 1)
    return view


def check_views(name: str, seed: int, sizes: list[tuple[int, int]]) -> None:
    images, recipe = batch_of(seed), RECIPES[name]
    draws = jax.device_get(DRAW[name](jax.random.key(seed), jnp.asarray(sizes, jnp.int32), positions()))
    ours = np.asarray(APPLY[name](images, draws))
    assert ours.shape == (BATCH, 2, SIZE, SIZE, 3) and ours.dtype == np.float32
    assert ours.min() >= 0 and ours.max() <= 1
    for i, (height, width) in enumerate(sizes):
        for v in range(2):
            one = jax.tree.map(lambda leaf, i=i, v=v: leaf[i, v], draws)
            assert one.box.y + one.box.height <= height and one.box.x + one.box.width <= width
            expected = expected_view(images[i], one, recipe)
            np.testing.assert_allclose(ours[i, v], expected, rtol=0, atol=TOLERANCE, err_msg=f"{name} {one}")


@pytest.mark.slow
@FEW
@hypothesis.given(names, seeds, st.lists(valid_sizes, min_size=BATCH, max_size=BATCH))
def test_views_equal_float64_from_their_draws(name, seed, sizes):
    check_views(name, seed, sizes)


@pytest.mark.slow
@MANY
@hypothesis.given(all_names, seeds, st.lists(valid_sizes, min_size=BATCH, max_size=BATCH))
def test_many_views_equal_float64_from_their_draws(name, seed, sizes):
    check_views(name, seed, sizes)


@pytest.mark.slow
@FEW
@hypothesis.given(names, seeds)
def test_a_key_decides_everything(name, seed):
    images = batch_of(seed)
    first, again = (make_views(name, seed, images, full_sizes(), positions()) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    mine, others = (DRAW[name](jax.random.key(s), full_sizes(), positions()).jitter.hue for s in (seed, seed + 1))
    assert not np.isin(mine, others).any()


@FEW
@hypothesis.given(names, seeds, st.integers(0, BATCH - 1))
def test_an_image_does_not_see_the_rest_of_its_batch(name, seed, row):
    images, others = batch_of(seed), batch_of(seed + 1)
    others[row] = images[row]
    sizes = np.asarray(full_sizes())
    other_sizes = np.maximum(sizes - 5, 1)
    other_sizes[row] = sizes[row]
    alone = make_views(name, seed, images, sizes, positions())
    among = make_views(name, seed, others, other_sizes, positions())
    np.testing.assert_array_equal(alone[row], among[row])


@FEW
@hypothesis.given(names, seeds, st.integers(0, 10_000), st.integers(0, BATCH - 1))
def test_a_place_in_the_global_batch_decides_the_draws_and_not_a_place_in_the_array(name, seed, first, shift):
    images, order = batch_of(seed), np.roll(np.arange(BATCH), shift)
    straight = make_views(name, seed, images, full_sizes(), positions(first))
    rolled = make_views(name, seed, images[order], full_sizes(), positions(first)[order])
    np.testing.assert_array_equal(np.asarray(straight)[order], rolled)


@pytest.mark.slow
@FEW
@hypothesis.given(names, seeds)
def test_one_image_alone_equals_itself_inside_a_batch(name, seed):
    images = batch_of(seed)
    draws = DRAW[name](jax.random.key(seed), full_sizes(), positions())
    batched = APPLY[name](images, draws)
    single = SINGLE[name](images[0], jax.tree.map(lambda leaf: leaf[0, 1], draws))
    # Another compilation of the same arithmetic.
    np.testing.assert_allclose(single, batched[0, 1], rtol=0, atol=TOLERANCE)
    vmapped = VMAPPED[name](images, draws)
    np.testing.assert_allclose(vmapped, batched, rtol=0, atol=TOLERANCE)


SINGLE = {name: jax.jit(lambda x, d, r=recipe: views.apply_view(x, d, recipe=r)) for name, recipe in RECIPES.items()}
VMAPPED = {
    name: jax.jit(lambda x, d, r=recipe: views.apply_views(x, d, recipe=r._replace(loop="vmap")))
    for name, recipe in RECIPES.items()
}


@FEW
@hypothesis.given(names, seeds)
def test_the_two_views_of_an_image_are_drawn_independently(name, seed):
    draws = jax.device_get(DRAW[name](jax.random.key(seed), full_sizes(), positions()))
    for leaf in (draws.jitter.contrast, draws.jitter.hue):
        assert len(np.unique(leaf)) == leaf.size


EVAL_VIEWS = {size: jax.jit(augment.make_eval_view(image_size=size)) for size in (24, 40)}


@FEW
@hypothesis.given(st.sampled_from([24, 40]), seeds, st.lists(valid_sizes, min_size=BATCH, max_size=BATCH))
def test_the_evaluation_view_equals_float64_for_any_valid_region(size, seed, sizes):
    images = batch_of(seed)
    ours = EVAL_VIEWS[size](images, jnp.asarray(sizes, jnp.int32))
    for image, view, (height, width) in zip(images, ours, sizes, strict=True):
        # Up to 32 pixels nothing is cut off but what makes the region a square.
        box = oracle.center_crop(height, width, fraction=0.875 if size > 32 else 1.0)
        expected = np.clip(oracle.crop_resize(image / 255, box, (size, size), resize="tf2"), 0, 1)
        np.testing.assert_allclose(view, expected, rtol=0, atol=TOLERANCE, err_msg=f"region {height} x {width}")


@FEW
@hypothesis.given(seeds)
def test_a_small_image_of_the_right_size_is_evaluated_as_it_is(seed):
    images = np.random.default_rng(seed).integers(0, 256, (BATCH, 24, 24, 3), np.uint8)
    ours = EVAL_VIEWS[24](images, jnp.full((BATCH, 2), 24, jnp.int32))
    np.testing.assert_allclose(ours, images / 255, rtol=0, atol=1e-7)
