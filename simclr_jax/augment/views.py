"""Recipes: what is drawn for a view, how a view is made from its draws, and the three ready-made pipelines.

Drawing and applying are separate pure functions, so any view can be replayed exactly from its draws. Drawing is
cheap and runs for the whole batch at once; applying runs image by image on a CPU and all at once on accelerators.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax import base
from simclr_jax.augment import blur, color, color_jitter, crop, loops, pixels, resizing, solarize, turn
from simclr_jax.augment import recipe as recipe_lib
from simclr_jax.augment import stain as stain_lib

ViewRecipe = recipe_lib.ViewRecipe


class ViewDraws(NamedTuple):
    """Everything that is random in one view; scalars, with leading axes [B, V] when batched.

    flip, jitter_applied, gray_applied, blur_applied, solarize_applied: bool. blur_sigma: float32, pixels.
    turns: int32, right angles; None where no view is turned.
    stain: None where stains stay.
    """

    box: crop.CropBox
    flip: base.Array
    jitter_applied: base.Array
    jitter: color_jitter.ColorJitter
    gray_applied: base.Array
    blur_applied: base.Array
    blur_sigma: base.Array
    solarize_applied: base.Array
    turns: base.Array | None = None
    stain: stain_lib.Stain | None = None


def draw_view(
    key: base.Array, shared_key: base.Array, size: base.Array, *, recipe: ViewRecipe, view: base.Array | int = 0
) -> ViewDraws:
    """The random numbers of one view of an image with valid (height, width) `size`, int32 [2].

    `key` belongs to this view of this example alone, `shared_key` to this view of the whole batch: by default the
    blur's sigma is drawn from it. `view` is its number, which settings that differ between views go by.

    Example:
        >>> recipe = augment.make_recipe(image_size=4)
        >>> augment.draw_view(key, key, jnp.asarray([8, 10]), recipe=recipe).flip.shape
        ()
    """
    box_key, chance_key, jitter_key, sigma_key = jax.random.split(key, 4)
    area_range = (recipe.crop_min_scale, recipe.crop_max_scale)
    if recipe.crop_sampler == "torchvision":
        box = crop.draw_crop_box_torchvision(box_key, height=size[0], width=size[1], area_range=area_range)
    else:
        box = crop.draw_crop_box(
            box_key, height=size[0], width=size[1], area_range=area_range, min_coverage=recipe.min_coverage
        )
    chances = jax.random.uniform(chance_key, (4,))
    return ViewDraws(
        box=box,
        flip=chances[0] < recipe.flip_probability,
        jitter_applied=chances[1] < recipe.color_jitter_probability,
        jitter=color_jitter.draw_color_jitter(
            jitter_key, strength=recipe.color_jitter_strength, brightness=recipe.brightness
        ),
        gray_applied=chances[2] < recipe.grayscale_probability,
        blur_applied=chances[3] < recipe_lib.of_view(recipe.blur_probability, view),
        blur_sigma=blur.draw_sigma(shared_key if recipe.blur_sigma_per == "view" else sigma_key),
        # A key beside the four: recipes without solarisation draw what they drew before there was one.
        solarize_applied=solarize.draw_solarize(
            jax.random.fold_in(key, 4), probability=recipe_lib.of_view(recipe.solarize_probability, view)
        )
        if recipe.solarizes
        else jnp.zeros((), bool),
        turns=turn.draw_turn(jax.random.fold_in(key, 5), probability=recipe.turn_probability)
        if recipe.turn_probability > 0
        else None,
        stain=stain_lib.draw_stain(jax.random.fold_in(key, 6), strength=recipe.stain_strength)
        if recipe.stain_strength > 0
        else None,
    )


def apply_view(image: base.Array, draws: ViewDraws, *, recipe: ViewRecipe) -> base.Array:
    """One view from its draws: uint8 [H, W, 3] -> float32 [size, size, 3] in [0, 1].

    Crop and resize, flip, turn, stains, jitter, grey, clip, blur, clip, solarise. Operations that the recipe rules out
    are not compiled.

    Reference: google-research/simclr data_util.preprocess_for_train and batch_random_blur.

    Example:
        >>> recipe = augment.make_recipe(image_size=4)
        >>> draws = augment.draw_view(key, key, jnp.asarray([8, 10]), recipe=recipe)
        >>> augment.apply_view(images[0], draws, recipe=recipe).shape
        (4, 4, 3)
    """
    return resizing.from_planes(_apply_planes(loops.unit_planes(image), draws, recipe=recipe))


def _apply_planes(planes: base.Array, draws: ViewDraws, *, recipe: ViewRecipe) -> base.Array:
    axis, size = resizing.PLANES_AXIS, recipe.image_size
    flip = draws.flip if recipe.flip_probability > 0 else False
    product = loops.RESIZE_PRODUCTS[loops.resolve_loop(recipe.loop)]
    view = crop.crop_planes(planes, draws.box, flip, out_size=(size, size), resize=recipe.resize, product=product)
    if draws.turns is not None:
        view = turn.adjust_turn(view, draws.turns, axes=(0, 2))
    if draws.stain is not None:
        view = stain_lib.adjust_stain(view, draws.stain, channel_axis=axis)
    if recipe.jitters:
        view = lax.cond(
            draws.jitter_applied,
            lambda x: color_jitter.adjust_color_jitter(
                x, draws.jitter, brightness=recipe.brightness, channel_axis=axis
            ),
            lambda x: x,
            view,
        )
    if recipe.grayscale_probability > 0:
        view = lax.cond(draws.gray_applied, lambda x: color.adjust_grayscale(x, channel_axis=axis), lambda x: x, view)
    view = jnp.clip(view, 0.0, 1.0)
    if recipe.blurs:
        kernel_size = blur.kernel_size_for(size)
        view = lax.cond(
            draws.blur_applied,
            lambda x: jnp.clip(blur.blur_planes(x, draws.blur_sigma, kernel_size=kernel_size), 0.0, 1.0),
            lambda x: x,
            view,
        )
    if recipe.solarizes:
        view = lax.cond(draws.solarize_applied, solarize.adjust_solarize, lambda x: x, view)
    return view


def _apply_at_once(planes: base.Array, draws: ViewDraws, *, recipe: ViewRecipe) -> base.Array:
    """`_apply_planes` for many views at once, [H, 3, W] -> [size, size, 3]: selected pixel by pixel, few passes."""
    size = recipe.image_size
    flip = draws.flip if recipe.flip_probability > 0 else False
    view = crop.crop_planes(planes, draws.box, flip, out_size=(size, size), resize=recipe.resize)
    channels: color.Channels = tuple(view[:, c] for c in range(3))
    if draws.turns is not None:
        channels = tuple(turn.adjust_turn(channel, draws.turns) for channel in channels)
    if draws.stain is not None:
        channels = stain_lib.stained(channels, draws.stain)
    if recipe.jitters:
        channels = color_jitter.adjust_color_jitter_at_once(
            channels, draws.jitter, draws.jitter_applied, brightness=recipe.brightness
        )
    if recipe.grayscale_probability > 0:
        channels = color.adjust_grayscale_at_once(channels, draws.gray_applied)
    channels = tuple(jnp.clip(channel, 0.0, 1.0) for channel in channels)
    if recipe.blurs:
        blurred = blur.blur_at_once(
            jnp.stack(channels), draws.blur_sigma, draws.blur_applied, kernel_size=blur.kernel_size_for(size)
        )
        channels = tuple(jnp.clip(blurred[c], 0.0, 1.0) for c in range(3))
    if recipe.solarizes:
        channels = tuple(jnp.where(draws.solarize_applied, solarize.adjust_solarize(c), c) for c in channels)
    return jnp.stack(channels, axis=-1)


def draw_views(key: base.Array, sizes: base.Array, positions: base.Array, *, recipe: ViewRecipe) -> ViewDraws:
    """The random numbers of all views of a batch of one size, every array with leading axes [B, V].

    An example's draws depend on `key`, its position, its size and the view only: not on the batch around it, nor on
    how the batch is spread over devices.

    Args:
        key: the step's key.
        sizes: int32 [B, 2], valid (height, width) of every image.
        positions: int32 [B], place of every image in the global batch.

    Example:
        >>> recipe = augment.make_recipe(image_size=4)
        >>> augment.draw_views(key, jnp.full((4, 2), 8), jnp.arange(4), recipe=recipe).flip.shape
        (4, 2)
    """
    example_root, shared_root = jax.random.split(key)
    views = recipe.first_view + jnp.arange(recipe.num_views, dtype=jnp.int32)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    shared_keys = fold(shared_root, views)

    def draw_example(position: base.Array, size: base.Array) -> ViewDraws:
        keys = fold(jax.random.fold_in(example_root, position), views)
        return jax.vmap(
            lambda view_key, shared_key, view: draw_view(view_key, shared_key, size, recipe=recipe, view=view)
        )(keys, shared_keys, views)

    return jax.vmap(draw_example)(positions, sizes)


def apply_views(images: base.Array, draws: ViewDraws, *, recipe: ViewRecipe) -> base.Array:
    """All views of a batch from their draws: uint8 [B, H, W, 3] -> float32 [B, V, size, size, 3].

    Example:
        >>> recipe = augment.make_recipe(image_size=4)
        >>> draws = augment.draw_views(key, jnp.full((4, 2), 8), jnp.arange(4), recipe=recipe)
        >>> augment.apply_views(images, draws, recipe=recipe).shape
        (4, 2, 4, 4, 3)
    """

    def apply_example(example: tuple[base.Array, ViewDraws]) -> base.Array:
        image, example_draws = example
        planes = loops.unit_planes(image, loop=recipe.loop)
        if loops.resolve_loop(recipe.loop) == "vmap":
            return jax.vmap(lambda d: _apply_at_once(planes, d, recipe=recipe))(example_draws)
        views = lax.map(lambda d: _apply_planes(planes, d, recipe=recipe), example_draws)
        return jnp.swapaxes(views, 2, 3)

    return loops.over_examples(apply_example, (images, draws), loop=recipe.loop)


def _make_views(recipe: ViewRecipe) -> base.MakeViews:
    def make_views(
        key: base.Array, images: base.Array, sizes: base.Array | None = None, positions: base.Array | None = None
    ) -> base.Views:
        pixels.check_images(images)
        if images.ndim == 3:
            views = make_views(key, images[None], None if sizes is None else sizes[None], positions)
            return jax.tree.map(lambda x: x[0], views)
        if positions is None:
            positions = jnp.arange(len(images), dtype=jnp.int32)
        sizes = pixels.full_sizes(images) if sizes is None else sizes
        views = tuple(
            apply_views(images, draw_views(key, sizes, positions, recipe=part), recipe=part)
            for part in recipe_lib.by_size(recipe)
        )
        return views[0] if len(views) == 1 else views

    return make_views


def make_simclr_views(
    *,
    image_size: int,
    color_jitter_strength: float | tuple[float, ...] = 1.0,
    brightness: str = "multiply",
    resize: str = "tf2",
    num_views: int = 2,
    flip_probability: float = 0.5,
    color_jitter_probability: float = 0.8,
    grayscale_probability: float = 0.2,
    blur_probability: float | tuple[float, ...] = 0.5,
    blur_sigma_per: str = "view",
    solarize_probability: float | tuple[float, ...] = 0.0,
    crop_min_scale: float = 0.08,
    crop_sampler: str = "reference",
    num_small_views: int = 0,
    small_image_size: int = 96,
    small_crop_scale: tuple[float, float] = (0.05, 0.14),
    turn_probability: float = 0.0,
    stain_strength: float = 0.0,
    loop: str = "auto",
) -> base.MakeViews:
    """The pre-training augmentation of SimCLR: uint8 [B, H, W, 3] -> float32 [B, num_views, h, w, 3] in [0, 1].

    The result is called as `make_views(key, images)`, see `base.MakeViews`. With small crops (multi-crop, SwAV) it
    gives a tuple: the large views as above, and float32 [B, num_small_views, small_image_size, small_image_size, 3].

    Args:
        image_size: side of the square views, pixels.
        color_jitter_strength: 0 (leaves it out) to 1.25; 1.0 for ImageNet, 0.5 for CIFAR-10. Or the four numbers
            (brightness, contrast, saturation, hue) as torchvision has them, where a strength s stands for
            (0.8 s, 0.8 s, 0.8 s, 0.2 s).
        brightness: "multiply" (SimCLRv2 and the reference's default) or "add" (first SimCLR release).
        resize: "tf2" or "tf1", the bicubic of either release; see `resizing.resize_weights`.
        flip_probability, color_jitter_probability, grayscale_probability, blur_probability, solarize_probability:
            chance of each operation per view; one with probability 0 is not compiled at all. The CIFAR recipes switch
            the blur off. Blur and solarisation may have several numbers, which the views take in turn, small crops
            after the large views: (1.0, 0.1) and (0.0, 0.2) are the two distributions of BYOL.
        blur_sigma_per: "view": one sigma for this view of the whole batch, as the reference does; "image": one each.
        crop_min_scale: smallest crop area as a fraction of the image; crops below 10 % are rejected in any case by the
            reference's sampler.
        crop_sampler: "reference" is SimCLR's, see `draw_crop_box`; "torchvision" its RandomResizedCrop's, which the
            other methods' codes have, see `draw_crop_box_torchvision`.
        num_small_views: crops of small_image_size pixels beside the large views, 6 in SwAV; 0 for none.
        small_crop_scale: smallest and largest area of a small crop; with it crop_min_scale is 0.14 in SwAV.
        turn_probability: chance that a view is turned by a right angle drawn evenly, for pictures without an up.
        stain_strength: of the jitter of haematoxylin and eosin, see `adjust_stain`; 0.05 is light, 0.2 strong.
        loop: "map" takes images one by one, "vmap" all at once, "auto" what suits the backend. Results agree to
            float32 rounding. On several devices call it on each device's own rows, inside `jax.shard_map`.

    Raises:
        InputError: a value outside its range or an unknown choice.

    Reference: SimCLR (Chen et al., 2020), appendix A; google-research/simclr data_util.preprocess_image. Differs in
    the random numbers, and in that a sigma is shared by the global batch, not by one replica's part of it.

    Example:
        >>> make_views = augment.make_simclr_views(image_size=6, blur_probability=0.0)
        >>> make_views(key, images).shape
        (4, 2, 6, 6, 3)
    """
    return _make_views(recipe_lib.make_recipe(**locals()))


def make_crop_flip_views(
    *,
    image_size: int,
    resize: str = "tf2",
    flip_probability: float = 0.5,
    crop_min_scale: float = 0.08,
    loop: str = "auto",
) -> base.MakeViews:
    """Training augmentation of linear evaluation, fine-tuning and distillation: random crop, flip, clip; one view.

    Returns float32 [B, 1, image_size, image_size, 3]. Arguments and errors as in `make_simclr_views`.

    Reference: google-research/simclr data_util.preprocess_for_train with color_distort=False.

    Example:
        >>> augment.make_crop_flip_views(image_size=6)(key, images).shape
        (4, 1, 6, 6, 3)
    """
    return _make_views(
        recipe_lib.make_recipe(
            **locals(), num_views=1, color_jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0
        )
    )
