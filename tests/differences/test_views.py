"""The size of intended differences in how views are made; the words beside it stand in docs/parity.md."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import augment
from simclr_jax.augment import color, crop, views
from tests.augment import test_crop
from tests.augment.test_blur import _blur
from tests.peers import torchvision_function

pytestmark = pytest.mark.slow  # for docs/parity.md

SIZE = 96  # pixels, of a resized photograph
FACTORS = (0.2, 0.6, 1.4, 1.8)


@functools.cache
def photographs():
    """The two photographs that come with scikit-learn, float32 [427, 640, 3] in [0, 1]."""
    from sklearn import datasets

    images = (datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    return [image.astype(np.float32) / np.float32(255) for image in images]


def mean_and_largest(errors):
    """Of absolute differences, over several images."""
    errors = list(errors)
    return float(np.mean([error.mean() for error in errors])), float(max(error.max() for error in errors))


def clipped_difference(ours, theirs):
    """(mean, largest) absolute difference of two operations over both photographs, clipped to [0, 1]."""
    pairs = ([ours(jnp.asarray(x), f), theirs(jnp.asarray(x), f)] for x in photographs() for f in FACTORS)
    return mean_and_largest(np.abs(np.clip(a, 0, 1) - np.clip(b, 0, 1)) for a, b in pairs)


def test_brightness(effect):
    """The same draw in both forms: factor 1 + u against offset u."""
    mean, _ = clipped_difference(color.adjust_brightness, lambda x, f: color.adjust_brightness_additive(x, f - 1))
    text = f"a pixel changes by {mean:.2f} of its range on average, for the same draws at strength 1"
    effect("brightness", text, mean, low=0.02, high=0.5)


@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_operation_of_torchvision(name, torchvision, effect):
    mean, largest = clipped_difference(getattr(color, f"adjust_{name}"), torchvision_function(f"adjust_{name}"))
    text = f"a pixel differs by {mean:.3f} on average, at most {largest:.2f} of its range"
    effect(name, text, mean, low=0.005, high=0.5)


def windows(torchvision, height, width, *, count):
    """Windows of our sampler and of torchvision's RandomResizedCrop: two arrays [count, 4] of y, x, height, width."""
    import torch

    get = torchvision.transforms.RandomResizedCrop.get_params
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    theirs = np.array([get(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    ours = test_crop._many_boxes(jax.random.key(3), jnp.int32(height), jnp.int32(width))
    return np.asarray(ours), theirs


def test_crop_sampler(effect, torchvision):
    ours, theirs = (b[:, 2] * b[:, 3] / (375 * 500) for b in windows(torchvision, 375, 500, count=20_000))
    words = ["/".join(f"{q:.3f}" for q in np.quantile(area, (0.1, 0.5, 0.9))) for area in (ours, theirs)]
    distance = float(test_crop._kolmogorov_smirnov(ours, theirs))
    text = f"area at 10/50/90 % for 375x500: {words[0]} against {words[1]}; KS distance {distance:.3f}"
    effect("crop sampler", text, distance, low=0.05, high=0.3)
    text = f"smallest area {ours.min():.3f} against {theirs.min():.3f} of the image"
    effect("smallest crop", text, ours.min() - theirs.min(), low=0.01, high=0.03)


def test_last_offset_of_a_crop(effect, torchvision):
    boxes = (b[b[:, 2] < 32] for b in windows(torchvision, 32, 32, count=5000))
    ours, theirs = (float(np.mean(b[:, 0] == 32 - b[:, 2])) for b in boxes)
    text = f"{100 * ours:.1f} % against {100 * theirs:.1f} % of the crops of a 32-pixel image touch the lower border"
    effect("last offset of a crop", text, theirs - ours, low=0.03, high=0.3)


def resized(image, method):
    """A whole photograph at SIZE, by one of our kernels, by JAX's ("exact") or by JAX's with anti-aliasing."""
    if method in ("antialiased", "exact"):
        how = {"method": "cubic", "antialias": method == "antialiased"}
        return np.asarray(jax.image.resize(jnp.asarray(image), (SIZE, SIZE, 3), **how))
    box = crop.CropBox(*(jnp.int32(v) for v in (0, 0, *image.shape[:2])))
    return np.asarray(test_crop.ADJUST_CROP(image, box, size=(SIZE, SIZE), resize=method))


def test_bicubic_kernels(effect):
    def errors(method):
        return mean_and_largest(np.abs(resized(image, "tf2") - resized(image, method)) for image in photographs())

    for topic, method in (("bicubic: TF1 against TF2", "tf1"), ("bicubic: anti-aliasing", "antialiased")):
        mean, largest = errors(method)
        text = f"mean {mean:.3f}, at most {largest:.2f} of a pixel's range, photographs to {SIZE} px"
        effect(topic, text, mean, low=0.01, high=0.5)
    _, largest = errors("exact")
    text = f"at most {largest:.1e} of a pixel's range"
    effect("bicubic: table of weights", text, largest, low=1e-6, high=1.5e-3)


def test_borders_of_the_blur(effect, torchvision):
    ones = np.ones((224, 224, 3), np.float32)
    ours = float(np.asarray(_blur(ones, 2.0, kernel_size=22))[0, 0, 0])
    theirs = float(torchvision_function("gaussian_blur")(ones, [23, 23], [2.0, 2.0])[0, 0, 0])
    text = f"corner of a white image at 224 px, sigma 2: {ours:.3f} against {theirs:.3f}"
    effect("blur: borders", text, theirs - ours, low=0.6, high=0.7)


def test_sharing_of_sigma(effect):
    deviations = {}
    sizes, positions = np.full((512, 2), 32, np.int32), np.arange(512, dtype=np.int32)
    for per in ("view", "image"):
        recipe = augment.make_recipe(image_size=32, blur_sigma_per=per)
        draw = jax.jit(lambda k, s, p, recipe=recipe: views.draw_views(k, s, p, recipe=recipe).blur_sigma)
        deviations[per] = float(np.asarray(draw(jax.random.key(0), sizes, positions))[:, 0].std())
    view, image = deviations["view"], deviations["image"]
    text = f"deviation of sigma within a view of a batch: {view:.2f} against {image:.2f} pixels"
    effect("blur: sigma", text, image - view, low=0.5, high=0.6)
