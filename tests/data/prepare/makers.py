"""Small archives in the layout of the official ones, and pictures of known pixels."""

import io
import pathlib
import tarfile
from collections.abc import Mapping

import numpy as np
from PIL import Image


def picture(seed, *, size=(40, 30), kind="JPEG", mode="RGB", **options):
    """The bytes of a picture of smooth noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 4, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def zeroed(data, *, at=0.5, length=200):
    """The same file with a piece in the middle lost."""
    start = int(at * len(data))
    return data[:start] + bytes(length) + data[start + length :]


def tar(path: pathlib.Path, files: Mapping[str, bytes], *, mode="w"):
    """A tar file of these files."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_bytes(files):
    """The same in memory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def class_folders(root, *, num_each=6, classes=("ant", "bee"), splits=("train", "test")):
    """Class folders of JPEG and PNG files; returns name below the root -> bytes."""
    files = {}
    for split in splits:
        for label, name in enumerate(classes):
            for number in range(num_each):
                kind = ("JPEG", "PNG")[number % 2]
                path = f"{split}/{name}/{number}.{kind.lower()}"
                files[path] = picture(1000 * label + number + 77 * len(split), kind=kind)
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(files[path])
    return files
