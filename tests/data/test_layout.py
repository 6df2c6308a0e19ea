"""Splits, classes and the held-out tenth, from paths alone."""

import os
import pathlib

import pytest

from simclr_jax import base
from simclr_jax.data import layout, scan


def _understand(*paths):
    """The layout of files with these paths; a number behind `*` is how many there are."""
    files, folders = [], set()
    for path in paths:
        path, _, count = path.partition("*")
        for index in range(int(count or 1)):
            parts = (*path.strip("/").split("/"), f"{index}.png") if path else (f"{index}.png",)
            files.append(scan.Found(tuple(map(scan.as_text, parts)), "/".join(parts), 1, 1, False))
            folders |= {parts[:depth] for depth in range(1, len(parts))}
    listing = scan.Listing(sorted(files), {}, {}, folders)
    return layout.understand(listing, "folder:X")


def _counts(found):
    """{split: {class: number of images}}."""
    counts = {"train": {}, "test": {}}
    for file in found.files:
        counts[file.split][file.class_name] = counts[file.split].get(file.class_name, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "train") for name in ("train", "Training", "TRAIN", "train_images", "train2017", "seg_train")),
        *((name, "train") for name in ("training_set", "01-train", "Train Images", "images.train", "trainset")),
        *((name, "valid") for name in ("val", "valid", "Validation", "dev", "eval", "validation_data", "VAL_2")),
        *((name, "test") for name in ("test", "Testing", "TEST", "test_set", "testset")),
        *((name, None) for name in ("trains", "bus", "Tester", "retrain", "train_station", "train_test", "tractor")),
    ],
)
def test_the_name_of_a_split_is_known_however_it_is_written(name, role):
    assert layout.split_role(name) == role


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "valid"), ("Train", "VAL"), ("training_set", "test_set"), ("TRAIN", "dev"), ("train2017", "val2017")],
)
def test_two_splits_are_two_splits(train, test):
    found = _understand(f"{train}/ant*4", f"{train}/bee*4", f"{test}/ant*2", f"{test}/bee*2")
    assert _counts(found) == {"train": {"ant": 4, "bee": 4}, "test": {"ant": 2, "bee": 2}}
    assert (found.train_from, found.test_from, found.warnings) == (f"{train}/", f"{test}/", ())


def test_a_test_folder_goes_before_a_validation_folder_which_is_left_out():
    found = _understand("train/ant*2", "valid/ant*3", "test/ant*4", "extra/ant*5", "*6")
    assert found.test_from == "test/"
    assert found.left_out == {"valid/": 3, "extra/": 5, "the top": 6}


def test_an_unlabelled_test_folder_gives_way_to_a_labelled_validation_folder():
    found = _understand("train/ant*2", "train/bee*2", "valid/ant*1", "valid/bee*1", "test*9")
    assert found.test_from == "valid/"
    assert found.left_out == {"test/": 9}
    assert _understand("train*3", "valid*2", "test*2").test_from == "test/"


def test_a_split_folder_inside_its_own_name_is_opened():
    found = _understand("seg_train/seg_train/sea*3", "seg_test/seg_test/sea*2", "seg_pred/seg_pred*4")
    assert _counts(found) == {"train": {"sea": 3}, "test": {"sea": 2}}
    assert found.train_from == "seg_train/seg_train/"
    assert found.left_out == {"seg_pred/": 4}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["train/ant", "train/bee", "holdback/ant", "holdback/bee"], "looks like a split, but none is called test"),
        (["train*3", "eval_labelled/ant", "eval_labelled/bee"], "looks like a split"),
        (["valid/ant", "valid/bee", "learned/ant", "learned/bee"], "none is called train"),
        (["valid/ant", "test/ant"], "none is called train"),
        (["ant", "bee", "test/ant", "test/bee"], "none is called train"),
        (["train/ant", "training/ant", "test/ant"], "must have one folder for training; got train, training"),
        (["data/train/ant", "data/valid/ant"], "data holds train, valid: one level too high"),
        (["data/Train", "data/Test"], "one level too high"),
        (["ant/train", "ant/test", "bee/train", "bee/test"], "splits above classes"),
        (["bottle/train/good", "bottle/test/bad", "bottle/ground_truth/bad", "nut/train/good"], "splits above classes"),
    ],
)
def test_what_looks_like_splits_but_is_not_understood_is_refused(paths, words):
    with pytest.raises(base.InputError, match=words) as caught:
        _understand(*paths)
    assert "\n" not in str(caught.value)


