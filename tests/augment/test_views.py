"""View pipelines: given draws against the reference, drawn views against its distribution, and their promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import augment, base
from simclr_jax.augment import color_jitter, crop, flip, views
from tests import golden

# Two ways of compiling the same float32 arithmetic; jitter multiplies rounding differences a few times.
REORDERED = 1e-5


def _pictures(count, height, width, seed=0):
    """Smooth uint8 pictures with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, -(-height // 8), -(-width // 8), 3))
    smooth = np.kron(coarse, np.ones((1, 8, 8, 1)))[:, :height, :width]
    return np.clip(255 * (smooth + rng.normal(0, 0.05, smooth.shape)), 0, 255).astype(np.uint8)


def _sizes(images):
    return np.tile(np.asarray(images.shape[1:3], np.int32), (len(images), 1))


def _positions(images, first=0):
    return np.arange(first, first + len(images), dtype=np.int32)


SIZE = 48
RECIPE = augment.make_recipe(image_size=SIZE)
IMAGES = _pictures(6, 50, 60)
KEY = jax.random.key(11)
DRAW = jax.jit(lambda key, sizes, positions: views.draw_views(key, sizes, positions, recipe=RECIPE))
APPLY = jax.jit(lambda images, draws: views.apply_views(images, draws, recipe=RECIPE._replace(loop="map")))


def _make_views(key, images, sizes, positions):
    """What `make_simclr_views` composes, compiled once for all tests here."""
    return APPLY(images, DRAW(key, sizes, positions))


def _scripted_draws(arrays):
    """The recorded draws, with leading axes [12 cases, 1 view]."""

    def column(name, dtype):
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


@pytest.mark.few(1)
@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_views_from_given_draws_equal_the_reference(loop, compare):
    arrays = golden.load("augment_scripted")
    draws = _scripted_draws(arrays)
    # The two pictures have different sizes: both travel on one zero-padded canvas.
    canvas = np.zeros((len(arrays["param/image"]), 50, 64, 3), np.uint8)
    for k, name in enumerate(arrays["param/image"]):
        picture = arrays[f"input_u8/{name}"]
        canvas[k, : picture.shape[0], : picture.shape[1]] = picture
    ours = {}
    for impl, brightness in (("simclrv1", "add"), ("simclrv2", "multiply")):
        recipe = augment.make_recipe(image_size=int(arrays["out_size"]), brightness=brightness, loop=loop)
        ours[impl] = np.asarray(jax.jit(lambda i, d, r=recipe: views.apply_views(i, d, recipe=r))(canvas, draws))
    assert set(arrays["param/impl"]) == set(ours)
    for k, impl in enumerate(arrays["param/impl"]):
        words = f"whole view from given draws, {str(impl).removeprefix('simclr')}"
        compare(words, ours[impl][k, 0], arrays[f"output/{k:02d}"], limit=5e-6)


def _statistics(made):
    """Per view and channel: [B, V, h, w, 3] -> {name: [B, V, 3]}."""
    return {
        "view_channel_mean": made.mean(axis=(2, 3)),
        "view_channel_std": made.std(axis=(2, 3)),
        "view_channel_mean_abs_horizontal_difference": np.abs(np.diff(made, axis=3)).mean(axis=(2, 3)),
    }


def _check_view_distribution(case, num_views, compare):
    """Views of the four recorded pictures; in one view the four share a sigma, as in the recorded batches."""
    arrays, quantiles = golden.load("pipeline_stats"), golden.load("view_quantiles")
    make = augment.make_simclr_views(
        image_size=int(arrays[f"{case}/size"]),
        color_jitter_strength=float(arrays[f"{case}/strength"]),
        blur_probability=0.5 if arrays[f"{case}/blur"] else 0.0,
        num_views=num_views,
        loop="map",
    )
    images = arrays["input_u8"]
    made = np.asarray(jax.jit(make)(jax.random.key(1), images, _sizes(images), _positions(images)))
    # Kolmogorov-Smirnov distance at 199 levels. For 1500 views against the 8000 recorded ones the 0.1 % level is 0.055;
    # the 36 comparisons of a case are strongly correlated.
    limit = 1.95 * np.sqrt(1 / num_views + 1 / int(quantiles["num_views"]))
    words = f"{num_views} views, {int(arrays[f'{case}/size'])} px, s = {float(arrays[f'{case}/strength']):g}"
    words += ", blur" if arrays[f"{case}/blur"] else ""
    for name, values in _statistics(made).items():
        expected = quantiles[f"{case}/{name}"]
        below = (values[:, None] <= np.moveaxis(expected, 1, 0)[:, :, None]).mean(axis=2)  # [picture, level, channel]
        distance = np.abs(below - quantiles["levels"][:, None]).max()
        compare(f"{words}: statistics (KS)", distance, 0.0, limit=limit)
    # Four to five standard errors of the 1500 recorded views.
    means = arrays[f"{case}/view_channel_mean/mean"]
    compare(f"{words}: mean colour", made.mean(axis=(1, 2, 3)), means, limit=0.03)
    grey = (np.ptp(made, axis=4).max(axis=(2, 3)) < 1e-6).mean(axis=1)
    # 4.8 standard errors of 1500 views.
    compare(f"{words}: share of grey", grey, np.full(len(grey), 0.2), limit=0.05, source="0.2")
    if f"{case}/mean_image" in arrays:
        compare("views: mean image", made.mean(axis=1), arrays[f"{case}/mean_image"], limit=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["size32_strength1_blur0"])
def test_views_are_distributed_as_the_references(case, compare):
    _check_view_distribution(case, 1500, compare)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["size32_strength0.5_blur0", "size32_strength1_blur0", "size64_strength1_blur1"])
