"""ImageNet and Imagenette in miniature: nested archives, a devkit, and the files that are not what they are called."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base
from simclr_jax.data import decode, prepare
from simclr_jax.data.prepare import imagenet as imagenet_lib
from simclr_jax.data.prepare import plan as plan_lib
from simclr_jax.data.prepare import shard
from tests.data.prepare import makers

tfds = pytest.importorskip("tensorflow_datasets")
WNIDS = ("n01440764", "n01443537", "n02119789")
# The devkit counts its classes in another order than that of their ids.
NUMBERS = {"n02119789": 1, "n01440764": 2, "n01443537": 3}


def devkit(folder, truth):
    scipy_io = pytest.importorskip("scipy.io")
    dtype = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, f"words of {wnid}", 0) for wnid, number in NUMBERS.items()]
    rows.append((4, "n00001740", "an inner node", 3))
    stream = io.BytesIO()
    scipy_io.savemat(stream, {"synsets": np.array(rows, dtype).reshape(-1, 1)})
    files = {
        "data/meta.mat": stream.getvalue(),
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
    }
    makers.tar(
        folder / "ILSVRC2012_devkit_t12.tar.gz",
        {f"ILSVRC2012_devkit_t12/{n}": c for n, c in files.items()},
        mode="w:gz",
    )


@pytest.fixture
def imagenet(tmp_path):
    """The folder of archives; and name -> (bytes, label)."""
    files = {"train": {}, "validation": {}, "test": {}}
    inner = {}
    for label, wnid in enumerate(WNIDS):
        of_class = {f"{wnid}_{n}.JPEG": makers.picture(10 * label + n) for n in range(4)}
        inner[f"{wnid}.tar"] = of_class
        files["train"] |= {name: (content, label) for name, content in of_class.items()}
    inner["n01440764.tar"]["n01440764_0.JPEG"] = makers.picture(50, mode="CMYK")
    inner["n01443537.tar"]["n01443537_1.JPEG"] = makers.picture(51, kind="PNG")
    inner["n02119789.tar"]["n02119789_2.JPEG"] = makers.picture(52, mode="L")
    files["train"] |= {name: (inner[f"{name[:9]}.tar"][name], label) for name, (_, label) in files["train"].items()}
    makers.tar(
        tmp_path / "ILSVRC2012_img_train.tar", {name: makers.tar_bytes(members) for name, members in inner.items()}
    )
    truth = (1, 3, 2, 1)
    by_number = {number: WNIDS.index(wnid) for wnid, number in NUMBERS.items()}
    for n, number in enumerate(truth, start=1):
        files["validation"][f"ILSVRC2012_val_{n:08d}.JPEG"] = (makers.picture(100 + n), by_number[number])
    makers.tar(
        tmp_path / "ILSVRC2012_img_val.tar", {name: content for name, (content, _) in files["validation"].items()}
    )
    devkit(tmp_path, truth)
    files["test"] = {f"ILSVRC2012_test_{n:08d}.JPEG": (makers.picture(200 + n), -1) for n in range(1, 3)}
    makers.tar(
        tmp_path / "ILSVRC2012_img_test.tar", {f"test/{n}": content for n, (content, _) in files["test"].items()}
    )
    return tmp_path, files


def read(split, data_dir):
    source = tfds.data_source(
        "imagenet2012", split=split, data_dir=data_dir, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return {row["file_name"].decode(): (row["image"], row["label"]) for row in source}


def test_all_splits_come_from_the_official_archives(imagenet):
    folder, files = imagenet
    prepared = prepare.prepare("imagenet2012", folder / "out", source=folder)
    assert prepared.folder.endswith("out/imagenet2012/5.1.0") and prepared.splits == {
        "train": 12,
        "validation": 4,
        "test": 2,
    }
    assert prepared.class_counts["train"] == dict.fromkeys(WNIDS, 4)
    for split, expected in files.items():
        found = read(split, folder / "out")
        assert {name: label for name, (_, label) in found.items()} == {n: label for n, (_, label) in expected.items()}
        changed = {line.split(": ")[0].split("/")[1] for line in prepared.changed if line.startswith(split)}
        assert changed == ({"n01440764_0.JPEG", "n01443537_1.JPEG"} if split == "train" else set())
        assert all(found[name][0] == content for name, (content, _) in expected.items() if name not in changed)
    assert any("CMYK to a JPEG of RGB" in line for line in prepared.changed)
    found = read("train", folder / "out")
    for name in ("n01440764_0.JPEG", "n01443537_1.JPEG"):
        stored = Image.open(io.BytesIO(found[name][0]))
        original = Image.open(io.BytesIO(files["train"][name][0])).convert("RGB")
        assert stored.format == "JPEG" and stored.mode == "RGB"
        assert np.abs(np.asarray(stored, float) - np.asarray(original, float)).mean() < 3


def test_the_validation_labels_come_from_the_devkit_alone(imagenet):
    folder, files = imagenet
    (folder / "ILSVRC2012_img_train.tar").unlink()
    (folder / "ILSVRC2012_img_test.tar").unlink()
    prepared = prepare.prepare("imagenet2012", folder / "out", source=folder)
    assert read("validation", folder / "out") == files["validation"] and prepared.splits == {"validation": 4}
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(base.InputError, match=r"needs ILSVRC2012_devkit_t12.tar.gz beside it"):
        prepare.prepare("imagenet2012", folder / "other", source=folder)


def test_a_devkit_or_an_archive_that_does_not_fit_is_refused(imagenet):
    folder, _ = imagenet
    devkit(folder, (1, 3))
    with pytest.raises(
        base.InputError, match=r"must hold images 1 to 2 of the devkit; got ILSVRC2012_val_00000003.JPEG"
    ):
        prepare.prepare("imagenet2012", folder / "out", source=folder)
    devkit(folder, (1, 3, 2, 9))
    with pytest.raises(base.InputError, match=r"must hold ILSVRC2012_validation_ground_truth\.txt and meta\.mat"):
        prepare.prepare("imagenet2012", folder / "out", source=folder)
    shutil.copy(folder / "ILSVRC2012_img_val.tar", folder / "ILSVRC2012_img_train.tar")
    devkit(folder, (1, 3, 2, 1))
    with pytest.raises(base.InputError, match="must hold an archive for each class"):
        prepare.prepare("imagenet2012", folder / "out", source=folder)


@pytest.mark.parametrize("packed", [True, False])
def test_imagenette_from_its_archive_or_folder(tmp_path, packed):
    files = {
        f"imagenette2-160/{split}/{wnid}/{wnid}_{n}.JPEG": makers.picture(n + 10 * label)
        for split in ("train", "val")
        for label, wnid in enumerate(WNIDS[:2])
        for n in range(3)
    }
    if packed:
        makers.tar(tmp_path / "imagenette2-160.tgz", files | {"imagenette2-160/noisy.csv": b"a,b"}, mode="w:gz")
    else:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    prepared = prepare.prepare("imagenette", tmp_path / "out", source=tmp_path)
    assert prepared.name == "imagenette/160px-v2" and prepared.splits == {"train": 6, "validation": 6}
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source("imagenette/160px-v2", split="validation", data_dir=tmp_path / "out", decoders=decoders)
    expected = sorted((content, int(WNIDS[1] in name)) for name, content in files.items() if "/val/" in name)
    assert sorted((row["image"], row["label"]) for row in source) == expected


def test_what_becomes_another_file_is_checked_as_it_was():
    plan = plan_lib.Plan("x", "1.0.0", {}, {}, "", to_image=imagenet_lib.as_rgb_jpeg)
    original = makers.picture(50, mode="CMYK", size=(200, 150))
    damaged = makers.zeroed(original)
    for settings in (shard.Settings(), shard.Settings(short_side=64)):
        assert shard.prepare_image(original, plan, settings=settings).change == "CMYK to a JPEG of RGB"
        with pytest.raises(decode.DamagedImage):
            shard.prepare_image(damaged, plan, settings=settings)
    lenient = shard.Settings(check="lenient")
    assert shard.prepare_image(damaged, plan, settings=lenient).change == "CMYK to a JPEG of RGB"
