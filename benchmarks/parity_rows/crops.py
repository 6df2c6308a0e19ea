"""Rows of the geometry of a view: crop sampler, bicubic resizing, centre crop, and whole views from given draws."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import augment
from simclr_jax.augment import color_jitter, crop, resizing, views
from tests import golden

GROUP = "Augmentation: crops and resizing"
NUM_DRAWS = 20_000

WEIGHTS = jax.jit(resizing.resize_weights, static_argnames=("source_size", "out_size", "resize"))
ADJUST_CROP = jax.jit(crop.adjust_crop, static_argnames=("size", "resize"))
CENTER_BOX = jax.jit(crop.center_crop_box, static_argnames="aspect")


def unit(image: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255)


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sample Kolmogorov-Smirnov distance, in [0, 1]."""
    grid = np.concatenate([a, b])
    first, second = (np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b))
    return float(np.abs(first - second).max())


@jax.jit
def _many_boxes(key, height, width):
    keys = jax.random.split(key, NUM_DRAWS)
    return jnp.stack(jax.vmap(lambda k: crop.draw_crop_box(k, height=height, width=width))(keys), axis=1)


def draw_boxes(height: int, width: int) -> np.ndarray:
    """Windows of our sampler: int [NUM_DRAWS, 4], columns y, x, height, width."""
    return np.asarray(_many_boxes(jax.random.key(3), jnp.int32(height), jnp.int32(width)))


