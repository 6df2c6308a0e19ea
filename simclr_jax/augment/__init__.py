"""Augmentations as pure functions that compile: `random_x(key, image)` draws and applies, views are recipes.

`random_x` is `adjust_x(image, draw_x(key))`: who wants the random numbers themselves calls the two.

Range policy: images are uint8 [0, 255], or float [0, 1], on their way in and float32 [0, 1] from then on. Bicubic
resizing overshoots that range by up to about 0.1; the overshoot is kept, as in the reference, until the first clip
(after the first operation of the colour jitter, or before the blur). Every view that leaves this package lies in
[0, 1]. No mean or standard deviation is subtracted anywhere.
"""

from simclr_jax.augment.blur import adjust_gaussian_blur, blur_kernel, draw_sigma, random_gaussian_blur
from simclr_jax.augment.color import (
    adjust_brightness,
    adjust_brightness_additive,
    adjust_contrast,
    adjust_grayscale,
    adjust_hue,
    adjust_saturation,
    draw_brightness,
    draw_brightness_additive,
    draw_contrast,
    draw_grayscale,
    draw_hue,
    draw_saturation,
    random_brightness,
    random_brightness_additive,
    random_contrast,
    random_grayscale,
    random_hue,
    random_saturation,
)
from simclr_jax.augment.color_jitter import ColorJitter, adjust_color_jitter, draw_color_jitter, random_color_jitter
from simclr_jax.augment.crop import (
    CropBox,
    adjust_crop,
    center_crop_box,
    draw_crop_box,
    draw_crop_box_torchvision,
    random_resized_crop,
)
from simclr_jax.augment.eval_view import center_fraction, make_eval_view
from simclr_jax.augment.eval_views import make_eval_views, pillow_views
from simclr_jax.augment.flip import adjust_flip, draw_flip, random_flip
from simclr_jax.augment.given_crops import make_views_of_crops
from simclr_jax.augment.recipe import ViewRecipe, by_size, make_recipe, views_shape
from simclr_jax.augment.resizing import resize_weights
from simclr_jax.augment.solarize import adjust_solarize, draw_solarize, random_solarize
from simclr_jax.augment.stain import Stain, adjust_stain, draw_stain, random_stain
from simclr_jax.augment.turn import adjust_turn, draw_turn, random_turn
from simclr_jax.augment.views import (
    ViewDraws,
    apply_view,
    apply_views,
    draw_view,
    draw_views,
    make_crop_flip_views,
    make_simclr_views,
)

__all__ = [
    "ColorJitter",
    "CropBox",
    "Stain",
    "ViewDraws",
    "ViewRecipe",
    "adjust_brightness",
    "adjust_brightness_additive",
    "adjust_color_jitter",
    "adjust_contrast",
    "adjust_crop",
    "adjust_flip",
    "adjust_gaussian_blur",
    "adjust_grayscale",
    "adjust_hue",
    "adjust_saturation",
    "adjust_solarize",
    "adjust_stain",
    "adjust_turn",
    "apply_view",
    "apply_views",
    "blur_kernel",
    "by_size",
    "center_crop_box",
    "center_fraction",
    "draw_brightness",
    "draw_brightness_additive",
    "draw_color_jitter",
    "draw_contrast",
    "draw_crop_box",
    "draw_crop_box_torchvision",
    "draw_flip",
    "draw_grayscale",
    "draw_hue",
    "draw_saturation",
    "draw_sigma",
    "draw_solarize",
    "draw_stain",
    "draw_turn",
    "draw_view",
    "draw_views",
    "make_crop_flip_views",
    "make_eval_view",
    "make_eval_views",
    "make_recipe",
    "make_simclr_views",
    "make_views_of_crops",
    "pillow_views",
    "random_brightness",
    "random_brightness_additive",
    "random_color_jitter",
    "random_contrast",
    "random_flip",
    "random_gaussian_blur",
    "random_grayscale",
    "random_hue",
    "random_resized_crop",
    "random_saturation",
    "random_solarize",
    "random_stain",
    "random_turn",
    "resize_weights",
    "views_shape",
]