def test_many_views_are_distributed_as_the_references(case, compare):
    _check_view_distribution(case, 6000, compare)


@pytest.mark.slow
def test_views_have_the_promised_shape_dtype_and_range():
    made = _make_views(KEY, IMAGES, _sizes(IMAGES), _positions(IMAGES))
    assert made.shape == (6, 2, SIZE, SIZE, 3) and made.dtype == jnp.float32
    assert float(made.min()) >= 0 and float(made.max()) <= 1 and bool(jnp.isfinite(made).all())


def test_views_follow_the_key_and_nothing_else():
    arguments = (IMAGES, _sizes(IMAGES), _positions(IMAGES))
    first, again, other = (np.asarray(_make_views(jax.random.key(s), *arguments)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.abs(first - other).max(axis=(2, 3, 4)) > 0.01).all()


def test_the_two_views_of_an_image_differ():
    made = np.asarray(_make_views(KEY, IMAGES, _sizes(IMAGES), _positions(IMAGES)))
    assert (np.abs(made[:, 0] - made[:, 1]).max(axis=(1, 2, 3)) > 0.01).all()


def test_equal_images_at_different_positions_get_different_views():
    images = np.repeat(IMAGES[:1], 6, axis=0)
    made = np.asarray(_make_views(KEY, images, _sizes(images), _positions(images)))
    assert len(np.unique(made.reshape(12, -1), axis=0)) == 12


@pytest.mark.slow
def test_views_of_an_image_do_not_depend_on_the_batch_around_it():
    sizes, positions = _sizes(IMAGES), _positions(IMAGES)
    made = np.asarray(_make_views(KEY, IMAGES, sizes, positions))
    order = np.asarray([4, 0, 5, 1, 3, 2])
    shuffled = np.asarray(_make_views(KEY, IMAGES[order], sizes[order], positions[order]))
    np.testing.assert_array_equal(shuffled, made[order])
    some = np.asarray([5, 2])
    np.testing.assert_allclose(_make_views(KEY, IMAGES[some], sizes[some], positions[some]), made[some], atol=1e-6)


@pytest.mark.slow
def test_views_replayed_from_their_draws_are_bit_exact():
    draws = DRAW(KEY, _sizes(IMAGES), _positions(IMAGES))
    np.testing.assert_array_equal(APPLY(IMAGES, draws), APPLY(IMAGES, jax.tree.map(np.asarray, draws)))
    made = jax.jit(augment.make_simclr_views(image_size=SIZE, loop="map"))(
        KEY, IMAGES, _sizes(IMAGES), _positions(IMAGES)
    )
    np.testing.assert_allclose(APPLY(IMAGES, draws), made, atol=REORDERED)


def test_one_view_equals_its_place_in_the_batch():
    draws = DRAW(KEY, _sizes(IMAGES), _positions(IMAGES))
    one = jax.tree.map(lambda x: x[3, 1], draws)
    view = jax.jit(lambda image, d: views.apply_view(image, d, recipe=RECIPE))(IMAGES[3], one)
    np.testing.assert_allclose(view, APPLY(IMAGES, draws)[3, 1], atol=REORDERED)


@pytest.mark.slow
@pytest.mark.parametrize("size, canvas", [(SIZE, (50, 60)), (96, (130, 110))])
def test_map_and_vmap_give_the_same_views(size, canvas):
    images = _pictures(6, *canvas)
    recipe = augment.make_recipe(image_size=size)
    draws = DRAW(KEY, _sizes(images), _positions(images))
    made = {
        loop: jax.jit(lambda i, d, loop=loop: views.apply_views(i, d, recipe=recipe._replace(loop=loop)))(images, draws)
        for loop in ("map", "vmap")
    }
    np.testing.assert_allclose(made["map"], made["vmap"], rtol=0, atol=REORDERED)


def test_padding_of_the_canvas_never_shows():
    draws = DRAW(KEY, _sizes(IMAGES), _positions(IMAGES))
    canvas = np.full((6, 70, 61, 3), 255, np.uint8)
    canvas[:, :50, :60] = IMAGES
    np.testing.assert_allclose(APPLY(canvas, draws), APPLY(IMAGES, draws), atol=REORDERED)


@pytest.mark.slow
def test_sigma_is_shared_by_a_view_and_draws_are_independent_of_each_other():
    sizes, positions = np.full((4000, 2), 40, np.int32), np.arange(4000, dtype=np.int32)
    sigma = np.asarray(DRAW(KEY, _sizes(IMAGES), _positions(IMAGES)).blur_sigma)
    assert (sigma == sigma[0]).all() and sigma[0, 0] != sigma[0, 1] and (sigma >= 0.1).all() and (sigma < 2).all()
    recipe = RECIPE._replace(blur_sigma_per="image")
    own = jax.jit(lambda k, s, p: views.draw_views(k, s, p, recipe=recipe))(KEY, sizes, positions)
    assert len(np.unique(own.blur_sigma)) > 7900
    flags = [own.flip, own.jitter_applied, own.gray_applied, own.blur_applied]
    for flag, probability in zip(flags, (0.5, 0.8, 0.2, 0.5), strict=True):
        # Four standard errors of 8000 draws.
        assert abs(np.mean(flag) - probability) < 4 * np.sqrt(probability * (1 - probability) / 8000)
    jitter = own.jitter
    columns = [*flags, *own.box, jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, own.blur_sigma]
    both = np.concatenate([np.stack(columns, axis=-1).astype(np.float64)[:, v] for v in range(2)], axis=1)
    correlation = np.corrcoef(both.T) - np.eye(both.shape[1])
    # A crop's own four numbers depend on each other (columns 4 to 7 of each view); all else must not.
    boxes = np.zeros(both.shape[1], bool)
    boxes[4:8] = boxes[17:21] = True
    same_view = np.arange(both.shape[1])[:, None] // 13 == np.arange(both.shape[1])[None, :] // 13
    correlation[boxes[:, None] & boxes[None, :] & same_view] = 0
    assert np.abs(correlation).max() < 0.075  # 4.7 standard errors of 4000 pairs


def _count(primitive, make, images):
    jaxpr = jax.make_jaxpr(make)(KEY, images, _sizes(images), _positions(images))
    return str(jaxpr).count(f"{primitive}[")


def test_operations_with_probability_zero_are_not_compiled():
    off = {"blur_probability": 0.0, "loop": "map"}
    assert _count("dot_general", augment.make_simclr_views(image_size=32, loop="map"), IMAGES) == 4
    assert _count("dot_general", augment.make_simclr_views(image_size=32, **off), IMAGES) == 2
    conditionals = _count("cond", augment.make_simclr_views(image_size=32, **off), IMAGES)
    assert conditionals == 6  # jitter, its four places, grey
    for setting in ({"color_jitter_strength": 0.0}, {"color_jitter_probability": 0.0}):
        assert _count("cond", augment.make_simclr_views(image_size=32, **off, **setting), IMAGES) == 1
    assert _count("cond", augment.make_crop_flip_views(image_size=32, loop="map"), IMAGES) == 0


def test_views_at_once_use_neither_gathers_of_pixels_nor_convolutions_and_two_products():
    make = augment.make_simclr_views(image_size=32, loop="vmap")
    images = jnp.asarray(IMAGES)
    text = jax.jit(make).lower(KEY, images, _sizes(images), _positions(images)).as_text()
    assert "stablehlo.convolution" not in text
    assert text.count("stablehlo.dot_general") == 2
    # Gathers pick a row of the orders or of the crop attempts, never a pixel.
    assert all("x50x60x" not in line and "x32x32x" not in line for line in text.splitlines() if '.gather"' in line)


@pytest.mark.slow
def test_crop_flip_views_are_one_view_of_a_crop_and_maybe_a_flip():
    make = augment.make_crop_flip_views(image_size=24, loop="map")
    made = jax.jit(make)(KEY, IMAGES, _sizes(IMAGES), _positions(IMAGES))
    assert made.shape == (6, 1, 24, 24, 3) and made.dtype == jnp.float32
    recipe = augment.make_recipe(image_size=24, num_views=1)
    draws = jax.jit(lambda s, p: views.draw_views(KEY, s, p, recipe=recipe))(_sizes(IMAGES), _positions(IMAGES))
    assert 0 < int(draws.flip.sum()) < 6
    one = jax.jit(lambda image, box, mirrored: flip.adjust_flip(crop.adjust_crop(image, box, size=24), mirrored))
    for k, image in enumerate(IMAGES):
        box, mirrored = jax.tree.map(lambda x, k=k: x[k, 0], (draws.box, draws.flip))
        expected = one(image.astype(np.float32) / 255, box, mirrored)
        np.testing.assert_allclose(made[k, 0], np.clip(expected, 0, 1), atol=2e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_eval_view_equals_the_reference(loop, compare):
    arrays = golden.load("crop_resize")
    for case, resize in (("50x40_to_33", "tf2"), ("50x40_to_33", "tf1"), ("32x32_to_32", "tf2")):
        image, size = arrays[f"eval/{case}/input_u8"], int(case.split("_to_")[1])
        # An odd canvas with garbage outside the valid region, unless the image is as it should be.
        canvas = image if size == 32 else np.pad(image, ((0, 9), (0, 4), (0, 0)), constant_values=200)
        make = jax.jit(augment.make_eval_view(image_size=size, resize=resize, loop=loop))
        ours = make(canvas[None], np.asarray([image.shape[:2]], np.int32))
        assert ours.shape == (1, size, size, 3) and ours.dtype == jnp.float32
        rows = arrays[f"eval/{case}/rows"]
        words, expected = f"evaluation view, {resize}", arrays[f"eval/{case}/output_{resize}"]
        compare(words, ours[0][rows], expected, limit=2e-6, source=resize.upper())
        if resize == "tf2":
            _compare_moments(np.asarray(ours[0]), case, compare)


def _compare_moments(view, case, compare):
    """Mean and deviation of the channels; the recorded ones are float32."""
    for name, ours in (("mean", view.mean(axis=(0, 1), dtype=float)), ("std", view.std(axis=(0, 1), dtype=float))):
        expected = golden.load("crop_resize")[f"eval/{case}/output_tf2_channel_{name}"]
        compare("evaluation view, tf2, mean, deviation", ours, expected, limit=1e-5)


@pytest.mark.few(1)
@pytest.mark.parametrize("case", ["333x500_to_224", "500x375_to_224", "256x256_to_224"])
def test_eval_view_of_large_images_equals_the_reference(case, compare):
    arrays = golden.load("crop_resize")
    height, width = (int(v) for v in case.split("_")[0].split("x"))
    i, j, c = np.ogrid[:height, :width, :3]
    k = int(arrays[f"eval/{case}/formula_k"])
    image = (((i * i * k + 5 * i * j + 11 * j + 40 * c + (i * j) // 7) // 16) % 256).astype(np.uint8)
    ours = np.asarray(jax.jit(augment.make_eval_view(image_size=224))(image[None], _sizes(image[None])))[0]
    _compare_moments(ours, case, compare)
    if f"eval/{case}/output_tf2" in arrays:
        rows = ours[arrays[f"eval/{case}/rows"]]
        compare("evaluation view, tf2", rows, arrays[f"eval/{case}/output_tf2"], limit=2e-6)


def test_eval_view_of_a_photo_equals_the_printed_values():
    i, j, c = np.ogrid[:375, :500, :3]
    image = ((3 * i + 5 * j + 40 * c) % 256).astype(np.uint8)[None]
    printed = {
        "tf2": (0.500404, 0.284401, (0.992745, 0.122461, 0.279324), (0.175578, 0.332441, 0.489304)),
        "tf1": (0.500412, 0.284448, (0.964706, 0.117647, 0.27451), (0.168695, 0.325558, 0.48242)),
    }
    for resize, (mean, deviation, first, last) in printed.items():
        ours = np.asarray(jax.jit(augment.make_eval_view(image_size=224, resize=resize))(image, _sizes(image)))[
            0
        ].astype(np.float64)
        # Printed with six decimals.
        np.testing.assert_allclose([ours.mean(), ours.std()], [mean, deviation], atol=2e-6)
        np.testing.assert_allclose([ours[0, 0], ours[223, 223]], [first, last], atol=2e-6)


def test_eval_view_of_small_images_is_the_image_itself():
    images = _pictures(3, 32, 32)
    ours = jax.jit(augment.make_eval_view(image_size=32))(images, _sizes(images))
    np.testing.assert_allclose(ours, images.astype(np.float32) / 255, rtol=0, atol=1e-7)


def test_eval_view_of_a_small_target_keeps_the_whole_short_side():
    image = _pictures(1, 40, 64)
    box = crop.CropBox(*(jnp.int32(v) for v in (0, 12, 40, 40)))
    picture = jnp.asarray(image[0].astype(np.float32) / 255)
    expected = np.clip(jax.jit(lambda p, b: crop.adjust_crop(p, b, size=(32, 32)))(picture, box), 0, 1)
    np.testing.assert_allclose(
        jax.jit(augment.make_eval_view(image_size=32))(image, _sizes(image))[0], expected, atol=2e-6
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_size": 0}, "size must be .*got 0"),
        ({"image_size": 32, "color_jitter_strength": 1.5}, "strength must be at most 1.25"),
        ({"image_size": 32, "resize": "cubic"}, "tf2, tf1; got 'cubic'"),
        ({"image_size": 32, "brightness": "v1"}, "multiply, add; got 'v1'"),
        ({"image_size": 32, "loop": "scan"}, "auto, map, vmap; got 'scan'"),
        ({"image_size": 32, "blur_sigma_per": "batch"}, "view, image; got 'batch'"),
        ({"image_size": 32, "blur_probability": 1.5}, "blur_probability must be in"),
        ({"image_size": 32, "crop_min_scale": 0.0}, "crop_min_scale must be in"),
        ({"image_size": 32, "num_views": 0}, "num_views must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_when_the_pipeline_is_built(settings, message):
    with pytest.raises(base.InputError, match=message) as error:
        augment.make_simclr_views(**settings)
    assert "\n" not in str(error.value)


def test_unknown_settings_of_a_recipe_are_named():
    with pytest.raises(base.InputError, match="blurr"):
        augment.make_recipe(image_size=32, blurr=1)
    with pytest.raises(base.InputError, match="auto, map, vmap"):
        augment.make_eval_view(image_size=32, loop="pmap")


def test_sizes_and_positions_have_defaults_and_one_image_gives_its_views():
    images = jnp.asarray(np.random.default_rng(3).integers(0, 256, (3, 20, 24, 3)), jnp.uint8)
    # Crops and flips alone: what is asked here is the same for every recipe, and four programs are compiled.
    off = {f"{what}_probability": 0.0 for what in ("color_jitter", "grayscale", "blur")}
    make_views = jax.jit(augment.make_simclr_views(image_size=16, **off))
    sizes, positions = jnp.asarray([[20, 24]] * 3, jnp.int32), jnp.arange(3, dtype=jnp.int32)
    views = make_views(KEY, images)
    np.testing.assert_array_equal(views, make_views(KEY, images, sizes, positions))
    np.testing.assert_array_equal(make_views(KEY, images[0]), views[0])
    floats = images.astype(jnp.float32) * (1 / 255)
    np.testing.assert_allclose(make_views(KEY, floats), views, atol=1e-6)
    eval_view = jax.jit(augment.make_eval_view(image_size=16))
    np.testing.assert_array_equal(eval_view(images[0]), eval_view(images, sizes)[0])


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((2, 3, 20, 24), r"jnp.moveaxis\(images, -3, -1\)"),
        ((2, 20, 24, 1), r"jnp.repeat\(images, 3, axis=-1\)"),
        ((2, 20, 24, 4), r"images\[..., :3\]"),
        ((20, 24), "channels last"),
    ],
)
def test_images_of_another_layout_are_refused_with_the_remedy(shape, remedy):
    with pytest.raises(base.InputError, match=remedy):
        augment.make_simclr_views(image_size=16)(KEY, jnp.zeros(shape, jnp.uint8))
