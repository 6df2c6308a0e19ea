"""Intended differences in how views are made: what others do, and how much it changes the pictures."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import crops, peers
from benchmarks.parity_rows.colours import BLUR, torchvision_functions
from benchmarks.parity_rows.table import Difference, Effect
from simclr_jax import augment
from simclr_jax.augment import color, views

GROUP = "Views"
SIZE = 96  # pixels, of a resized photograph
LEVELS = (0.1, 0.5, 0.9)
FACTORS = (0.2, 0.6, 1.4, 1.8)


def _photographs() -> list[np.ndarray]:
    """The two photographs that come with scikit-learn, float32 [427, 640, 3] in [0, 1]."""
    from sklearn import datasets

    return [crops.unit(datasets.load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def _mean_difference(ours: Callable, theirs: Callable, values: tuple) -> tuple[float, float]:
    """(mean, largest) absolute difference of two operations over two photographs, both clipped to [0, 1]."""
    errors = []
    for image in _photographs():
        for value in values:
            a, b = (np.asarray(f(jnp.asarray(image), value)).clip(0, 1) for f in (ours, theirs))
            errors.append(np.abs(a - b))
    return float(np.mean([e.mean() for e in errors])), float(max(e.max() for e in errors))


def _brightness() -> Effect:
    """The same draw in both forms: factor 1 + u against offset u."""
    mean, _ = _mean_difference(
        lambda x, f: color.adjust_brightness(x, f), lambda x, f: color.adjust_brightness_additive(x, f - 1), FACTORS
    )
    return Effect(
        mean, 0.02, 0.5, f"a pixel changes by {mean:.2f} of its range on average, for the same draws at strength 1"
    )


@functools.cache
def _crop_areas(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Area fractions of our windows and of torchvision's RandomResizedCrop, as many each."""
    peers.load_torchvision()
    import torch
    from torchvision import transforms

    boxes = crops.draw_boxes(height, width)
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    get = transforms.RandomResizedCrop.get_params
    theirs = [get(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(len(boxes))]
    return boxes[:, 2] * boxes[:, 3] / (height * width), np.array([h * w for _, _, h, w in theirs]) / (height * width)


def _crop_sampler() -> Effect:
    ours, theirs = _crop_areas(375, 500)
    words = ["/".join(f"{q:.3f}" for q in np.quantile(area, LEVELS)) for area in (ours, theirs)]
    distance = crops.ks_distance(ours, theirs)
    text = f"area at 10/50/90 % for 375x500: {words[0]} against {words[1]}; KS distance {distance:.3f}"
    return Effect(distance, 0.05, 0.3, text)


def _smallest_crop() -> Effect:
    ours, theirs = (float(area.min()) for area in _crop_areas(375, 500))
    return Effect(ours - theirs, 0.01, 0.03, f"smallest area {ours:.3f} against {theirs:.3f} of the image")


def _last_offset() -> Effect:
    peers.load_torchvision()
    import torch
    from torchvision import transforms

    torch.manual_seed(0)
    image = torch.zeros(3, 32, 32)
    get = transforms.RandomResizedCrop.get_params
    boxes = np.array([get(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)])
    theirs, ours = (
        float(np.mean(b[b[:, 2] < 32][:, 0] == 32 - b[b[:, 2] < 32][:, 2])) for b in (boxes, crops.draw_boxes(32, 32))
    )
    text = f"{100 * ours:.1f} % against {100 * theirs:.1f} % of the crops of a 32-pixel image touch the lower border"
    return Effect(theirs - ours, 0.03, 0.3, text)


def _torchvision_operation(name: str, ours: Callable, limit: float) -> Effect:
    torch, functional = torchvision_functions()

    def theirs(image: jax.Array, factor: float) -> np.ndarray:
        tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)
        return getattr(functional, name)(tensor, factor).permute(1, 2, 0).numpy()

    mean, largest = _mean_difference(ours, theirs, FACTORS)
    return Effect(mean, limit, 0.5, f"a pixel differs by {mean:.3f} on average, at most {largest:.2f} of its range")


def _blur_border() -> Effect:
    torch, functional = torchvision_functions()
    ones = np.ones((224, 224, 3), np.float32)
    ours = float(np.asarray(BLUR(ones, 2.0, kernel_size=22))[0, 0, 0])
    theirs = float(functional.gaussian_blur(torch.tensor(ones).permute(2, 0, 1), [23, 23], [2.0, 2.0])[0, 0, 0])
    text = f"corner of a white image at 224 px, sigma 2: {ours:.3f} against {theirs:.3f}"
    return Effect(theirs - ours, 0.6, 0.7, text)


