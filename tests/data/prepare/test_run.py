"""`prepare`: what goes in comes out for TFDS and for us, a stopped run goes on, and nothing damaged gets in."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.data import prepare
from simclr_jax.data.prepare import plan as plan_lib
from simclr_jax.data.prepare import shard
from tests.data.prepare import makers

tfds = pytest.importorskip("tensorflow_datasets")


def read_with_tfds(prepared, data_dir, split):
    """name -> (bytes, label), by TFDS's own reader."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source(prepared.name, split=split, data_dir=data_dir, decoders=decoders)
    return {row["name"].decode(): (row["image"], row.get("label")) for row in source}


@pytest.fixture
def few_to_a_shard(monkeypatch):
    monkeypatch.setattr(plan_lib, "_SHARD_BYTES", 2000)
    monkeypatch.setattr(plan_lib, "_MIN_EXAMPLES", 1)


def test_a_folder_comes_out_of_tfds_as_it_went_in(tmp_path, few_to_a_shard):
    files = makers.class_folders(tmp_path / "My Photos")
    seen = []
    prepared = prepare.prepare(
        str(tmp_path / "My Photos"), tmp_path / "out", progress=lambda *numbers: seen.append(numbers)
    )
    assert prepared.name == "my_photos" and prepared.splits == {"test": 12, "train": 12}
    assert prepared.class_counts["train"] == {"ant": 6, "bee": 6} and not prepared.refused
    assert seen[-1] == (24, 24) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len([*pathlib.Path(prepared.folder).glob("*train*-of-*")]) > 2
    for split in ("train", "test"):
        found = read_with_tfds(prepared, tmp_path / "out", split)
        expected = {name: (content, int("bee" in name)) for name, content in files.items() if name.startswith(split)}
        assert found == expected
    builder = tfds.builder(prepared.name, data_dir=tmp_path / "out")
    assert builder.info.features["label"].names == ["ant", "bee"]
    decoded = tfds.data_source(prepared.name, split="train", data_dir=tmp_path / "out")[0]["image"]
    assert decoded.shape == (30, 40, 3) and decoded.dtype == np.uint8


