"""CIFAR and STL-10 in miniature: the same layout of bytes as in the official archives, a few images each."""

import io

import numpy as np
import pytest
from PIL import Image

from simclr_jax import base, data
from simclr_jax.data import prepare
from tests.data.prepare import makers

tfds = pytest.importorskip("tensorflow_datasets")


def cifar(folder, *, num_labels, num_images, classes, files):
    """Writes the archive; returns split -> (images uint8 [N, 32, 32, 3], labels)."""
    rng = np.random.default_rng(7)
    members, made = {}, {"train": ([], []), "test": ([], [])}
    for name in files:
        split = made["test" if "test" in name else "train"]
        content = b""
        for _ in range(num_images):
            labels = rng.integers(0, classes, num_labels)
            image = rng.integers(0, 256, (32, 32, 3), np.uint8)
            content += (
                bytes(labels.tolist()) + image[..., 0].tobytes() + image[..., 1].tobytes() + image[..., 2].tobytes()
            )
            split[0].append(image)
            split[1].append(labels.tolist())
        members[name] = content
    return members, made


def read(name, split, folder):
    rows = list(tfds.data_source(name, split=split, data_dir=folder))
    return sorted(rows, key=lambda row: row["id"])


def test_cifar10_is_tfds_own_cifar10(tmp_path):
    files = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    members, made = cifar(tmp_path, num_labels=1, num_images=3, classes=10, files=files)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    members["batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    content = {f"cifar-10-batches-bin/{name}": member for name, member in members.items()}
    makers.tar(tmp_path / "cifar-10-binary.tar.gz", content, mode="w:gz")
    prepared = prepare.prepare("cifar10", tmp_path / "out", source=tmp_path)
    assert prepared.splits == {"train": 15, "test": 3}
    assert "the published set has 50000" in prepared.remarks[0]
    for split, (images, labels) in made.items():
        rows = read("cifar10", split, tmp_path / "out")
        np.testing.assert_array_equal([row["image"] for row in rows], images)
        assert [[row["label"]] for row in rows] == labels
        assert rows[1]["id"] == f"{split}_00001".encode()
    # The registered builder of TFDS, not a stranger of the same name.
    builder = tfds.builder("cifar10", data_dir=tmp_path / "out")
    assert builder.info.features["label"].names == names and builder.info.full_name == "cifar10/3.0.2"
    loaded = data.load_split("tfds:cifar10", "train", data_dir=tmp_path / "out", cache_dir="", progress=False)
    assert sorted(image.tobytes() for image in loaded.images) == sorted(i.tobytes() for i in made["train"][0])
    assert prepare.prepare("cifar10", tmp_path / "out", source=tmp_path) == prepared
    assert not [*(tmp_path / "out").glob(".*unpacked")]


def test_cifar100_has_both_labels_in_their_places(tmp_path):
    members, made = cifar(tmp_path, num_labels=2, num_images=8, classes=20, files=["train.bin", "test.bin"])
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    members["coarse_label_names.txt"] = "\n".join(f"coarse{n}" for n in range(20)).encode()
    members["fine_label_names.txt"] = "\n".join(f"fine{n}" for n in range(100)).encode()
    for name, content in members.items():
        (folder / name).write_bytes(content)
    prepare.prepare("cifar100", tmp_path / "out", source=tmp_path)
    for split, (images, labels) in made.items():
        rows = read("cifar100", split, tmp_path / "out")
        np.testing.assert_array_equal([row["image"] for row in rows], images)
        assert [[row["coarse_label"], row["label"]] for row in rows] == labels
    features = tfds.builder("cifar100", data_dir=tmp_path / "out").info.features
    assert features["label"].names[99] == "fine99" and features["coarse_label"].names[19] == "coarse19"


def stl10(folder, *, num_images=6):
    rng = np.random.default_rng(8)
    members, images = {"class_names.txt": "\n".join("abcdefghij").encode()}, {}
    for stem in ("train", "test", "unlabeled"):
        images[stem] = rng.integers(0, 256, (num_images, 96, 96, 3), np.uint8)
        # Planes, each column by column.
        content = b"".join(image[:, :, plane].T.tobytes() for image in images[stem] for plane in range(3))
        members[f"{stem}_X.bin"] = content
        if stem != "unlabeled":
            members[f"{stem}_y.bin"] = bytes([1 + (n * 9) // (num_images - 1) for n in range(num_images)])
    makers.tar(folder / "stl10_binary.tar.gz", {f"stl10_binary/{n}": c for n, c in members.items()}, mode="w:gz")
    return images


def test_stl10_has_its_unlabelled_split(tmp_path):
    images = stl10(tmp_path)
    prepared = prepare.prepare("stl10", tmp_path / "out", source=tmp_path)
    assert prepared.splits == {"train": 6, "test": 6, "unlabelled": 6}
    assert prepared.class_counts["unlabelled"] == {"": 6}
    rows = list(tfds.data_source("stl10", split="train", data_dir=tmp_path / "out"))
    found = {row["image"].tobytes(): row["label"] for row in rows}
    assert found == {image.tobytes(): (n * 9) // 5 for n, image in enumerate(images["train"])}
    loaded = data.load_split("tfds:stl10", "unlabelled", data_dir=tmp_path / "out", cache_dir="", progress=False)
    assert set(loaded.labels) == {-1}
    assert {image.tobytes() for image in loaded.images} == {image.tobytes() for image in images["unlabeled"]}


def test_damaged_binaries_are_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("a\nb\n")
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        (folder / name).write_bytes(bytes([1]) + bytes(3072))
    prepare.prepare("cifar10", tmp_path / "good", source=tmp_path)
    (folder / "data_batch_3.bin").write_bytes(bytes([9]) + bytes(3072))
    with pytest.raises(base.InputError, match=r"data_batch_3.bin must hold a label of 2 classes"):
        prepare.prepare("cifar10", tmp_path / "out", source=tmp_path)
    (folder / "data_batch_3.bin").write_bytes(bytes(3000))
    with pytest.raises(base.InputError, match=r"data_batch_3.bin must hold records of 3073 bytes"):
        prepare.prepare("cifar10", tmp_path / "out", source=tmp_path)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(base.InputError, match=r"must have a file data_batch_3.bin"):
        prepare.prepare("cifar10", tmp_path / "out", source=tmp_path)


def test_png_loses_nothing():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    from simclr_jax.data.prepare import binary

    stored = binary._png_of(lambda flat: flat.reshape(96, 96, 3))(image.tobytes())
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.data))), image)
