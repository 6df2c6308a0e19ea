"""Views whose crops have been cut already, by the host: what is left of a recipe, with the same random numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.augment import recipe as recipe_lib
from simclr_jax.augment import views


def make_views_of_crops(**settings: Any) -> base.MakeViews:
    """Flip, colour jitter, grey and blur for crops that are there: uint8 [B, V, size, size, 3] -> float32 in [0, 1].

    The result is called as `make_views(key, crops, sizes, positions)`; sizes are not read. With crops of the windows
    that `draw_views` draws of the same key, positions and sizes, the views are those of `make_simclr_views` but for the
    rounding of the crops to uint8 and their clip to [0, 1], which comes before the colour jitter here.

    Args:
        settings: those of `make_simclr_views`; `resize` and `crop_min_scale` are the host's business.

    Raises:
        InputError: as for `make_simclr_views`.

    Example:
        >>> make_views = augment.make_views_of_crops(image_size=6, blur_probability=0.0)
        >>> make_views(key, jnp.zeros((4, 2, 6, 6, 3), jnp.uint8)).shape
        (4, 2, 6, 6, 3)
    """
    recipe = recipe_lib.make_recipe(**settings)

    def make_views(
        key: base.Array, images: base.Array, sizes: base.Array | None = None, positions: base.Array | None = None
    ) -> base.Array:
        batch, count = images.shape[:2]
        positions = jnp.arange(batch, dtype=jnp.int32) if positions is None else positions
        whole = jnp.full((batch, 2), recipe.image_size, jnp.int32)
        draws = views.draw_views(key, whole, positions, recipe=recipe)._replace(box=None)  # type: ignore[arg-type]
        # Every crop is an image of its own, of one view.
        single = jax.tree.map(lambda x: x.reshape(batch * count, 1, *x.shape[2:]), draws)
        made = views.apply_views(images.reshape(batch * count, *images.shape[2:]), single, recipe=recipe)
        return made.reshape(batch, count, *made.shape[2:])

    return make_views