def test_odd_names_come_through(tmp_path, few_to_a_shard):
    folder, content = tmp_path / "photos", makers.picture(1)
    names = ["train/a\nb/x\ty.jpg", "train/ä ö/日本.jpg", "train/ä ö/" + 60 * "ü" + ".jpg", "train/'\"/;$(x).jpg"]
    for name in [*names, "test/a\nb/1.jpg"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with open(os.fsencode(folder / "train") + b"/a\nb/\xff\xfe.jpg", "wb") as stream:
        stream.write(content)
    (folder / "train/a\nb/loop").symlink_to(folder / "train")
    prepared = prepare.prepare(str(folder), tmp_path / "out")
    found = read_with_tfds(prepared, tmp_path / "out", "train")
    assert set(found) == {*names, "train/a\nb/\\xff\\xfe.jpg"}
    builder = tfds.builder(prepared.name, data_dir=tmp_path / "out")
    assert len(builder.info.features["label"].names) == 3 and prepared.splits == {"test": 1, "train": 5}


def test_our_own_reader_sees_the_same_pixels_as_in_the_folder(tmp_path, few_to_a_shard):
    makers.class_folders(tmp_path / "photos")
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out")
    settings = {"cache_dir": "", "progress": False, "canvas_size": 40}
    ours = data.load_split(f"tfds:{prepared.name}", "train", data_dir=tmp_path / "out", **settings)
    plain = data.load_split(f"folder:{tmp_path / 'photos'}", "train", **settings)

    def rows(loaded):
        return sorted((label, image.tobytes()) for label, image in zip(loaded.labels, loaded.images, strict=True))

    assert rows(ours) == rows(plain) and ours.class_names == plain.class_names


def test_a_flat_folder_is_prepared_without_labels(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(makers.picture(number))
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", set_name="mine")
    assert prepared.name == "mine" and sum(prepared.splits.values()) == 6
    loaded = data.load_split("tfds:mine", "train", data_dir=tmp_path / "out", cache_dir="", progress=False)
    assert set(loaded.labels) == {-1} and loaded.class_names == ()


def test_equal_records_have_one_fingerprint_whatever_the_shards(tmp_path, few_to_a_shard, monkeypatch):
    files = makers.class_folders(tmp_path / "photos")
    first = prepare.prepare(str(tmp_path / "photos"), tmp_path / "a")
    monkeypatch.setattr(plan_lib, "_SHARD_BYTES", 10**9)
    second = prepare.prepare(str(tmp_path / "photos"), tmp_path / "b", num_threads=1)
    assert len(os.listdir(first.folder)) > len(os.listdir(second.folder))
    assert first.fingerprint == second.fingerprint
    name, content = next(iter(files.items()))
    (tmp_path / "photos" / name).write_bytes(makers.picture(99, size=(41, 30)))
    third = prepare.prepare(str(tmp_path / "photos"), tmp_path / "c")
    assert third.fingerprint != first.fingerprint
    (tmp_path / "photos" / name).write_bytes(content)
    fourth = prepare.prepare(str(tmp_path / "photos"), tmp_path / "d")
    assert fourth.fingerprint == first.fingerprint


def damage(folder):
    """Five files that no run may read silently: names below the folder -> a word of the reason."""
    whole = makers.picture(5, size=(200, 150), quality=95)
    made = {
        "train/ant/truncated.jpg": (whole[: len(whole) // 2], "damaged"),
        "train/ant/zeroed.jpg": (makers.zeroed(whole, length=500), "damaged"),
        "train/ant/magic.jpg": (b"GARBAGE" + whole, "not a JPEG"),
        "train/ant/text\n.png": (b"<html>not found</html>", "web page"),
        "train/ant/crc.png": (makers.zeroed(makers.picture(6, size=(90, 90), kind="PNG"), length=8), "checksum"),
    }
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    return {name: word for name, (_, word) in made.items()}


def test_damaged_files_are_refused_by_name_and_counted(tmp_path):
    makers.class_folders(tmp_path / "photos")
    reasons = damage(tmp_path / "photos")
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", max_corrupt_fraction=0.3)
    assert len(prepared.refused) == 5 and prepared.splits["train"] == 12
    for name, word in reasons.items():
        shown = name.replace("\n", "\\n")
        (line,) = [line for line in prepared.refused if line.startswith(f"train/{shown}: ")]
        assert word in line
    with pytest.raises(base.InputError, match=r"at most 3 of 29 images may be damaged .* got 4") as caught:
        prepare.prepare(str(tmp_path / "photos"), tmp_path / "strict", max_corrupt_fraction=0.1)
    assert "\n" not in str(caught.value)
    assert sum(name.replace("\n", "\\n") in str(caught.value) for name in reasons) == 3
    lenient = prepare.prepare(str(tmp_path / "photos"), tmp_path / "lenient", max_corrupt_fraction=0.3, check="lenient")
    assert lenient.splits["train"] == 13  # Pillow makes a picture of the zeroed JPEG


def test_a_repaired_file_costs_one_shard(tmp_path, few_to_a_shard, monkeypatch):
    files = makers.class_folders(tmp_path / "photos")
    name = next(iter(files))
    (tmp_path / "photos" / name).write_bytes(b"gone")
    with pytest.raises(base.InputError, match="at most 0 of 24"):
        prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", max_corrupt_fraction=0.0, num_threads=1)
    (tmp_path / "photos" / name).write_bytes(files[name])
    made = []
    write = shard.records.write_records
    monkeypatch.setattr(shard.records, "write_records", lambda path, rows: (made.append(path), write(path, rows)))
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", max_corrupt_fraction=0.0)
    shards = [path for path in os.listdir(prepared.folder) if "-of-" in path]
    assert sum(prepared.splits.values()) == 24 and 0 < len(made) < len(shards)
    clean = prepare.prepare(str(tmp_path / "photos"), tmp_path / "clean")
    assert prepared.fingerprint == clean.fingerprint
    assert sorted(os.listdir(prepared.folder)) == sorted(os.listdir(clean.folder))


def test_a_killed_run_goes_on_and_gives_the_same(tmp_path, few_to_a_shard):
    makers.class_folders(tmp_path / "photos", num_each=40)
    code = f"""
import os, signal
from simclr_jax.data import prepare
from simclr_jax.data.prepare import plan
plan._SHARD_BYTES, plan._MIN_EXAMPLES = 2000, 1
def kill(done, total):
    if done == 70:
        os.kill(os.getpid(), signal.SIGKILL)
prepare.prepare({str(tmp_path / "photos")!r}, {str(tmp_path / "out")!r}, progress=kill, num_threads=1)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/photos/1.0.0").exists()
    halfway = {path.name: path.stat().st_ino for path in (tmp_path / "out/photos/.1.0.0.partial").glob("*-of-?????")}
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out")
    kept = [name for name, inode in halfway.items() if (pathlib.Path(prepared.folder) / name).stat().st_ino == inode]
    assert len(kept) == len(halfway) > 3
    assert prepared.fingerprint == prepare.prepare(str(tmp_path / "photos"), tmp_path / "clean").fingerprint
    assert os.listdir(tmp_path / "out/photos") == ["1.0.0"]


def test_files_that_vanish_or_shrink_in_mid_run_are_named(tmp_path):
    files = makers.class_folders(tmp_path / "photos", num_each=20)
    first, second = [name for name in files if name.startswith("train")][:2]

    def meddle(done, _):
        if done == 1:  # in the test split, which comes first
            (tmp_path / "photos" / first).unlink(missing_ok=True)
            (tmp_path / "photos" / second).write_bytes(b"\xff\xd8")

    prepared = prepare.prepare(
        str(tmp_path / "photos"), tmp_path / "out", progress=meddle, num_threads=1, max_corrupt_fraction=0.1
    )
    refused = dict(line.split(": ", 1) for line in prepared.refused)
    assert refused == {
        f"train/{first}": "No such file or directory",
        f"train/{second}": "the file has become shorter",
    }
    assert prepared.splits == {"test": 40, "train": 38}


def test_a_prepared_set_is_verified_and_damage_found(tmp_path):
    makers.class_folders(tmp_path / "photos")
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out")
    assert prepare.prepare(str(tmp_path / "photos"), tmp_path / "out") == prepared == prepare.verify(prepared.folder)
    victim = next(pathlib.Path(prepared.folder).glob("*train*-of-*"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 255
    victim.write_bytes(content)
    with pytest.raises(base.InputError, match=f"{victim.name} is damaged or missing"):
        prepare.verify(prepared.folder)
    victim.unlink()
    with pytest.raises(base.InputError, match=f"{victim.name} is damaged or missing"):
        prepare.verify(prepared.folder)


def test_other_files_under_the_same_name_are_refused(tmp_path):
    makers.class_folders(tmp_path / "photos")
    prepare.prepare(str(tmp_path / "photos"), tmp_path / "out")
    (tmp_path / "photos/train/ant/new.jpg").write_bytes(makers.picture(3))
    with pytest.raises(base.InputError, match="is prepared already, from other files"):
        prepare.prepare(str(tmp_path / "photos"), tmp_path / "out")


def test_large_images_are_shrunk_once(tmp_path):
    folder = tmp_path / "photos/train"
    folder.mkdir(parents=True)
    small, large = makers.picture(1, size=(100, 64)), makers.picture(2, size=(300, 150), kind="PNG")
    (folder / "small.jpg").write_bytes(small)
    (folder / "large.png").write_bytes(large)
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", short_side=64)
    assert prepared.name == "photos/short64" and sum(prepared.splits.values()) == 2
    found = {}
    for split in prepared.splits:
        found |= read_with_tfds(prepared, tmp_path / "out", split)
    assert found["train/small.jpg"][0] == small
    shrunk = makers.Image.open(makers.io.BytesIO(found["train/large.png"][0]))
    assert shrunk.size == (128, 64) and shrunk.format == "JPEG"
    original = makers.Image.open(makers.io.BytesIO(large)).resize((128, 64), makers.Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(shrunk, float) - np.asarray(original, float)).mean() < 4


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cifar11", {}, "must be one of cifar10, cifar100, stl10, imagenette, imagenet2012 or an existing folder"),
        ("photos", {"set_name": "My set"}, "must be small letters"),
        ("photos", {"set_name": "cifar10"}, "TFDS has a data set of its own called cifar10"),
        ("photos", {"variant": "a"}, "a folder has no variants"),
        ("photos", {"check": "none"}, "check must be one of strict, lenient"),
        ("photos", {"short_side": 4}, "short_side must be"),
        ("photos", {"max_corrupt_fraction": 2}, "max_corrupt_fraction must be a share"),
        ("cifar10", {}, "must hold cifar-10-binary.tar.gz"),
        ("stl10", {"set_name": "mine"}, "a name of your own is for folders"),
        ("imagenette", {"variant": "huge"}, "the variant of imagenette must be one of full-size-v2"),
        ("imagenet2012", {}, "must hold ILSVRC2012_img_train.tar"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, name, changes, message):
    monkeypatch.chdir(tmp_path)
    makers.class_folders(tmp_path / "photos", num_each=1)
    with pytest.raises(base.InputError, match=message) as caught:
        prepare.prepare(name, "out", **changes)
    assert "\n" not in str(caught.value)


def test_two_runs_at_once_are_refused(tmp_path):
    makers.class_folders(tmp_path / "photos")
    said = []

    def second(done, _):
        if done == 3:
            try:
                prepare.prepare(str(tmp_path / "photos"), tmp_path / "out")
            except base.InputError as error:
                said.append(str(error))

    prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", progress=second, num_threads=1)
    assert len(said) == 1 and "another one is at work" in said[0]


def test_a_split_without_a_readable_image_is_an_error(tmp_path):
    for split, content in (("train", makers.picture(1)), ("test", b"nothing")):
        (tmp_path / "photos" / split).mkdir(parents=True)
        (tmp_path / "photos" / split / "a.jpg").write_bytes(content)
    with pytest.raises(base.InputError, match="split test of photos must hold at least one readable image"):
        prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", max_corrupt_fraction=1)


def test_a_shard_of_refused_images_alone_is_no_hindrance(tmp_path, few_to_a_shard):
    files = makers.class_folders(tmp_path / "photos")
    items = [plan_lib.Item(name, "", 0, len(content), ()) for name, content in files.items() if "train" in name]
    unlucky = plan_lib.spread(items)[0]
    for item in unlucky:
        (tmp_path / "photos" / item.name).write_bytes(b"x" * item.num_bytes)
    prepared = prepare.prepare(str(tmp_path / "photos"), tmp_path / "out", max_corrupt_fraction=1)
    assert len(unlucky) > 0 and prepared.splits["train"] == 12 - len(unlucky)
    assert len(read_with_tfds(prepared, tmp_path / "out", "train")) == 12 - len(unlucky)


def test_it_runs_in_parallel(tmp_path, few_to_a_shard, monkeypatch):
    makers.class_folders(tmp_path / "photos")
    read = plan_lib.read_item
    monkeypatch.setattr(plan_lib, "read_item", lambda item: (time.sleep(0.05), read(item))[1])

    def seconds(num_threads):
        start = time.monotonic()
        prepare.prepare(str(tmp_path / "photos"), tmp_path / f"out{num_threads}", num_threads=num_threads)
        return time.monotonic() - start

    assert seconds(8) < 0.7 * 24 * 0.05 <= seconds(1)