def test_a_class_called_train_is_a_class_and_said():
    found = _understand("bus*2", "car*2", "train*2")
    assert {file.class_name for file in found.files} == {"bus", "car", "train"}
    assert found.warnings == ("train: named like a split, but taken for a class; a split needs train and test",)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["PetImages/Cat*5", "PetImages/Dog*5"], "one class, PetImages (it holds Cat, Dog): is the folder one level"),
        (["ant*9"], "one class, ant: is the folder one level too high?"),
        (["train/images*9", "valid/images*3"], "one class, images: is"),
        (["train/ant*9", "train/bee*2", "test/ant*3"], "bee: images for train only, none for test"),
        (["train/ant*9", "test/ant", "test/cat*3"], "cat: images for test only, none for train"),
        (["train/Ant*9", "test/ant*3", "train/bee", "test/bee"], "Ant, ant differ in case only and are taken for one"),
        (["Ant*9", "ant*9"], "Ant, ant differ in case only and are taken for 2 classes"),
    ],
)
def test_what_may_not_be_meant_so_is_said(paths, words):
    assert any(words in warning for warning in _understand(*paths).warnings)


def test_accents_composed_or_not_and_capitals_are_one_class():
    found = _understand("train/caf\u00e9*2", "test/cafe\u0301*2", "train/Ant*2", "test/ant*2")
    assert _counts(found) == {"train": {"caf\u00e9": 2, "Ant": 2}, "test": {"caf\u00e9": 2, "Ant": 2}}


def test_every_class_of_two_images_gives_and_keeps_one():
    sizes = {"one": 1, "two": 2, "twelve": 12, "many": 400, "": 20}
    names = [(f"{name}/{index}", name) for name, size in sizes.items() for index in range(size)]
    held_out = layout.choose_held_out(names)
    counts = {name: sum((f"{name}/{index}") in held_out for index in range(size)) for name, size in sizes.items()}
    assert counts["one"] == 0
    assert counts["two"] == 1
    assert 1 <= counts["twelve"] <= 5
    # Binomial with n = 400 and p = 0.1: four standard deviations.
    assert abs(counts["many"] - 40) <= 24
    assert counts[""] >= 1


def test_the_held_out_images_of_a_class_do_not_depend_on_the_others_and_stay():
    names = [(f"ant/{index}", "ant") for index in range(300)]
    others = [(f"bee/{index}", "bee") for index in range(50)]
    alone = layout.choose_held_out(names)
    assert layout.choose_held_out([*others, *names[::-1]]) - alone == layout.choose_held_out(others)
    more = layout.choose_held_out([*names, *((f"ant/new{index}", "ant") for index in range(300))])
    assert alone <= more


def test_classes_of_one_image_give_one_test_image_in_all():
    assert len(layout.choose_held_out([("a/1", "a"), ("b/1", "b"), ("c/1", "c")])) == 1
    assert layout.choose_held_out([("a/1", "a")]) == set()


@pytest.mark.parametrize("seed", range(20))
def test_24_images_of_two_classes_always_have_a_test_image_of_each(seed):
    counts = _counts(_understand(f"{seed}ant*12", f"{seed}bee*12"))
    assert all(counts["test"].get(f"{seed}{name}", 0) >= 1 for name in ("ant", "bee"))


def test_a_small_test_split_is_said():
    few = _understand("train/ant*20", "train/bee*20", "test/ant*2", "test/bee*2")
    (said,) = layout.check_test(few.files)
    assert said == "only 4 test images with a label, of 2 of 2 classes: scores on them say little"
    one_class = _understand("train/ant*20", "train/bee*20", "test/ant*30")
    assert "of 1 of 2 classes" in layout.check_test(one_class.files)[0]
    enough = _understand("train/ant*20", "train/bee*20", "test/ant*6", "test/bee*6")
    assert not layout.check_test(enough.files)
    assert not layout.check_test(_understand("*30").files)


def test_folders_without_images_are_said(tmp_path):
    for name in ("train/ant", "train/bee", "test/ant"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("train/ant/1.png", "train/ant/2.png"):
        pathlib.Path(tmp_path, *name.split("/")).write_bytes(os.urandom(4))
    found = layout.understand(scan.scan(tmp_path), "folder:X")
    assert found.test_from.startswith("a tenth")
    assert "test, train/bee: no image inside" in found.warnings
