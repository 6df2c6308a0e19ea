"""Folder layouts, odd names, links and splits; every picture is made in a temporary folder."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data


def _save(path, color=(9, 9, 9), size=(16, 12)):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def _load(path, split="all", **changes):
    settings = {"cache_dir": "", "progress": False} | changes
    return data.load_split(f"folder:{path}", split, **settings)


def _refusal(path, split="all", **changes):
    with pytest.raises(base.InputError) as caught:
        _load(path, split, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_class_folders_give_sorted_labels_and_relative_ids(tmp_path):
    for index, name in enumerate(["zebra/1.png", "ant/2.png", "ant/deep/er/3.png", "müßig 猫/4.png"]):
        _save(tmp_path / name, (index, 0, 0))
    loaded = _load(tmp_path)
    assert loaded.class_names == ("ant", "müßig 猫", "zebra")
    assert loaded.ids == ("ant/2.png", "ant/deep/er/3.png", "müßig 猫/4.png", "zebra/1.png")
    np.testing.assert_array_equal(loaded.labels, [0, 0, 1, 2])
    np.testing.assert_array_equal(loaded.images[:, 0, 0, 0], [1, 2, 3, 0])
    assert loaded.images.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(loaded.sizes, [[12, 16]] * 4)


def test_a_flat_folder_is_unlabelled(tmp_path):
    for index in range(3):
        _save(tmp_path / f"{index}.png")
    loaded = _load(tmp_path)
    assert loaded.class_names == ()
    np.testing.assert_array_equal(loaded.labels, [-1, -1, -1])


def test_a_picture_beside_class_folders_is_unlabelled(tmp_path):
    _save(tmp_path / "cat" / "1.png")
    _save(tmp_path / "loose.png")
    loaded = _load(tmp_path)
    np.testing.assert_array_equal(loaded.labels, [0, -1])


def test_one_picture_works_and_none_is_refused(tmp_path):
    message = _refusal(tmp_path)
    assert "at least one JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF image; got no files" in message
    _save(tmp_path / "only.png")
    assert len(_load(tmp_path).ids) == 1
    assert len(_load(tmp_path, "train").ids) == 1
    assert "got none of the 1 in the folder" in _refusal(tmp_path, "test")
    assert data.has_split(f"folder:{tmp_path}", "train")
    assert not data.has_split(f"folder:{tmp_path}", "test")
    with pytest.raises(base.InputError, match="existing folder"):
        data.has_split(f"folder:{tmp_path}/missing", "test")


@pytest.mark.parametrize("name", ["", "missing", "two\nlines"])
def test_a_missing_folder_is_refused(tmp_path, name):
    assert "needs the path of an existing folder" in _refusal(name and tmp_path / name)


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_split_folders_are_the_splits_and_number_classes_alike(tmp_path, test_name):
    _save(tmp_path / "train" / "b" / "1.png")
    _save(tmp_path / "train" / "c" / "2.png")
    _save(tmp_path / test_name / "c" / "3.png")
    _save(tmp_path / test_name / "a" / "4.png")
    _save(tmp_path / "loose.png")
    train, test = _load(tmp_path, "train"), _load(tmp_path, "test")
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert dict(zip(train.ids, train.labels, strict=True)) == {"train/b/1.png": 1, "train/c/2.png": 2}
    assert dict(zip(test.ids, test.labels, strict=True)) == {f"{test_name}/a/4.png": 0, f"{test_name}/c/3.png": 2}
    assert sorted(_load(tmp_path, "all").ids) == sorted(train.ids + test.ids)


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("bus", "car", "train"):
        _save(tmp_path / name / "1.png")
    assert _load(tmp_path).class_names == ("bus", "car", "train")


def test_train_alone_is_a_split_folder_with_a_tenth_held_out(tmp_path):
    for index in range(60):
        _save(tmp_path / "train" / "cat" / f"{index}.png")
    train, test = _load(tmp_path, "train"), _load(tmp_path, "test")
    assert train.class_names == test.class_names == ("cat",)
    assert len(train.ids) + len(test.ids) == 60
    assert 1 <= len(test.ids) <= 15


def test_the_held_out_tenth_depends_on_the_name_only(tmp_path):
    for index in range(200):
        _save(tmp_path / "one" / f"{index}.png")
    train, test = _load(tmp_path / "one", "train"), _load(tmp_path / "one", "test")
    assert not set(train.ids) & set(test.ids)
    assert len(train.ids) + len(test.ids) == 200
    # Binomial with n = 200 and p = 0.1: four standard deviations.
    assert 20 - 17 <= len(test.ids) <= 20 + 17
    for index in range(0, 200, 2):
        (tmp_path / "one" / f"{index}.png").unlink()
    (tmp_path / "one").rename(tmp_path / "two")
    assert set(_load(tmp_path / "two", "test").ids) == {name for name in test.ids if int(name[:-4]) % 2}


def test_files_are_known_by_their_content_and_others_are_ignored(tmp_path, capsys):
    _save(tmp_path / "real.png")
    (tmp_path / "real.png").rename(tmp_path / "wrong_ending.jpg")
    _save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "no_ending")
    _save(tmp_path / ".hidden.png")
    _save(tmp_path / ".thumbnails" / "y.png")
    _save(tmp_path / "__MACOSX" / "z.png")
    _save(tmp_path / "drawing.ppm")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / ".git" / "annex")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    for name in ("notes.txt", "labels.csv", "more.csv"):
        (tmp_path / name).write_text("BM is not enough")
    assert _load(tmp_path, progress=True).ids == ("no_ending", "wrong_ending.jpg")
    said = capsys.readouterr().err
    assert "ignored: 1 picture of a kind that is not read (1 .ppm), 1 link that leads nowhere (1 .jpg), " in said
    assert "3 files which are not images (2 .csv, 1 .txt); passed over: " in said


def test_a_folder_of_other_files_says_what_it_found(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.zip").write_bytes(b"PK")
    assert "got 1 archive (1 .zip), 1 file which is not an image (1 .txt). Unpack" in _refusal(tmp_path)


def test_a_folder_of_pictures_that_are_not_read_says_how_to_convert_them(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    message = _refusal(tmp_path)
    assert "got 3 pictures of a kind that is not read (3 .heic). Convert them" in message
    assert "find FOLDER -iname '*.heic' -exec magick mogrify -format png {} +" in message


def test_folders_of_systems_are_passed_over_even_unreadable(tmp_path, capsys):
    for name in ("ant", "bee"):
        for index in range(20):
            _save(tmp_path / name / f"{index}.png")
        _save(tmp_path / name / "@eaDir" / "1.png" / "SYNOPHOTO_THUMB_M.jpg")
    for name in (
        "@eaDir",
        "lost+found",
        "System Volume Information",
        "$RECYCLE.BIN",
        ".Trashes",
        "#recycle",
        "found.000",
    ):
        _save(tmp_path / name / "old.png")
        (tmp_path / name).chmod(0)
    try:
        loaded = _load(tmp_path, progress=True)
    finally:
        for folder in tmp_path.iterdir():
            folder.chmod(0o700)
    assert loaded.class_names == ("ant", "bee")
    assert len(loaded.ids) == 40
    said = capsys.readouterr().err
    assert "36 training images; 4 test" in said or "2 classes (ant, bee)" in said
    assert "passed over: @eaDir (3)" in said


def test_an_unreadable_folder_of_the_user_is_one_line(tmp_path, monkeypatch):
    _save(tmp_path / "ant" / "1.png")
    scandir = os.scandir

    def refuse(path):  # root may read everything, so that permissions alone do not show it
        if str(path).endswith("ant"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "got Permission denied for " in _refusal(tmp_path)


def test_every_start_says_what_was_understood_and_what_is_damaged(tmp_path, capsys):
    root, cache_dir = tmp_path / "data", tmp_path / "cache"
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("valid", 3), ("test", 2)):
        for name in ("ant", "bee"):
            for index in range(count):
                picture = rng.integers(0, 256, (9, 9, 3), np.uint8)
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    (root / "train" / "ant" / "broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    (root / "train" / "ant" / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    for _ in range(2):  # decoded, then from the cache
        _load(root, "train", progress=True, cache_dir=cache_dir, max_corrupt_fraction=0.2)
        first, *others = (line for line in capsys.readouterr().err.splitlines() if line and "images/s" not in line)
        assert first == (
            f"folder:{root}: 14 training images from train/; 4 test images from test/; 2 classes (ant, bee); "
            "left out: valid/ (6)"
        )
        (damaged,) = others
        assert "2 of 14 images cannot be read and are left out: train/ant/broken.jpg: damaged" in damaged
        assert "train/ant/page.jpg: a web page (HTML) instead of a picture: a failed download" in damaged
    _load(root, "test", progress=True, cache_dir=cache_dir)
    said = capsys.readouterr().err
    assert "split 'test': 4 images of 2 classes from test/" in said
    assert "only 4 test images with a label" in said


def test_links_to_pictures_inside_a_hidden_store_are_read(tmp_path):
    _save(tmp_path / ".store" / "a" / "1.png")
    (tmp_path / "ant").symlink_to(tmp_path / ".store" / "a")
    _save(tmp_path / "bee" / "2.png")
    assert _load(tmp_path).ids == ("ant/1.png", "bee/2.png")


def test_splits_of_links_to_one_store_are_splits(tmp_path):
    for name in ("ant", "bee"):
        _save(tmp_path / "store" / name / "1.png")
        for split in ("train", "test"):
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / name).symlink_to(tmp_path / "store" / name)
    assert _load(tmp_path, "train").ids == ("train/ant/1.png", "train/bee/1.png")
    assert _load(tmp_path, "test").class_names == ("ant", "bee")


def test_paths_of_people_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _save(tmp_path / "a[1]*?" / "b" / "1.png")
    loaded = _load("~/a[1]*?", cache_dir="~/c[2]")
    assert loaded.class_names == ("b",)
    assert (tmp_path / "c[2]").is_dir()
    assert len(_load("a[1]*?", data_dir="~").ids) == len(_load("a[1]*?", data_dir=pathlib.Path("~")).ids) == 1
    assert len(_load("a[1]*?", data_dir=tmp_path, cache_dir=pathlib.Path("~/d")).ids) == 1


def test_sixteen_bit_pictures_of_12_bits_are_said_and_mended(tmp_path, capsys):
    levels = np.random.default_rng(0).integers(0, 4096, (5, 12, 12)).astype(np.uint16)
    for index in range(5):
        Image.fromarray(levels[index]).save(tmp_path / f"{index}.png")
    assert _load(tmp_path, progress=True).images.max() <= 16
    assert "set sixteen_bit_range=(0,4095)" in capsys.readouterr().err
    mended = _load(tmp_path, sixteen_bit_range=(0, 4095), progress=True)
    assert "warning" not in capsys.readouterr().err
    np.testing.assert_array_equal(mended.images[..., 0], np.rint(levels / 4095 * 255))


def test_link_loops_end_and_links_into_the_data_count_nothing_twice(tmp_path):
    root = tmp_path / "data"
    _save(root / "cat" / "1.png")
    _save(root / "dog" / "2.png")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "dog" / "other").symlink_to(root / "cat")
    (root / "broken").symlink_to(root / "nowhere")
    (root / "round").symlink_to(root / "round")
    assert _load(root).ids == ("cat/1.png", "dog/2.png")


def test_linked_folders_and_files_from_elsewhere_are_followed(tmp_path):
    _save(tmp_path / "store" / "1.png")
    _save(tmp_path / "store" / "2.png")
    root = tmp_path / "data"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "store")
    (root / "dog" / "alias.png").symlink_to(tmp_path / "store" / "2.png")
    assert _load(root).ids == ("cat/1.png", "cat/2.png", "dog/alias.png")


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    _save(tmp_path / "a.png")
    assert _load(tmp_path).ids == ("a.png",)


def test_hostile_names_stay_on_one_line_and_valid_text(tmp_path):
    names = ["new\nline.png", '"><img onerror=x>.png', "$(touch canary).png", "-rf.png", "sp ace.png", "\x1b[31m.png"]
    for name in names:
        _save(tmp_path / name)
    raw = os.path.join(os.fsencode(tmp_path), b"latin\xe9.png")
    os.rename(tmp_path / "sp ace.png", raw)
    (tmp_path / "bad\nfile.png").write_bytes(b"junk")
    loaded = _load(tmp_path, max_corrupt_fraction=0.5)
    assert set(loaded.ids) == {*names, "latin\\xe9.png"} - {"sp ace.png"}
    assert "".join(loaded.ids).encode("utf-8")
    assert loaded.skipped == ("bad\\nfile.png: not a JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF file",)
    assert "bad\\nfile.png" in _refusal(tmp_path, max_corrupt_fraction=0)


def test_the_canvas_is_that_of_the_largest_picture_up_to_256(tmp_path):
    _save(tmp_path / "a.png", size=(20, 30))
    _save(tmp_path / "b.png", size=(40, 10))
    (tmp_path / "c.png").write_bytes(b"junk")
    assert _load(tmp_path).images.shape == (2, 40, 40, 3)
    np.testing.assert_array_equal(_load(tmp_path, canvas_size=20).sizes, [[20, 13], [5, 20]])
    _save(tmp_path / "d.png", size=(100, 600))
    loaded = _load(tmp_path)
    assert loaded.images.shape == (3, 256, 256, 3)
    np.testing.assert_array_equal(loaded.sizes, [[30, 20], [10, 40], [256, 43]])


def test_a_changed_file_is_noticed_through_the_cache(tmp_path):
    root, cache_dir = tmp_path / "data", tmp_path / "cache"
    for index in range(3):
        _save(root / f"{index}.png", (index, 0, 0))
    first = _load(root, cache_dir=cache_dir)
    assert _load(root, cache_dir=cache_dir).fingerprint == first.fingerprint
    _save(root / "1.png", (99, 0, 0))
    os.utime(root / "1.png", ns=(1, 1))  # a clock too coarse to see the change must not hide it in this test
    changed = _load(root, cache_dir=cache_dir)
    assert changed.images[1, 0, 0, 0] == 99
    (root / "0.png").rename(root / "renamed.png")
    renamed = _load(root, cache_dir=cache_dir)
    assert len({first.fingerprint, changed.fingerprint, renamed.fingerprint}) == 3


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path):
    for name in ("one", "two"):
        for index in range(3):
            _save(tmp_path / name / "cat" / f"{index}.png", (index, 0, 0))
    os.utime(tmp_path / "two" / "cat" / "0.png", ns=(1, 1))
    assert _load(tmp_path / "one").fingerprint == _load(tmp_path / "two").fingerprint


def test_a_relative_path_starts_at_data_dir(tmp_path, monkeypatch):
    _save(tmp_path / "pets" / "1.png")
    assert len(_load("pets", data_dir=tmp_path).ids) == 1
    monkeypatch.chdir(tmp_path)
    assert len(_load("pets").ids) == 1


def test_a_huge_file_is_skipped_unread(tmp_path):
    for index in range(2):
        _save(tmp_path / f"{index}.png")
    with open(tmp_path / "huge.png", "wb") as stream:
        stream.truncate(2**40)
    loaded = _load(tmp_path, max_corrupt_fraction=0.1)
    assert loaded.skipped == ("huge.png: larger than 268 MB (shrink it, or raise max_megapixels)",)


def test_trashnet_has_its_published_counts():
    root = pathlib.Path(
        os.environ.get("SIMCLR_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data"), "trashnet"
    )
    if not root.is_dir():
        pytest.skip("trashnet not found; set SIMCLR_DATA to the folder which holds it to run this check")
    loaded = _load(root, "test", canvas_size=96)
    assert loaded.images.shape == (431, 96, 96, 3)
    assert loaded.class_names == ("cardboard", "glass", "metal", "paper", "plastic", "trash")
    np.testing.assert_array_equal(np.bincount(loaded.labels), [70, 82, 68, 108, 74, 29])
    assert set(map(tuple, loaded.sizes)) <= {(96, 72), (72, 96)}
