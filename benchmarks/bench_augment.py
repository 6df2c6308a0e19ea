"""The augmentation of SimCLR, one view of an image, beside other libraries; see `PROGRAM.words`."""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness, peers

# How far the facts of a peer may be from ours; see `compare`.
BRIGHTNESS_BAND, GRADIENT_BAND = (0.85, 1.15), (0.6, 1.6)
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}


class Case(NamedTuple):
    """count images of `canvas` pixels become views of `size` pixels, blurred (23 taps at 224) with probability blur."""

    count: int
    canvas: int
    size: int
    blur: float


CASES = {"32 px, no blur": Case(1024, 32, 32, 0.0), "224 px, blur": Case(64, 256, 224, 0.5)}
SMALLEST = {"32 px, 64 images": Case(64, 32, 32, 0.0)}
# images uint8 [N, H, W, 3] -> float in [0, 1] or uint8, [N, h, w, 3], as a NumPy array.
Augment = Callable[[], np.ndarray]


def photographs(count: int, side: int) -> np.ndarray:
    """uint8 [count, side, side, 3] with the spectrum of photographs: amplitude falls as 1 / frequency."""
    rng = np.random.default_rng(side)
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / side)
    noise = np.fft.rfft2(rng.normal(size=(count, 3, side, side)))
    planes = np.fft.irfft2(noise * amplitude, s=(side, side))
    planes = 0.8 * planes.mean(axis=1, keepdims=True) + 0.4 * planes
    planes /= planes.std(axis=(1, 2, 3), keepdims=True)
    pixels = 120 + 50 * planes + rng.normal(scale=20, size=(count, 1, 1, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


def facts(view: Augment, *, calls: int) -> dict[str, Any]:
    """Of the views of `calls` calls: shape, range, mean brightness, mean step to the pixel on the right."""
    views = np.concatenate([np.asarray(view()) for _ in range(calls)])
    scale = 255.0 if views.dtype == np.uint8 else 1.0
    views = views.astype(np.float64) / scale
    return {
        "shape": list(views.shape[1:]),
        "range": [float(views.min()), float(views.max())],
        "brightness": float(views.mean()),
        "gradient": float(np.abs(np.diff(views, axis=2)).mean()),
    }


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Equal shapes, values in [0, 1], and brightness and gradient within their bands around ours."""
    if theirs["shape"] != ours["shape"]:
        return f"views of {theirs['shape']} are not {ours['shape']}"
    if theirs["range"][0] < -1e-3 or theirs["range"][1] > 1 + 1e-3:
        return f"values from {theirs['range'][0]:.3f} to {theirs['range'][1]:.3f} leave [0, 1]"
    for name, (low, high) in (("brightness", BRIGHTNESS_BAND), ("gradient", GRADIENT_BAND)):
        ratio = theirs[name] / ours[name]
        if not low <= ratio <= high:
            return f"mean {name} is {ratio:.2f} times ours, outside {low} to {high}"
    return ""


def _prepare(make: Callable[[Case, np.ndarray], Augment], case: str) -> harness.Work:
    settings = {**CASES, **SMALLEST}[case]
    images = photographs(settings.count, settings.canvas)
    view = make(settings, images)
    # The mean of a few images varies more than the band is wide.
    calls = -(-256 // settings.count)
    return harness.Work(facts(view, calls=calls), view, calls=calls, amount=settings.count)


def _jitted(view: Callable[[Any, Any], Any], images: np.ndarray) -> Augment:
    """`view(key, images)` compiled, with a new key in every call."""
    import jax

    images, keys = jax.device_put(images), itertools.count()
    compiled = jax.jit(view).lower(jax.random.key(0), images).compile()
    return lambda: np.asarray(compiled(jax.random.key(next(keys)), images))


def _ours(case: Case, images: np.ndarray) -> Augment:
    import jax.numpy as jnp

    from simclr_jax import augment

    make = augment.make_simclr_views(
        image_size=case.size, color_jitter_strength=1.0, num_views=1, blur_probability=case.blur
    )
    sizes = jnp.full((case.count, 2), case.canvas, jnp.int32)
    positions = jnp.arange(case.count, dtype=jnp.int32)
    return _jitted(lambda key, images: make(key, images, sizes, positions)[:, 0], images)


def _albumentations(case: Case, images: np.ndarray) -> Augment:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask a server for its newest version
    import albumentations as a
    import cv2

    cv2.setNumThreads(0)
    crop = a.RandomResizedCrop(size=(case.size, case.size), scale=(0.08, 1.0), interpolation=cv2.INTER_CUBIC)
    steps = [crop, a.HorizontalFlip(p=0.5), a.ColorJitter(**JITTER, p=0.8), a.ToGray(p=0.2)]
    if case.blur:
        steps.append(a.GaussianBlur(blur_limit=(23, 23), sigma_limit=(0.1, 2.0), p=case.blur))
    view = a.Compose(steps, seed=0)
    return lambda: np.stack([view(image=image)["image"] for image in images])


def _pil_views(view: Callable[[Any], Any], images: np.ndarray) -> Augment:
    """`view` of a PIL image -> torch float [3, h, w], image by image."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures = [Image.fromarray(image) for image in images]
    return lambda: torch.stack([view(picture) for picture in pictures]).permute(0, 2, 3, 1).numpy()


def _torchvision(case: Case, images: np.ndarray) -> Augment:
    peers.load_torchvision()
    import torch
    from torchvision.transforms import InterpolationMode, v2

    steps = [
        v2.RandomResizedCrop(case.size, scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(**JITTER)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if case.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=case.blur))
    return _pil_views(v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]), images)


