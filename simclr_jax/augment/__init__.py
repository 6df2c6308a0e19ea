"""Augmentations as pure functions that compile: `random_x(key, image)` draws and applies, views are recipes.

`random_x` is `adjust_x(image, draw_x(key))`: who wants the random numbers themselves calls the two.

Range policy: images are uint8 [0, 255], or float [0, 1], on their way in and float32 [0, 1] from then on. Bicubic
resizing overshoots that range by up to about 0.1; the overshoot is kept, as in the reference, until the first clip
(after the first operation of the colour jitter, or before the blur). Every view that leaves this package lies in
[0, 1]. No mean or standard deviation is subtracted anywhere.
"""

from simclr_jax.augment import blur, color, color_jitter, crop, flip, views

CropBox = crop.CropBox
draw_crop_box = crop.draw_crop_box
center_crop_box = crop.center_crop_box
resize_weights = crop.resize_weights
adjust_crop = crop.adjust_crop
random_resized_crop = crop.random_resized_crop
adjust_flip = flip.adjust_flip
draw_flip = flip.draw_flip
random_flip = flip.random_flip

ColorJitter = color_jitter.ColorJitter
draw_color_jitter = color_jitter.draw_color_jitter
adjust_color_jitter = color_jitter.adjust_color_jitter
random_color_jitter = color_jitter.random_color_jitter
adjust_brightness = color.adjust_brightness
draw_brightness = color.draw_brightness
random_brightness = color.random_brightness
adjust_brightness_additive = color.adjust_brightness_additive
draw_brightness_additive = color.draw_brightness_additive
random_brightness_additive = color.random_brightness_additive
adjust_contrast = color.adjust_contrast
draw_contrast = color.draw_contrast
random_contrast = color.random_contrast
adjust_saturation = color.adjust_saturation
draw_saturation = color.draw_saturation
random_saturation = color.random_saturation
adjust_hue = color.adjust_hue
draw_hue = color.draw_hue
random_hue = color.random_hue
adjust_grayscale = color.adjust_grayscale
draw_grayscale = color.draw_grayscale
random_grayscale = color.random_grayscale

blur_kernel = blur.blur_kernel
adjust_gaussian_blur = blur.adjust_gaussian_blur
draw_sigma = blur.draw_sigma
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
