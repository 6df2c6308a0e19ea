"""The built-in patches: counts, no shared pixel, and pixels against scikit-image's own arrays."""

import numpy as np
import pytest
import skimage.data

from simclr_jax import base
from simclr_jax.data import extras, photo_patches


@pytest.fixture(scope="module")
def patches():
    return {split: photo_patches.load_photo_patches(split) for split in ("train", "test")}


def _place(name):
    picture, _, corner = name.rpartition("@")
    top, left = map(int, corner.split(","))
    return picture, top, left


def test_counts_are_those_of_the_published_baselines(patches):
    assert patches["train"].images.shape == (6344, 32, 32, 3)
    assert patches["test"].images.shape == (2365, 32, 32, 3)
    for split, cap in (("train", 400), ("test", 150)):
        counts = np.bincount(patches[split].labels, minlength=18)
        assert len(counts) == 18
        assert counts.max() == cap
        assert counts.min() >= 45
    assert len(patches["train"].class_names) == 18


def test_train_and_test_share_no_pixel(patches):
    covered = {split: {} for split in patches}
    for split, part in patches.items():
        for name in part.ids:
            picture, top, left = _place(name)
            canvas = covered[split].setdefault(picture, np.zeros((1500, 1500), bool))
            canvas[top : top + 32, left : left + 32] = True
    for picture in patches["train"].class_names:
        assert covered["train"][picture].any()
        assert covered["test"][picture].any()
        assert not (covered["train"][picture] & covered["test"][picture]).any()


def test_patches_are_grey_windows_of_the_named_picture(patches):
    part = patches["train"]
    originals = {"brick": skimage.data.brick(), "moon": skimage.data.moon(), "coins": skimage.data.coins()}
    checked = 0
    for row, name in enumerate(part.ids):
        picture, top, left = _place(name)
        assert part.class_names[part.labels[row]] == picture
        if picture in originals:
            window = originals[picture][top : top + 32, left : left + 32]
            np.testing.assert_array_equal(part.images[row], np.repeat(window[..., None], 3, axis=-1))
            checked += 1
    assert checked == 400 + 400 + 225


def test_colour_pictures_become_luma(patches):
    part = patches["test"]
    row = part.class_names.index("astronaut")
    index = int(np.flatnonzero(part.labels == row)[0])
    _, top, left = _place(part.ids[index])
    window = skimage.data.astronaut()[top : top + 32, left : left + 32].astype(float)
    luma = window @ [0.299, 0.587, 0.114]
    # Pillow rounds the luma in fixed point.
    assert np.abs(part.images[index, ..., 0] - luma).max() <= 1


def test_patches_are_the_same_every_time(patches):
    assert photo_patches.load_photo_patches("test").fingerprint == patches["test"].fingerprint


def test_windows_are_not_repeated(patches):
    for part in patches.values():
        assert len(set(part.ids)) == len(part.ids)


def test_a_picture_which_left_the_wheel_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "package_folder", lambda package: tmp_path)
    with pytest.raises(base.InputError, match=r"astronaut\.png inside the package skimage.*pip install") as caught:
        photo_patches.load_photo_patches("train")
    assert "\n" not in str(caught.value)


def test_a_picture_of_another_size_is_one_clear_error(monkeypatch):
    wrong = photo_patches.PICTURES[0]._replace(shape=(256, 256))
    monkeypatch.setattr(photo_patches, "PICTURES", (wrong,))
    with pytest.raises(base.InputError, match=r"\(256, 256\) pixels; got \(512, 512\)"):
        photo_patches.load_photo_patches("train")
