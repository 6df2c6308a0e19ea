"""Pictures one by one and undecoded, any number of them: for those who pass over them once and keep no pixels.

A folder gives all pictures in it, whatever their split; labels are its class folders where its layout is understood.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax import base, units
from simclr_jax.data import decode, imageset, layout, scan, sources


class Pictures(NamedTuple):
    """Pictures before decoding.

    title: how messages call them. key: sha256 (hex), equal for the same files with the same sizes and times.
    ids: of every picture: its path below the folder, or its number. paths: where it lies, "" for none.
    class_names: `class_names[label]`.
    read: index -> (file bytes or pixels uint8 [h, w, 3], label, -1 for none); called from several threads.
    rules: how files are decoded. understood: one line to show.
    texts: what is written about every picture, one text or several each; () for pictures without texts.
    """

    title: str
    key: str
    ids: Sequence[str]
    paths: Sequence[str]
    class_names: tuple[str, ...]
    read: Callable[[int], tuple[bytes | np.ndarray, int]]
    rules: imageset.Rules = imageset.DEFAULT_RULES
    understood: str = ""
    texts: Sequence[tuple[str, ...]] = ()


class Decoded(NamedTuple):
    """A picture.

    pixels: uint8 [h, w, 3]. size: (height, width) of the file, which may have come back reduced. label: -1 for none.
    digest: 64 bits, equal for files of equal bytes.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    label: int
    digest: int


def open_pictures(
    name: str,
    *,
    split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    rules: imageset.Rules = imageset.DEFAULT_RULES,
) -> Pictures:
    """The pictures of a folder, a single file, or a data set.

    Args:
        name: a path, "folder:PATH", or a data set such as "tfds:cifar10" or "digits".
        split: of a data set, None for "test"; a folder is taken whole.
        data_dir: where prepared TFDS data lie.
        rules: how files are decoded.

    Raises:
        base.InputError: nothing there, or no picture in it.

    Example:
        >>> len(data.open_pictures("digits").ids)
        449
    """
    kind, _, rest = name.partition(":")
    if kind not in sources.DATASETS or kind == "folder":
        path = pathlib.Path(os.path.expanduser(rest if kind == "folder" else name))
        if split not in (None, "all"):
            raise base.InputError(f"split is for data sets, a folder is taken whole; got {split!r}. Leave it out.")
        return _of_file(path, rules) if path.is_file() else _of_folder(path, rules)
    split = split or "test"
    encoded = sources.open_split(name, split, data_dir=data_dir, rules=rules)
    if encoded is None:
        return _of_arrays(name, split)
    none, (title, key, class_names, ids) = [""] * len(encoded.ids), encoded[:4]
    return Pictures(title, key, ids, none, class_names, encoded.read, rules, encoded.understood, encoded.texts)


def decode_picture(pictures: Pictures, index: int, *, long_side: int | None = None) -> Decoded:
    """One picture.

    Args:
        pictures: where it is.
        index: which one.
        long_side: it will be shrunk to this, so that a JPEG may come back reduced (`decode.decode_image`); None for all
            its pixels.

    Raises:
        decode.DamagedImage, OSError: it cannot be read.

    Example:
        >>> data.decode_picture(data.open_pictures("digits"), 0).pixels.shape
        (32, 32, 3)
    """
    content, label = pictures.read(index)
    if isinstance(content, np.ndarray):
        return Decoded(content, content.shape[:2], label, _digest(np.ascontiguousarray(content).data))
    side = decode.WHOLE if long_side is None else long_side
    picture = decode.decode_image(content, long_side=side, rules=pictures.rules)
    height, width = decode.image_size(content, pictures.rules)
    # Rotated as EXIF says.
    turned = (height > width) != (picture.pixels.shape[0] > picture.pixels.shape[1]) and height != width
    return Decoded(picture.pixels, (width, height) if turned else (height, width), label, _digest(content))


def _digest(content: bytes | memoryview) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _of_folder(root: pathlib.Path, rules: imageset.Rules) -> Pictures:
    title = imageset.printable(str(root))
    if not root.is_dir():
        raise base.InputError(f"images must be an existing folder, a file, or a data set; got {title}. Check the path.")
    listing = scan.scan(root)
    files = [file for file in listing.files if not file.is_linked]
    if not files:
        raise base.InputError(
            f"images must hold at least one picture; {title} has none of {sum(listing.ignored.values())} files. "
            "docs/data.md says which kinds are read."
        )
    ids = ["/".join(file.parts) for file in files]
    try:
        classes = {file.name: file.class_name for file in layout.understand(listing, title).files}
        odd = ""
    except base.InputError:
        classes, odd = {}, "; the layout of its folders is not understood, so pictures have no labels"
    class_names = tuple(sorted({classes.get(name, "") for name in ids} - {""}))
    labels = {name: label for label, name in enumerate(class_names)} | {"": -1}

    def read(index: int) -> tuple[bytes, int]:
        return _read_file(files[index].path, rules), labels[classes.get(ids[index], "")]

    stamp = [class_names, [(name, file.num_bytes, file.mtime_ns) for name, file in zip(ids, files, strict=True)]]
    counted = units.counted(len(class_names), "class", "classes") if class_names else "no classes"
    return Pictures(
        title=title,
        key=hashlib.sha256(json.dumps(stamp).encode()).hexdigest(),
        ids=ids,
        paths=[os.path.abspath(file.path) for file in files],
        class_names=class_names,
        read=read,
        rules=rules,
        understood=f"{title}: {units.counted(len(files), 'picture')}, {counted}{odd}",
    )


def _of_file(path: pathlib.Path, rules: imageset.Rules) -> Pictures:
    status = path.stat()
    stamp = json.dumps([scan.as_text(path.name), status.st_size, status.st_mtime_ns])
    key = hashlib.sha256(stamp.encode()).hexdigest()
    where = os.path.abspath(path)
    return Pictures(str(path), key, [scan.as_text(path.name)], [where], (), lambda _: (_read_file(where, rules), -1))


def _of_arrays(name: str, split: str) -> Pictures:
    image_set = sources.load_split(name, split)

    def read(index: int) -> tuple[np.ndarray, int]:
        height, width = image_set.sizes[index]
        return image_set.images[index, :height, :width], int(image_set.labels[index])

    none = [""] * len(image_set.ids)
    title = f"{name}, split {split!r}"
    return Pictures(title, image_set.fingerprint, image_set.ids, none, image_set.class_names, read)


def _read_file(path: str, rules: imageset.Rules) -> bytes:
    limit = decode.max_file_bytes(rules)
    with open(path, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise decode.DamagedImage(f"larger than {limit / 1e6:.0f} MB (shrink it, or raise max_megapixels)")
    return content
