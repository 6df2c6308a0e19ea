"""The Gaussian blur against the reference's recorded values and a float64 convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import blur
from tests import golden

# Float32 rounding of at most 23 taps per axis; observed 4e-7.
TOLERANCE = 2e-6


_blur = jax.jit(blur.adjust_gaussian_blur, static_argnames="kernel_size")


def _check_case(arrays, case, compare):
    size = int(case.split("_")[0])
    sigma, kernel_size = arrays[f"{case}/sigma"], int(arrays[f"{case}/nominal_kernel_size"])
    assert blur.kernel_size_for(size) == kernel_size
    image = arrays[f"input_u8/{size}"].astype(np.float32) / np.float32(255)
    ours = np.asarray(_blur(image, sigma, kernel_size=kernel_size))
    windows = {
        "output": np.s_[:, :],
        "output_corner_top_left": np.s_[:28, :28],
        "output_corner_bottom_right": np.s_[-28:, -28:],
        "output_centre": np.s_[size // 2 - 8 : size // 2 + 8, size // 2 - 8 : size // 2 + 8],
    }
    compared = 0
    for name, window in windows.items():
        if f"{case}/{name}" in arrays:
            compare("blur", ours[window], arrays[f"{case}/{name}"], limit=TOLERANCE)
            compared += 1
    return compared


@pytest.mark.parametrize("case", ["32_s0.1", "32_s0.5", "32_s1", "32_s2", "96_s1.3"])
def test_gaussian_blur_equals_the_reference(case, compare):
    assert _check_case(golden.load("gaussian_blur"), case, compare) in (1, 3)


def test_gaussian_blur_equals_the_reference_in_every_recorded_case(compare):
    arrays = golden.load_full("gaussian_blur")
    for case in arrays["case_names"]:
        assert _check_case(arrays, case, compare)


def test_batch_blur_equals_the_reference(compare):
    arrays = golden.load_full("gaussian_blur")
    images = arrays["batch/input_u8"].astype(np.float32) / np.float32(255)
    for view in range(2):
        for k, image in enumerate(images[view]):
            blurred = _blur(jnp.asarray(image), arrays["batch/sigma_per_view"][view], kernel_size=4)
            ours = np.clip(blurred if arrays["batch/selector_uniform"][view, k] < 0.5 else image, 0, 1)
            compare("blur of a batch", ours, arrays["batch/output"][view, k], limit=TOLERANCE)


def test_blur_kernels_equal_the_reference(compare):
    arrays = golden.load("gaussian_blur")
    for case in arrays["case_names"]:
        kernel_size = int(arrays[f"{case}/nominal_kernel_size"])
        ours = blur.blur_kernel(arrays[f"{case}/sigma"], kernel_size=kernel_size)
        assert ours.dtype == jnp.float32
        compare("blur, taps", ours, arrays[f"{case}/kernel_f64"], limit=1e-7)


@pytest.mark.parametrize("size, taps", [(224, 23), (96, 9), (64, 7), (32, 3), (19, 1)])
def test_kernel_has_the_references_number_of_taps(size, taps):
    assert blur.blur_kernel(1.0, kernel_size=blur.kernel_size_for(size)).shape == (taps,)


@pytest.mark.parametrize("size", [32, 96, 224])
def test_blur_of_ones_darkens_the_borders_as_the_reference_does(size, compare):
    arrays = golden.load("gaussian_blur")
    ones = jnp.ones((size, size, 3), jnp.float32)
    ours = np.asarray(_blur(ones, 2.0, kernel_size=blur.kernel_size_for(size)))
    compare("blur", ours[0, :, 0], arrays[f"ones_s2/{size}_first_row"], limit=TOLERANCE)
    compare("blur", np.diagonal(ours[..., 1]), arrays[f"ones_s2/{size}_diagonal"], limit=TOLERANCE)


def test_blur_of_ones_equals_the_printed_values():
    ones = jnp.ones((224, 224, 3), jnp.float32)
    two, one = (np.asarray(_blur(ones, s, kernel_size=22)) for s in (2.0, 1.0))
    printed = [two[0, 0, 0], two[0, 112, 0], two[1, 112, 0], two[112, 112, 0], one[0, 0, 0], one[0, 112, 0]]
    np.testing.assert_allclose(printed, [0.359683, 0.599736, 0.775768, 1.0, 0.489260, 0.699471], atol=2e-6)


@pytest.mark.parametrize("shape", [(5, 9), (40, 17), (70, 130), (3, 2)])
def test_blur_of_any_shape_equals_float64_loops(shape):
    height, width = shape
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    sigma, radius = 1.7, 4
    taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    padded = np.pad(image.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)))
    expected = np.zeros((height, width, 3))
    for i in range(2 * radius + 1):
        for j in range(2 * radius + 1):
            expected += taps[i] * taps[j] * padded[i : i + height, j : j + width]
    ours = _blur(jnp.asarray(image), sigma, kernel_size=2 * radius)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["32_s0.1", "32_s2", "96_s1.3"])
def test_blur_at_once_equals_the_reference_or_changes_no_bit(case, compare):
    arrays = golden.load("gaussian_blur")
    size = int(case.split("_")[0])
    image = np.moveaxis(arrays[f"input_u8/{size}"].astype(np.float32) / np.float32(255), 2, 0)
    make = jax.jit(jax.vmap(lambda on: blur.blur_at_once(image, arrays[f"{case}/sigma"], on, kernel_size=size // 10)))
    blurred, kept = np.asarray(make(np.asarray([True, False])))
    blurred, whole = np.moveaxis(blurred, 0, 2), f"{case}/output" in arrays
    corner = arrays[f"{case}/output" if whole else f"{case}/output_corner_bottom_right"]
    compare("blur, all images at once", blurred if whole else blurred[-28:, -28:], corner, limit=TOLERANCE)
    np.testing.assert_array_equal(kept, image)


def test_blur_with_one_tap_changes_nothing():
    image = jnp.asarray(np.random.default_rng(0).random((19, 19, 3), np.float32))
    np.testing.assert_allclose(_blur(image, 0.5, kernel_size=1), image, atol=1e-7)


@pytest.mark.slow
def test_random_gaussian_blur_blurs_by_a_drawn_sigma_or_not_at_all():
    image = jnp.asarray(np.random.default_rng(0).random((40, 40, 3), np.float32))
    changed = []
    for seed in range(12):
        key = jax.random.key(seed)
        view = blur.random_gaussian_blur(key, image)
        sigma = blur.draw_sigma(jax.random.split(key)[1])
        assert 0.1 <= float(sigma) < 2.0
        changed.append(bool((view != image).any()))
        np.testing.assert_allclose(view, _blur(image, sigma, kernel_size=4) if changed[-1] else image, atol=1e-7)
    assert set(changed) == {True, False}
