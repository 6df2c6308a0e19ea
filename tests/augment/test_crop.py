"""Windows, resize matrices and flips against the reference's recorded values, printed tables and float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.augment import crop, flip, resizing
from tests import golden

# Resizing with the 1/1024 table differs from the reference by float32 rounding only.
RESIZE_TOLERANCE = 2e-6


WEIGHTS = jax.jit(resizing.resize_weights, static_argnames=("source_size", "out_size", "resize"))
ADJUST_CROP = jax.jit(crop.adjust_crop, static_argnames=("size", "resize"))


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


def _formula_image(height: int, width: int, k: int) -> np.ndarray:
    """The reference image of the evaluation cases whose input is not stored."""
    i, j, c = np.ogrid[:height, :width, :3]
    return (((i * i * k + 5 * i * j + 11 * j + 40 * c + (i * j) // 7) // 16) % 256).astype(np.uint8)


def _crop_outputs(arrays):
    return [(n, r) for n in arrays["case_names"] for r in ("tf2", "tf1") if f"{n}/output_{r}" in arrays]


def _check_crop_case(arrays, name, resize, *, compare):
    image = _unit(arrays["input_u8/" + str(arrays[f"{name}/image"])])
    box = crop.CropBox(*(jnp.int32(v) for v in arrays[f"{name}/box_y_x_h_w"]))
    out_size = tuple(int(v) for v in arrays[f"{name}/out_h_w"])
    ours = ADJUST_CROP(image, box, size=out_size, resize=resize)
    assert ours.shape == (*out_size, 3) and ours.dtype == jnp.float32
    rows, expected = np.asarray(ours)[arrays[f"{name}/rows"]], arrays[f"{name}/output_{resize}"]
    compare(f"bicubic {resize}, crops", rows, expected, limit=RESIZE_TOLERANCE, source=resize.upper())


@pytest.mark.few(6)
@pytest.mark.parametrize("case", _crop_outputs(golden.load("crop_resize")), ids="-".join)
def test_adjust_crop_equals_the_reference(case, compare):
    _check_crop_case(golden.load("crop_resize"), *case, compare=compare)


@pytest.mark.slow
def test_adjust_crop_equals_jax_but_for_the_table_of_weights(compare):
    arrays = golden.load("crop_resize")
    for name, resize in _crop_outputs(arrays):
        if resize == "tf2":
            image = _unit(arrays["input_u8/" + str(arrays[f"{name}/image"])])
            y, x, height, width = (int(v) for v in arrays[f"{name}/box_y_x_h_w"])
            size = tuple(int(v) for v in arrays[f"{name}/out_h_w"])
            window = jnp.asarray(image[y : y + height, x : x + width])
            theirs = jax.image.resize(window, (*size, 3), "cubic", antialias=False)
            box = crop.CropBox(*(jnp.int32(v) for v in (y, x, height, width)))
            error = np.abs(np.asarray(ADJUST_CROP(image, box, size=size, resize="tf2")) - np.asarray(theirs))
            # Fractions are rounded to 1/1024; the README of the golden files says by how much that moves a pixel.
            compare("bicubic tf2, crops, largest", error.max(), 0.0, limit=1.5e-3, source="jax.image.resize")
            compare("bicubic tf2, crops, mean", error.mean(), 0.0, limit=3e-4, source="jax.image.resize")


@pytest.mark.slow
def test_adjust_crop_equals_the_reference_in_every_recorded_case(compare):
    arrays = golden.load_full("crop_resize")
    for case in _crop_outputs(arrays):
        _check_crop_case(arrays, *case, compare=compare)


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
def test_resize_weights_equal_the_reference_matrices(resize, compare):
    arrays = golden.load("crop_resize")
    names = [name for name in arrays if name.startswith(f"matrix_{resize}/")]
    assert len(names) == 5
    for name in names:
        source, out = (int(n) for n in name.split("/")[1].split("_to_"))
        ours = WEIGHTS(0, source, source_size=source, out_size=out, resize=resize)
        compare(f"bicubic {resize}, weights", ours, arrays[name], limit=3e-7, source=resize.upper())


def _weights_oracle(offset, extent, source_size, out_size, resize):
    """Float64 loops over output pixels and taps."""
    a = {"tf2": -0.5, "tf1": -0.75}[resize]
    matrix = np.zeros((out_size, source_size))
    for i in range(out_size):
        position = (i + 0.5) * extent / out_size - 0.5 if resize == "tf2" else i * extent / out_size
        first = int(np.floor(position)) - 1
        fraction = np.rint((position - np.floor(position)) * 1024) / 1024
        for k in range(4):
            x = abs(k - 1 - fraction)
            w = (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)
            if resize == "tf1":
                matrix[i, offset + min(max(first + k, 0), extent - 1)] += w
            elif 0 <= first + k < extent:
                matrix[i, offset + first + k] += w
        if resize == "tf2":
            matrix[i] /= matrix[i].sum()
    return matrix


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
@pytest.mark.parametrize("window", [(0, 40), (7, 25), (39, 1), (3, 2), (10, 30)], ids=str)
def test_resize_weights_of_a_window_equal_float64_loops(window, resize):
    # Scales of k / 2^n, so that no position is a float32 tie of the 1/1024 table.
    ours = WEIGHTS(*window, source_size=40, out_size=32, resize=resize)
    np.testing.assert_allclose(ours, _weights_oracle(*window, 40, 32, resize), rtol=0, atol=5e-7)


def test_resize_weights_do_not_look_beyond_the_window_and_sum_to_one():
    for resize in ("tf2", "tf1"):
        weights = np.asarray(WEIGHTS(5, 9, source_size=20, out_size=32, resize=resize))
        assert not weights[:, :5].any() and not weights[:, 14:].any()
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_flip_reverses_the_output_rows():
    plain = resizing.resize_weights(3, 17, source_size=30, out_size=24)
    flipped = jax.jit(lambda f: resizing.resize_weights(3, 17, source_size=30, out_size=24, flip=f))(True)
    np.testing.assert_allclose(flipped, plain[::-1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
def test_banded_resize_equals_the_dense_product(resize):
    planes = jnp.asarray(np.random.default_rng(0).random((130, 3, 200), np.float32))

    @jax.jit
    def both(box, flip):
        settings = {"out_size": (96, 128), "resize": resize}
        dense = crop.crop_planes(planes, box, flip, **settings)
        return dense, crop.crop_planes(planes, box, flip, **settings, product=resizing.resize_planes_banded)

    # The whole image, its far corner, a window smaller than the four taps, one row and one column.
    for box in ((0, 0, 130, 200), (67, 101, 63, 99), (127, 0, 3, 2), (129, 3, 1, 190), (5, 199, 120, 1)):
        for mirrored in (False, True):
            dense, banded = both(crop.CropBox(*(jnp.int32(v) for v in box)), mirrored)
            np.testing.assert_allclose(banded, dense, rtol=0, atol=1e-6)


IMPULSE_2 = {
    "tf1": [0, -0.09375, 0, 0.59375, 1, 0.59375, 0, -0.09375, 0, 0],
    "tf2": [0, -0.021898, -0.068702, 0.226562, 0.867188, 0.867188, 0.226562, -0.068702, -0.021898, 0],
}
IMPULSE_0 = {
    "tf1": [1, 0.5, 0, -0.09375, 0],
    "tf2": [1.088235, 0.810219, 0.221374, -0.070312, -0.023438, 0],
}
RAMP_6_TO_4 = {
    "tf1": [
        [0, 0.45, 0.9, 0.175],
        [0.5, 0.797461, 0.196875, 0.574023],
        [1, 0.246875, 0.8, 0.075],
        [0.3625, 0.650293, 0.1625, 0.753418],
    ],
    "tf2": [
        [0.19707, 0.479362, 0.733964, 0.283068],
        [0.418938, 0.821069, 0.157373, 0.575753],
        [0.852133, 0.320233, 0.665833, 0.352184],
        [0.327188, 0.693921, 0.084381, 0.641403],
    ],
}


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
def test_resize_of_an_impulse_equals_the_printed_values(resize):
    # The printed values have six decimals.
    weights = np.asarray(WEIGHTS(0, 5, source_size=5, out_size=10, resize=resize))
    np.testing.assert_allclose(weights[:, 2], IMPULSE_2[resize], atol=1e-6)
    np.testing.assert_allclose(weights[: len(IMPULSE_0[resize]), 0], IMPULSE_0[resize], atol=1e-6)


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
def test_resize_of_six_by_six_to_four_by_four_equals_the_printed_values(resize):
    i, j = np.ogrid[:6, :6]
    image = np.repeat((((7 * i + 3 * j) % 11) / 10).astype(np.float32)[:, :, None], 3, axis=2)
    whole = crop.CropBox(*(jnp.int32(v) for v in (0, 0, 6, 6)))
    ours = ADJUST_CROP(jnp.asarray(image), whole, size=(4, 4), resize=resize)
    np.testing.assert_allclose(ours[..., 1], RAMP_6_TO_4[resize], atol=2e-6)


CENTER_BOX = jax.jit(crop.center_crop_box, static_argnames="aspect")


def test_center_crop_box_equals_the_reference_table(compare):
    table = golden.load("crop_resize")["centre_crop_table_h_w_aspect_croph_cropw_y_x"]
    assert len(table) >= 20
    for height, width, aspect, *expected in table:
        # Sizes are traced in the pipelines.
        box = CENTER_BOX(int(height), int(width), aspect=float(aspect))
        compare("centre crop, window", [int(v) for v in (box.height, box.width, box.y, box.x)], expected)


def _attempt_oracle(aspect, u, height, width):
    """One attempt in float64 scalars; None if it is rejected."""
    area = height * width
    low = round(np.sqrt(0.08 * area / aspect))
    high = round(np.sqrt(area / aspect))
    if round(high * aspect) > width:
        high = int((width + 0.5 - 1e-7) / aspect)
        if round(high * aspect) > width:
            high -= 1
    high = min(high, height)
    low = min(low, high)
    h = low + int(np.floor(u * (high - low + 1)))
    w = round(h * aspect)
    if h * w < 0.08 * area:
        h, w = h + 1, round((h + 1) * aspect)
    if h * w > area:
        h, w = h - 1, round((h - 1) * aspect)
    inside = 0.08 * area <= h * w <= area and h <= height and w <= width and min(h, w) > 0
    return (h, w) if inside and h * w >= 0.1 * area else None


@pytest.mark.slow
def test_crop_attempts_equal_float64_loops():
    rng = np.random.default_rng(0)
    shapes = [(32, 32), (375, 500), (500, 375), (33, 7), (1, 1), (2, 3), (224, 1000), (96, 95)]
    differing = total = 0
    for height, width in shapes:
        aspect = rng.uniform(3 / 4, 4 / 3, 400).astype(np.float32)
        u = rng.random(400, dtype=np.float32)
        heights, widths, accepted = crop.candidate_extent(
            jnp.asarray(aspect),
            jnp.asarray(u),
            height=jnp.int32(height),
            width=jnp.int32(width),
            area_range=(0.08, 1.0),
            min_coverage=0.1,
        )
        for k in range(len(u)):
            expected = _attempt_oracle(float(aspect[k]), float(u[k]), height, width)
            ours = (int(heights[k]), int(widths[k])) if bool(accepted[k]) else None
            differing += expected != ours
            total += 1
    # Float32 and float64 may round differently at an exact tie.
    assert differing <= total // 1000


def _kolmogorov_smirnov(a, b):
    grid = np.concatenate([a, b])
    ranks = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    return np.abs(ranks[0] - ranks[1]).max()


def _quantities(boxes, height, width):
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


@jax.jit
def _many_boxes(key, height, width):
    keys = jax.random.split(key, 20_000)
    return jnp.stack(jax.vmap(lambda k: crop.draw_crop_box(k, height=height, width=width))(keys), axis=1)


@pytest.mark.few(1)
@pytest.mark.parametrize("case", golden.load("random_crop_stats")["case_names"])
def test_crop_boxes_are_distributed_as_the_references(case, compare):
    arrays = golden.load("random_crop_stats")
    height, width = (int(v) for v in arrays[f"{case}/image_h_w"])
    boxes = np.asarray(_many_boxes(jax.random.key(3), jnp.int32(height), jnp.int32(width)))
    y, x, h, w = boxes.T
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= height).all() and (x + w <= width).all()
    ours = _quantities(boxes, height, width)
    theirs = _quantities(arrays[f"{case}/boxes_y_x_h_w"], height, width)
    for name, values in ours.items():
        # 0.028 is the 1 % level of the two-sample test; the distributions are discrete, so it is conservative.
        distance = _kolmogorov_smirnov(values, theirs[name])
        compare("crop sampler, distributions (KS)", distance, 0.0, limit=0.035)
        words, limit = ("offset / slack", 0.01) if name.startswith("offset") else ("size, shape, place", 0.006)
        expected = arrays[f"{case}/{name}/mean_std_min_max"][0]
        compare(f"crop sampler, mean {words}", values.mean(), expected, limit=limit)
    compare("crop sampler, crops it never draws", np.sum(ours["area_fraction"] < 0.1 - 1e-7), 0)
    at_the_last_offset = ((h < height) & (y == height - h)).sum() + ((w < width) & (x == width - w)).sum()
    compare("crop sampler, crops it never draws", at_the_last_offset, 0)


def test_crop_box_of_an_extreme_image_is_the_whole_image():
    # At 20:1 no crop with an allowed aspect ratio covers 10 % of the image.
    box = crop.draw_crop_box(jax.random.key(0), height=10, width=200)
    assert [int(v) for v in box] == [0, 0, 10, 200]


def test_crop_box_fields_are_int32_scalars_and_follow_the_key():
    draw = jax.jit(lambda key: crop.draw_crop_box(key, height=50, width=80))
    first, again, other = (draw(jax.random.key(s)) for s in (1, 1, 2))
    assert all(v.dtype == jnp.int32 and v.shape == () for v in first)
    assert [int(v) for v in first] == [int(v) for v in again] != [int(v) for v in other]


def test_a_random_resized_crop_shows_the_window_that_its_key_draws():
    image = jnp.asarray(_unit(golden.load("crop_resize")["input_u8/60x100"]))
    view = crop.random_resized_crop(jax.random.key(5), image, size=(24, 32), resize="tf1")
    assert view.shape == (24, 32, 3) and view.dtype == jnp.float32
    box = crop.draw_crop_box(jax.random.key(5), height=60, width=100, aspect_range=(1.0, 16 / 9))
    np.testing.assert_array_equal(view, crop.adjust_crop(image, box, size=(24, 32), resize="tf1"))
    square = crop.random_resized_crop(jax.random.key(5), image, size=24)
    box = crop.draw_crop_box(jax.random.key(5), height=60, width=100)
    np.testing.assert_array_equal(square, crop.adjust_crop(image, box, size=24))
    with pytest.raises(base.InputError, match="size must be at least 1 pixel; got 0"):
        crop.random_resized_crop(jax.random.key(5), image, size=0)


def test_flip_mirrors_left_to_right_and_half_of_the_time():
    image = jnp.arange(24, dtype=jnp.float32).reshape(2, 4, 3)
    np.testing.assert_array_equal(flip.adjust_flip(image, True), np.asarray(image)[:, ::-1])
    np.testing.assert_array_equal(flip.adjust_flip(image, False), image)
    flips = jax.vmap(flip.draw_flip)(jax.random.split(jax.random.key(0), 2000))
    assert abs(float(jnp.mean(flips.astype(jnp.float32))) - 0.5) < 0.045  # four standard errors
    assert float(flip.random_flip(jax.random.key(0), image, probability=1.0)[0, 0, 0]) == 9


def test_resize_errors_name_the_kernels():
    with pytest.raises(base.InputError, match="tf2, tf1; got 'bicubic'"):
        resizing.resize_weights(0, 4, source_size=4, out_size=2, resize="bicubic")


def test_formula_image_evaluation_crop_equals_the_reference(compare):
    arrays = golden.load("crop_resize")
    name = "eval/333x500_to_224"
    image = _formula_image(333, 500, int(arrays[f"{name}/formula_k"]))
    box = CENTER_BOX(333, 500)
    assert [int(v) for v in box] == arrays[f"{name}/crop_y_x_h_w"].tolist()
    ours = np.clip(ADJUST_CROP(jnp.asarray(_unit(image)), box, size=(224, 224)), 0, 1)
    expected = arrays[f"{name}/output_tf2"]
    compare("evaluation crop of a large image", ours[arrays[f"{name}/rows"]], expected, limit=RESIZE_TOLERANCE)