def _lightly(case: Case, images: np.ndarray) -> Augment:
    peers.load_torchvision()
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    return _pil_views(SimCLRViewTransform(case.size, gaussian_blur=case.blur, normalize=None), images)


def _kornia(case: Case, images: np.ndarray) -> Augment:
    """In batches of a quarter of the images, which its memory suits better than the whole."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    view = peers.kornia_views(size=case.size, strength=1.0, blur=(23, case.blur))
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(-(-case.count // 4))

    def call() -> np.ndarray:
        with torch.no_grad():
            views = torch.cat([view(batch.float() / 255) for batch in batches])
        return views.clamp(0, 1).permute(0, 2, 3, 1).numpy()  # bicubic resizing leaves the range

    return call


def _dm_pix(case: Case, images: np.ndarray) -> Augment:
    """jit(vmap), one order of the colour operations; the crop is jax.image's, brightness a product: it has neither."""
    import dm_pix
    import jax
    import jax.numpy as jnp

    def view(key: Any, image: Any) -> Any:
        keys = jax.random.split(key, 9)
        image = image.astype(jnp.float32) / 255
        area = jax.random.uniform(keys[0], (), minval=0.08, maxval=1.0)
        aspect = jnp.exp(jax.random.uniform(keys[1], (), minval=-jnp.log(4 / 3), maxval=jnp.log(4 / 3)))
        extent = jnp.minimum(jnp.sqrt(area * jnp.stack([1 / aspect, aspect])), 1.0) * case.canvas
        offset = jax.random.uniform(keys[2], (2,)) * (case.canvas - extent)
        scale, shape = case.size / extent, (case.size, case.size, 3)
        image = jax.image.scale_and_translate(image, shape, (0, 1), scale, -offset * scale, "cubic")
        image = dm_pix.random_flip_left_right(keys[3], image)
        jittered = image * jax.random.uniform(keys[4], (), minval=0.2, maxval=1.8)
        jittered = dm_pix.random_contrast(keys[5], jittered, 0.2, 1.8)
        jittered = dm_pix.random_saturation(keys[6], jittered, 0.2, 1.8)
        jittered = dm_pix.random_hue(keys[7], jittered, 0.2)
        chances = jax.random.uniform(keys[8], (4,))
        image = jnp.clip(jnp.where(chances[0] < 0.8, jittered, image), 0, 1)
        image = jnp.where(chances[1] < 0.2, dm_pix.rgb_to_grayscale(image, keep_dims=True), image)
        if case.blur:
            blurred = dm_pix.gaussian_blur(image, 0.1 + 1.9 * chances[3], kernel_size=23)
            image = jnp.where(chances[2] < case.blur, blurred, image)
        return jnp.clip(image, 0, 1)

    return _jitted(lambda key, images: jax.vmap(view)(jax.random.split(key, case.count), images), images)