def quantities(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """What the golden file describes of windows in an image of this size."""
    y, x, h, w = (boxes[:, k].astype(np.float64) for k in range(4))
    slack_y, slack_x = height - h, width - w
    return {
        "area_fraction": h * w / (height * width),
        "aspect": w / h,
        "height_fraction": h / height,
        "width_fraction": w / width,
        "centre_y_fraction": (y + h / 2) / height,
        "centre_x_fraction": (x + w / 2) / width,
        "offset_y_over_slack": y[slack_y > 0] / slack_y[slack_y > 0],
        "offset_x_over_slack": x[slack_x > 0] / slack_x[slack_x > 0],
    }


@functools.cache
def _sampled() -> list[tuple[str, np.ndarray, dict, dict]]:
    """(case, our boxes, our quantities, the reference's) of all recorded image sizes."""
    arrays, result = golden.load("random_crop_stats"), []
    for case in arrays["case_names"].tolist():
        size = tuple(int(v) for v in arrays[f"{case}/image_h_w"])
        boxes = draw_boxes(*size)
        theirs = quantities(arrays[f"{case}/boxes_y_x_h_w"], *size)
        result.append((case, boxes, quantities(boxes, *size), theirs))
    return result


def _distances() -> Iterator[Case]:
    for _, _, ours, theirs in _sampled():
        for name, values in ours.items():
            yield Case(ks_distance(values, theirs[name]), 0.0)


def _means(*, offsets: bool) -> Iterator[Case]:
    arrays = golden.load("random_crop_stats")
    for case, _, ours, _ in _sampled():
        for name, values in ours.items():
            if name.startswith("offset") == offsets:
                yield Case(values.mean(), arrays[f"{case}/{name}/mean_std_min_max"][0])


def _forbidden() -> Iterator[Case]:
    """Crops of less than a tenth of the image, and crops at the last legal offset: there must be none."""
    arrays = golden.load("random_crop_stats")
    for case, boxes, ours, _ in _sampled():
        height, width = arrays[f"{case}/image_h_w"]
        y, x, h, w = boxes.T
        yield Case(np.sum(ours["area_fraction"] < 0.1 - 1e-7), 0)
        yield Case(np.sum((h < height) & (y == height - h)) + np.sum((w < width) & (x == width - w)), 0)


def _matrices(resize: str) -> Iterator[Case]:
    arrays = golden.load("crop_resize")
    for name in (key for key in arrays if key.startswith(f"matrix_{resize}/")):
        source, out = (int(n) for n in name.split("/")[1].split("_to_"))
        yield Case(WEIGHTS(0, source, source_size=source, out_size=out, resize=resize), arrays[name])


def _crop_inputs(resize: str) -> Iterator[tuple[np.ndarray, crop.CropBox, tuple, np.ndarray, np.ndarray]]:
    """(image, box, out size, stored rows, stored output) of the recorded crops."""
    arrays = golden.load("crop_resize")
    for name in arrays["case_names"].tolist():
        if f"{name}/output_{resize}" in arrays:
            image = unit(arrays["input_u8/" + str(arrays[f"{name}/image"])])
            box = crop.CropBox(*(jnp.int32(v) for v in arrays[f"{name}/box_y_x_h_w"]))
            out_size = tuple(int(v) for v in arrays[f"{name}/out_h_w"])
            yield image, box, out_size, arrays[f"{name}/rows"], arrays[f"{name}/output_{resize}"]


def _crops(resize: str) -> Iterator[Case]:
    for image, box, out_size, rows, expected in _crop_inputs(resize):
        yield Case(np.asarray(ADJUST_CROP(image, box, size=out_size, resize=resize))[rows], expected)


def _jax_resize(*, mean: bool) -> Iterator[Case]:
    for image, box, out_size, _, _ in _crop_inputs("tf2"):
        y, x, height, width = (int(v) for v in box)
        window = jnp.asarray(image[y : y + height, x : x + width])
        theirs = jax.image.resize(window, (*out_size, 3), "cubic", antialias=False)
        error = np.abs(np.asarray(ADJUST_CROP(image, box, size=out_size, resize="tf2")) - np.asarray(theirs))
        yield Case(error.mean() if mean else error.max(), 0.0)


def _centre_boxes() -> Iterator[Case]:
    for height, width, aspect, *expected in golden.load("crop_resize")["centre_crop_table_h_w_aspect_croph_cropw_y_x"]:
        box = CENTER_BOX(int(height), int(width), aspect=float(aspect))
        yield Case([box.height, box.width, box.y, box.x], expected)


def _formula_image(height: int, width: int, k: int) -> np.ndarray:
    """The reference image of the evaluation cases whose input is not stored."""
    i, j, c = np.ogrid[:height, :width, :3]
    return (((i * i * k + 5 * i * j + 11 * j + 40 * c + (i * j) // 7) // 16) % 256).astype(np.uint8)


@functools.cache
def _evaluated(resize: str) -> dict[str, np.ndarray]:
    """Our evaluation view of every recorded image, by case name."""
    arrays, made = golden.load("crop_resize"), {}
    for name in arrays["eval_case_names"].tolist():
        size, out_size = name.removeprefix("eval/").split("_to_")
        height, width = (int(n) for n in size.split("x"))
        image = arrays.get(f"{name}/input_u8")
        image = _formula_image(height, width, int(arrays[f"{name}/formula_k"])) if image is None else image
        view = jax.jit(augment.make_eval_view(image_size=int(out_size), resize=resize))
        made[name] = np.asarray(view(image[None], np.asarray([[height, width]], np.int32)))[0]
    return made


def _evaluation(resize: str) -> Iterator[Case]:
    arrays = golden.load("crop_resize")
    for name, ours in _evaluated(resize).items():
        if f"{name}/output_{resize}" in arrays:
            yield Case(ours[arrays[f"{name}/rows"]], arrays[f"{name}/output_{resize}"])


def _evaluation_moments() -> Iterator[Case]:
    arrays = golden.load("crop_resize")
    for name, ours in _evaluated("tf2").items():
        wide = ours.astype(np.float64)
        yield Case(wide.mean(axis=(0, 1)), arrays[f"{name}/output_tf2_channel_mean"])
        yield Case(wide.std(axis=(0, 1)), arrays[f"{name}/output_tf2_channel_std"])


def _scripted_draws(arrays: dict[str, np.ndarray]) -> views.ViewDraws:
    """The recorded draws, with leading axes [cases, 1 view]."""

    def column(name: str, dtype: type) -> jax.Array:
        return jnp.asarray(arrays[f"param/{name}"].astype(dtype))[:, None]

    boxes = jnp.asarray(arrays["param/box_y_x_h_w"])[:, None]
    values = {name: column(name, np.float32) for name in ("brightness", "contrast", "saturation", "hue")}
    return views.ViewDraws(
        box=crop.CropBox(*(boxes[..., k] for k in range(4))),
        flip=column("flip", bool),
        jitter_applied=column("jitter_applied", bool),
        jitter=color_jitter.ColorJitter(order=column("order", np.int32), **values),
        gray_applied=column("grey_applied", bool),
        blur_applied=jnp.zeros((len(boxes), 1), bool),
        blur_sigma=jnp.ones((len(boxes), 1), jnp.float32),
        solarize_applied=jnp.zeros((len(boxes), 1), bool),
    )


def _scripted(impl: str, brightness: str) -> Iterator[Case]:
    arrays = golden.load("augment_scripted")
    draws = _scripted_draws(arrays)
    # The pictures have different sizes: both travel on one zero-padded canvas.
    canvas = np.zeros((len(arrays["param/image"]), 50, 64, 3), np.uint8)
    for k, name in enumerate(arrays["param/image"]):
        picture = arrays[f"input_u8/{name}"]
        canvas[k, : picture.shape[0], : picture.shape[1]] = picture
    recipe = augment.make_recipe(image_size=int(arrays["out_size"]), brightness=brightness)
    made = np.asarray(jax.jit(lambda images, d: views.apply_views(images, d, recipe=recipe))(canvas, draws))
    for k, name in enumerate(arrays["param/impl"]):
        if name == impl:
            yield Case(made[k, 0], arrays[f"output/{k:02d}"])


ROWS = [
    Row("crop sampler, distributions (KS)", "TF2", 0.035, table.ABSOLUTE, _distances),
    Row("crop sampler, mean size, shape, place", "TF2", 0.006, table.ABSOLUTE, lambda: _means(offsets=False)),
    Row("crop sampler, mean offset / slack", "TF2", 0.01, table.ABSOLUTE, lambda: _means(offsets=True)),
    Row("crop sampler, crops it never draws", "TF2", 0.0, table.EXACT, _forbidden),
    Row("bicubic tf2, weights", "TF2", 3e-7, table.ABSOLUTE, lambda: _matrices("tf2")),
    Row("bicubic tf2, crops", "TF2", 2e-6, table.ABSOLUTE, lambda: _crops("tf2")),
    Row("bicubic tf2, crops, largest", "jax.image.resize", 1.5e-3, table.ABSOLUTE, lambda: _jax_resize(mean=False)),
    Row("bicubic tf2, crops, mean", "jax.image.resize", 3e-4, table.ABSOLUTE, lambda: _jax_resize(mean=True)),
    Row("bicubic tf1, weights", "TF1", 3e-7, table.ABSOLUTE, lambda: _matrices("tf1")),
    Row("bicubic tf1, crops", "TF1", 2e-6, table.ABSOLUTE, lambda: _crops("tf1")),
    Row("centre crop, window", "TF2", 0.0, table.EXACT, _centre_boxes),
    Row("evaluation view, tf2", "TF2", 2e-6, table.ABSOLUTE, lambda: _evaluation("tf2")),
    # Statistics are stored in float32.
    Row("evaluation view, tf2, mean, deviation", "TF2", 1e-5, table.ABSOLUTE, _evaluation_moments),
    Row("evaluation view, tf1", "TF1", 2e-6, table.ABSOLUTE, lambda: _evaluation("tf1")),
    Row("whole view from given draws, v1", "TF2", 5e-6, table.ABSOLUTE, lambda: _scripted("simclrv1", "add")),
    Row("whole view from given draws, v2", "TF2", 5e-6, table.ABSOLUTE, lambda: _scripted("simclrv2", "multiply")),
]