def _sigma_sharing() -> Effect:
    deviations = {}
    for per in ("view", "image"):
        recipe = augment.make_recipe(image_size=32, blur_sigma_per=per)
        sizes, positions = np.full((512, 2), 32, np.int32), np.arange(512, dtype=np.int32)
        draw = jax.jit(lambda k, s, p, recipe=recipe: views.draw_views(k, s, p, recipe=recipe).blur_sigma)
        deviations[per] = float(np.asarray(draw(jax.random.key(0), sizes, positions))[:, 0].std())
    view, image = deviations["view"], deviations["image"]
    text = f"deviation of sigma within a view of a batch: {view:.2f} against {image:.2f} pixels"
    return Effect(image - view, 0.5, 0.6, text)


def _resized(image: np.ndarray, method: str, size: int = SIZE) -> np.ndarray:
    if method in ("antialiased", "exact"):
        antialias = method == "antialiased"
        return np.asarray(jax.image.resize(jnp.asarray(image), (size, size, 3), "cubic", antialias=antialias))
    box = crops.crop.CropBox(*(jnp.int32(v) for v in (0, 0, *image.shape[:2])))
    return np.asarray(crops.ADJUST_CROP(image, box, size=(size, size), resize=method))


def _resize_difference(method: str, low: float) -> Effect:
    errors = [np.abs(_resized(image, "tf2") - _resized(image, method)) for image in _photographs()]
    mean, largest = float(np.mean([e.mean() for e in errors])), float(max(e.max() for e in errors))
    return Effect(
        mean, low, 0.5, f"mean {mean:.3f}, at most {largest:.2f} of a pixel's range, photographs to {SIZE} px"
    )


def _table_rounding() -> Effect:
    errors = [np.abs(_resized(image, "tf2") - _resized(image, "exact")).max() for image in _photographs()]
    return Effect(float(max(errors)), 1e-6, 1.5e-3, f"at most {max(errors):.1e} of a pixel's range")


def _difference(topic: str, ours: str, others: str, measure: Callable, switch: str, *needs: str) -> Difference:
    return Difference(topic, ours, others, measure, switch, needs)


_TV = "torchvision"

DIFFERENCES = [
    _difference(
        "crop sampler",
        "TensorFlow's rule: crop height uniform, aspect uniform (as the reference)",
        "torchvision: area uniform, aspect log-uniform",
        _crop_sampler,
        "no option",
        _TV,
    ),
    _difference(
        "smallest crop",
        "crops below 10 % of the image are rejected (as the reference)",
        "torchvision, paper: from 8 %",
        _smallest_crop,
        "`augment.crop_min_scale` above 0.1",
        _TV,
    ),
    _difference(
        "last offset of a crop",
        "never drawn (as the reference)",
        "torchvision: as likely as the others",
        _last_offset,
        "no option",
        _TV,
    ),
    _difference(
        "bicubic: TF1 against TF2",
        "tf2: a = -0.5, pixel centres",
        "TF1 code and all released weights: a = -0.75, corners aligned",
        functools.partial(_resize_difference, "tf1", 0.01),
        '`augment.resize = "tf1"`',
        "sklearn",
    ),
    _difference(
        "bicubic: anti-aliasing",
        "none (as the reference)",
        "JAX's default, PIL, torchvision: yes",
        functools.partial(_resize_difference, "antialiased", 0.01),
        "no option",
        "sklearn",
    ),
    _difference(
        "bicubic: table of weights",
        "fractions rounded to 1/1024 (as TensorFlow)",
        "jax.image.resize: exact",
        _table_rounding,
        "no option",
        "sklearn",
    ),
    _difference(
        "brightness",
        "v2: times U[1-0.8s, 1+0.8s] (as the TF2 default)",
        "v1: plus U[-0.8s, 0.8s]",
        _brightness,
        '`augment.brightness = "add"`',
        "sklearn",
    ),
    _difference(
        "contrast",
        "around each channel's mean (as the reference)",
        "torchvision: around the mean grey value",
        functools.partial(_torchvision_operation, "adjust_contrast", color.adjust_contrast, 0.005),
        "no option",
        *(_TV, "sklearn"),
    ),
    _difference(
        "saturation",
        "scales S of HSV (as the reference)",
        "torchvision: blends with the grey image",
        functools.partial(_torchvision_operation, "adjust_saturation", color.adjust_saturation, 0.005),
        "no option",
        *(_TV, "sklearn"),
    ),
    _difference(
        "blur: borders",
        "zeros outside, borders darken (as the reference)",
        "torchvision: reflection",
        _blur_border,
        "no option",
        _TV,
    ),
    _difference(
        "blur: sigma",
        "one per view of the global batch (reference: per replica's part)",
        "most others: one per image",
        _sigma_sharing,
        '`augment.blur_sigma_per = "image"`',
    ),
]
