"""Augmentations as pure functions that compile: `adjust_x` is deterministic, `random_x` draws, views are recipes.

Range policy: images are uint8 [0, 255] on their way in and float32 [0, 1] from then on. Bicubic resizing overshoots
that range by up to about 0.1; the overshoot is kept, as in the reference, until the first clip (after the first
operation of the colour jitter, or before the blur). Every view that leaves this package lies in [0, 1]. No mean or
standard deviation is subtracted anywhere.
"""

from simclr_jax.augment import blur, color, crop, views

CropBox = crop.CropBox
draw_crop_box = crop.draw_crop_box
center_crop_box = crop.center_crop_box
resize_weights = crop.resize_weights
adjust_crop = crop.adjust_crop
random_crop = crop.random_crop
adjust_flip = crop.adjust_flip
random_flip = crop.random_flip

ColorJitter = color.ColorJitter
draw_color_jitter = color.draw_color_jitter
adjust_color_jitter = color.adjust_color_jitter
random_color_jitter = color.random_color_jitter
adjust_brightness = color.adjust_brightness
random_brightness = color.random_brightness
adjust_brightness_additive = color.adjust_brightness_additive
random_brightness_additive = color.random_brightness_additive
adjust_contrast = color.adjust_contrast
random_contrast = color.random_contrast
adjust_saturation = color.adjust_saturation
random_saturation = color.random_saturation
adjust_hue = color.adjust_hue
random_hue = color.random_hue
adjust_grayscale = color.adjust_grayscale
random_grayscale = color.random_grayscale

blur_kernel = blur.blur_kernel
adjust_gaussian_blur = blur.adjust_gaussian_blur
random_gaussian_blur = blur.random_gaussian_blur

ViewDraws = views.ViewDraws
ViewRecipe = views.ViewRecipe
make_recipe = views.make_recipe
draw_view = views.draw_view
apply_view = views.apply_view
draw_views = views.draw_views
apply_views = views.apply_views
make_simclr_views = views.make_simclr_views
make_crop_flip_views = views.make_crop_flip_views
make_eval_view = views.make_eval_view
