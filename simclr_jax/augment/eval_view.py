"""The one view of evaluation, without anything random."""

from collections.abc import Callable

import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.augment import crop, loops, pixels, recipe, resizing

EvalView = Callable[..., base.Array]
CENTER_FRACTION = 0.875


def center_fraction(image_size: int) -> float:
    """The share of the shorter side that an evaluation image of this size shows.

    Example:
        >>> augment.center_fraction(224), augment.center_fraction(32)
        (0.875, 1.0)
    """
    return CENTER_FRACTION if image_size > recipe.SMALL_IMAGE else 1.0


def make_eval_view(*, image_size: int, resize: str = "tf2", loop: str = "auto") -> EvalView:
    """The deterministic view of evaluation: uint8 or float [B, H, W, 3] -> float32 [B, h, w, 3] in [0, 1].

    The result is called with images and, where they fill their canvas in part, `sizes` int32 [B, 2], their valid
    (height, width). A single image [H, W, 3] gives a single view.

    Above 32 pixels: the central 87.5 % of the shorter side of the valid region, bicubic resize, clip to [0, 1]. Up to
    32 pixels: no crop; an image that already has the size is returned unchanged, any other one is the central square
    of its whole shorter side, resized.

    Raises InputError for an image_size below 1 and an unknown `resize` or `loop`.

    Reference: google-research/simclr data_util.preprocess_for_eval. Differs at 32 pixels or less, where the reference
    refuses images of any other size.

    Example:
        >>> augment.make_eval_view(image_size=6)(images).shape
        (4, 6, 6, 3)
    """
    recipe.check_size(image_size)
    resizing.check_resize(resize)
    base.check_choice(loop, ("auto", "map", "vmap"), name="loop", remedy="Use auto.")
    fraction = center_fraction(image_size)

    def view_one(example: tuple[base.Array, base.Array]) -> base.Array:
        image, valid = example
        box = crop.center_crop_box(valid[0], valid[1], fraction=fraction)
        product = loops.RESIZE_PRODUCTS[loops.resolve_loop(loop)]
        planes = crop.crop_planes(
            loops.unit_planes(image, loop=loop), box, out_size=(image_size, image_size), resize=resize, product=product
        )
        return jnp.clip(resizing.from_planes(planes), 0.0, 1.0)

    def eval_view(images: base.Array, sizes: base.Array | None = None) -> base.Array:
        pixels.check_images(images)
        if images.ndim == 3:
            return eval_view(images[None], None if sizes is None else sizes[None])[0]
        return loops.over_examples(view_one, (images, pixels.full_sizes(images) if sizes is None else sizes), loop=loop)

    return eval_view
