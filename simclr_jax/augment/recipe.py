"""The settings of a pipeline of views, checked once: what `make_simclr_views` takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.augment import color_jitter, crop, resizing

# Up to this size the reference neither crops in evaluation nor uses the ImageNet stem.
SMALL_IMAGE = 32

PerView = float | Sequence[float]


class ViewRecipe(NamedTuple):
    """The settings of a view pipeline, checked by `make_recipe`; see `make_simclr_views` for their meaning.

    first_view: number of the first view, by which random keys and probabilities are chosen; small crops come after
        the large views. min_coverage: crops below this share of the image are rejected, by the reference's sampler.
    """

    image_size: int
    color_jitter_strength: float | tuple[float, ...] = 1.0
    brightness: str = "multiply"
    resize: str = "tf2"
    num_views: int = 2
    flip_probability: float = 0.5
    color_jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    blur_probability: float | tuple[float, ...] = 0.5
    blur_sigma_per: str = "view"
    solarize_probability: float | tuple[float, ...] = 0.0
    crop_min_scale: float = 0.08
    crop_sampler: str = "reference"
    num_small_views: int = 0
    small_image_size: int = 96
    small_crop_scale: tuple[float, float] = (0.05, 0.14)
    turn_probability: float = 0.0
    stain_strength: float = 0.0
    loop: str = "auto"
    crop_max_scale: float = 1.0
    min_coverage: float = 0.1
    first_view: int = 0

    @property
    def jitters(self) -> bool:
        """Whether the colour jitter can change a view at all."""
        return self.color_jitter_probability > 0 and max(as_tuple(self.color_jitter_strength)) > 0

    @property
    def blurs(self) -> bool:
        """Whether any view may be blurred."""
        return max(as_tuple(self.blur_probability)) > 0

    @property
    def solarizes(self) -> bool:
        """Whether any view may be solarised."""
        return max(as_tuple(self.solarize_probability)) > 0


def as_tuple(value: PerView) -> tuple[float, ...]:
    """One number, or several, as a tuple."""
    return (value,) if isinstance(value, int | float) else tuple(value)


def of_view(value: PerView, view: base.Array | int) -> Any:
    """The number that belongs to a view: `value` itself, or its entries in turn. `view` may be traced."""
    if isinstance(value, int | float):
        return value
    return jnp.asarray(value, jnp.float32)[view % len(value)]


def check_size(size: int, *, name: str = "image_size") -> None:
    """Raises InputError for a side of views, called `name`, that is out of range."""
    if not 1 <= size <= 4096:
        raise base.InputError(f"{name} must be 1 to 4096 pixels; got {size}. Use 32 for CIFAR, 224 for ImageNet.")


def make_recipe(**settings: Any) -> ViewRecipe:
    """A checked ViewRecipe from the keyword arguments of `make_simclr_views`.

    Raises:
        InputError: a value outside its range, an unknown choice or an unknown setting.

    Example:
        >>> augment.make_recipe(image_size=32, color_jitter_strength=0.5).num_views
        2
    """
    unknown = sorted(set(settings) - set(ViewRecipe._fields))
    if unknown or "image_size" not in settings:
        raise base.InputError(
            f"view settings must include image_size and be among {', '.join(ViewRecipe._fields)}; "
            f"got {', '.join(sorted(settings)) or 'none'}. Correct the names."
        )
    # Settings that come from a file have lists.
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    recipe = ViewRecipe(**values)
    check_size(recipe.image_size)
    color_jitter.check_jitter(recipe.color_jitter_strength, recipe.brightness, name="color_jitter_strength")
    resizing.check_resize(recipe.resize)
    base.check_choice(recipe.blur_sigma_per, ("view", "image"), name="blur_sigma_per", remedy="Use view.")
    base.check_choice(recipe.crop_sampler, crop.SAMPLERS, name="crop_sampler", remedy="Use reference.")
    base.check_choice(recipe.loop, ("auto", "map", "vmap"), name="loop", remedy="Use auto.")
    for name in (field for field in ViewRecipe._fields if field.endswith("_probability")):
        for value in as_tuple(getattr(recipe, name)) or (-1.0,):
            if not 0 <= value <= 1:
                raise base.InputError(f"{name} must be in [0, 1]; got {value:g}. Use 0 to switch the operation off.")
    if not 0 < recipe.crop_min_scale <= 1:
        raise base.InputError(f"crop_min_scale must be in (0, 1]; got {recipe.crop_min_scale:g}. Use 0.08.")
    if not 0 <= recipe.stain_strength < 1:
        raise base.InputError(
            f"stain_strength must be at least 0 and below 1; got {recipe.stain_strength:g}. Use 0.05, or 0 for none."
        )
    if recipe.num_views < 1:
        raise base.InputError(f"num_views must be at least 1; got {recipe.num_views}. Use 2.")
    _check_small(recipe)
    return recipe


def _check_small(recipe: ViewRecipe) -> None:
    if recipe.num_small_views < 0:
        raise base.InputError(
            f"num_small_views must be at least 0; got {recipe.num_small_views}. Use 6, or 0 for none."
        )
    check_size(recipe.small_image_size, name="small_image_size")
    scale = recipe.small_crop_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise base.InputError(
            f"small_crop_scale must be two numbers that rise, in (0, 1]; got {tuple(scale)}. Use (0.05, 0.14)."
        )


def by_size(recipe: ViewRecipe) -> tuple[ViewRecipe, ...]:
    """Recipes of one size each: the large views, then, if there are any, the small crops.

    Example:
        >>> recipe = augment.make_recipe(image_size=8, num_small_views=3, small_image_size=4)
        >>> [(part.image_size, part.num_views, part.first_view) for part in augment.by_size(recipe)]
        [(8, 2, 0), (4, 3, 2)]
    """
    large = recipe._replace(num_small_views=0)
    if not recipe.num_small_views:
        return (large,)
    low, high = recipe.small_crop_scale
    small = large._replace(
        image_size=recipe.small_image_size,
        num_views=recipe.num_small_views,
        crop_min_scale=low,
        crop_max_scale=high,
        min_coverage=0.0,
        first_view=recipe.num_views,
    )
    return large, small


def views_shape(recipe: ViewRecipe, *, batch_size: int = 2) -> tuple[Any, ...]:
    """The shape (B, V, h, w, 3) of a recipe's views; with small crops a tuple of two such shapes.

    Example:
        >>> augment.views_shape(augment.make_recipe(image_size=8))
        (2, 2, 8, 8, 3)
    """
    shapes = tuple((batch_size, part.num_views, part.image_size, part.image_size, 3) for part in by_size(recipe))
    return shapes[0] if len(shapes) == 1 else shapes
