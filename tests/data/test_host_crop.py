"""The host's bicubic against the reference's recorded crops, a float64 loop, and its two methods beside each other."""

import sys

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.data import host_crop
from tests import golden, oracles

pytest.importorskip("cv2")
# Half a level for rounding, and float32 rounding of sums of four products of up to 255.
ROUNDING = 0.5 + 1e-3


def _cut(picture, box, size, **settings):
    out = np.zeros((size, size, 3), np.uint8)
    host_crop.crop(picture, tuple(int(v) for v in box), out=out, **settings)
    return out


def _square_cases(arrays):
    names = [n for n in arrays["case_names"] if len(set(arrays[f"{n}/out_h_w"].tolist())) == 1]
    return [(n, r) for n in names for r in ("tf2", "tf1") if f"{n}/output_{r}" in arrays]


def _worst(arrays, name, resize):
    """Levels of 255 between our crop and the reference's, clipped."""
    picture, size = arrays["input_u8/" + str(arrays[f"{name}/image"])], int(arrays[f"{name}/out_h_w"][0])
    ours = _cut(picture, arrays[f"{name}/box_y_x_h_w"], size, resize=resize)
    expected = np.clip(255 * arrays[f"{name}/output_{resize}"].astype(np.float64), 0, 255)
    return np.abs(ours[arrays[f"{name}/rows"]] - expected).max()


@pytest.mark.parametrize("case", _square_cases(golden.load("crop_resize")), ids="-".join)
def test_the_exact_crop_is_the_reference_rounded_to_levels(case):
    assert _worst(golden.load("crop_resize"), *case) <= ROUNDING


@pytest.mark.slow
def test_the_exact_crop_is_the_reference_in_every_recorded_case():
    arrays = golden.load_full("crop_resize")
    assert max(_worst(arrays, *case) for case in _square_cases(arrays)) <= ROUNDING


@pytest.mark.parametrize("resize", ["tf2", "tf1"])
def test_the_taps_are_the_reference_matrices(resize):
    arrays = golden.load("crop_resize")
    names = [name for name in arrays if name.startswith(f"matrix_{resize}/")]
    assert names
    for name in names:
        source, size = (int(part) for part in name.split("/")[1].split("_to_"))
        index, weights = host_crop.resize_taps(source, size, resize)
        matrix = np.zeros((size, source), np.float32)
        np.add.at(matrix, (np.repeat(np.arange(size), 4), index), weights)
        np.testing.assert_allclose(matrix, arrays[name], rtol=0, atol=2e-6)


def test_a_window_of_the_size_of_the_view_is_copied():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for method in host_crop.METHODS:
        np.testing.assert_array_equal(_cut(picture, (3, 5, 12, 12), 12, method=method), picture[3:15, 5:17])


def test_opencv_has_a_sharper_kernel_at_most_a_tenth_away():
    picture = np.kron(np.random.default_rng(2).integers(0, 256, (15, 20, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    exact, fast = (_cut(picture, (4, 6, 50, 50), 32, method=method).astype(int) for method in host_crop.METHODS)
    worst = np.abs(exact - fast).max()
    assert 1 < worst < 26


def test_threads_do_not_share_their_arrays():
    picture = np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)
    boxes = [(0, 0, 40 + i, 50 + i) for i in range(40)]
    expected = [_cut(picture, box, 24) for box in boxes]
    found = oracles.in_threads(lambda box: _cut(picture, box, 24), boxes, count=4)
    np.testing.assert_array_equal(found, expected)


def test_an_unknown_method_is_refused():
    with pytest.raises(base.InputError, match="exact, opencv; got 'lanczos'"):
        host_crop.check_method("lanczos")


def test_without_scipy_s_inner_product_its_public_one_gives_the_same_levels(monkeypatch):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    picture = np.random.default_rng(0).integers(0, 256, (40, 53, 3), np.uint8)
    cases = [((3, 5, 30, 41), 24), ((0, 0, 7, 9), 32)]
    expected = [_cut(picture, box, size) for box, size in cases]
    monkeypatch.delattr(scipy_sparse, "_sparsetools")
    monkeypatch.setitem(sys.modules, "scipy.sparse._sparsetools", None)
    host_crop._sparse_product.cache_clear()
    try:
        found = [_cut(picture, box, size) for box, size in cases]
        assert host_crop._sparse_product() is host_crop._public_product
    finally:
        host_crop._sparse_product.cache_clear()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