def _augmax(case: Case, images: np.ndarray) -> Augment:
    """jit(vmap); square crops and one sigma: it has no others."""
    import augmax
    import jax
    import jax.numpy as jnp

    whole = case.size / case.canvas  # a zoom is pixels of the view per pixel of the image
    steps = [
        augmax.ByteToFloat(),
        augmax.RandomSizedCrop(case.size, zoom_range=(whole, whole / np.sqrt(0.08))),
        augmax.HorizontalFlip(0.5),
        augmax.ColorJitter(**JITTER, p=0.8),
        augmax.RandomGrayscale(0.2),
    ]
    if case.blur:
        steps.append(augmax.GaussianBlur(sigma=1.05, p=case.blur))
    chain = augmax.Chain(*steps)

    def view(key: Any, images: Any) -> Any:
        return jnp.clip(jax.vmap(chain)(jax.random.split(key, case.count), images), 0, 1)

    return _jitted(view, images)


def _official(case: Case, images: np.ndarray) -> Augment:
    """preprocess_image in tf.data and batch_random_blur behind it."""
    peers.official_code("data_util.py")
    import data_util
    import tensorflow as tf

    tf.random.set_seed(0)
    view = functools.partial(
        data_util.preprocess_image, height=case.size, width=case.size, is_training=True, color_jitter_strength=1.0
    )
    dataset = tf.data.Dataset.from_tensor_slices(images).map(view).batch(case.count)
    if case.blur:
        dataset = dataset.map(lambda views: data_util.batch_random_blur([views], case.size, case.size, case.blur)[0])
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False  # work ahead would fall between the measured calls
    views = iter(dataset.repeat().with_options(options))
    return lambda: next(views).numpy()


def _implementation(make: Callable[[Case, np.ndarray], Augment], needs: tuple[str, ...], python: str = "peers") -> Any:
    return harness.Implementation(functools.partial(_prepare, make), needs, python)


PROGRAM = harness.Program(
    cases=tuple(CASES),
    quick=tuple(SMALLEST),
    implementations={
        "simclr_jax": _implementation(_ours, (), ""),
        "albumentations (uint8)": _implementation(_albumentations, ("albumentations",)),
        "official TF2": _implementation(_official, ("tensorflow",), "tf"),
        "lightly (PIL)": _implementation(_lightly, ("lightly",)),
        "torchvision v2 (PIL)": _implementation(_torchvision, ("torchvision",)),
        "kornia": _implementation(_kornia, ("kornia",)),
        "dm-pix (jit of vmap)": _implementation(_dm_pix, ("dm_pix",)),
        "augmax (jit of vmap)": _implementation(_augmax, ("augmax",)),
    },
    compare=compare,
    packages=(
        *("jax", "torch", "torchvision", "lightly", "kornia", "albumentations", "opencv-python-headless"),
        *("pillow", "dm-pix", "augmax", "tensorflow-cpu", "tensorflow"),
    ),
    number="per second",
    unit="images (one view each) per CPU second",
    words=f"""The whole SimCLR augmentation at strength 1: crop of 8 to 100 % of the area, flip, colour jitter (0.8),
    grey (0.2), clip. 32 px: 1024 images of 32 x 32, no blur. 224 px: 64 images of 256 x 256, blur with probability 0.5.
    Everybody gets the same uint8 images and draws by itself, so before any timing the views of at least 256 images must
    have our shape, lie in [0, 1], and have {BRIGHTNESS_BAND[0]} to {BRIGHTNESS_BAND[1]} times our mean brightness and
    {GRADIENT_BAND[0]} to {GRADIENT_BAND[1]} times our mean step between neighbouring pixels. Not identical work:
    albumentations works in uint8; the official code blurs the whole batch and then selects; lightly blurs with PIL;
    dm-pix lacks a resized crop (jax.image's is used) and a random order; augmax has square crops and one sigma.""",
)
