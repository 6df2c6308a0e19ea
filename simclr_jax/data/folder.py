"""`folder:PATH`: pictures in class folders, or a flat folder of unlabelled ones.

`scan` lists what is there, `layout` decides on splits and classes, and one line says what was understood.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable

import numpy as np

from simclr_jax import base, units
from simclr_jax.data import decode, extras, imageset, kinds, layout, scan, strict

SPLITS = ("train", "test", "all")


def open_folder(
    path: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    canvas_size: int | None,
    rules: imageset.Rules = imageset.DEFAULT_RULES,
) -> imageset.Encoded:
    """The files of one split of `folder:PATH`, not yet decoded.

    Args:
        path: the folder; a relative one is taken below `data_dir` if that is given.
        split: "train", "test", or "all" for every image of both.
        data_dir: see `path`.
        canvas_size: long side of the canvas; None for that of the largest image, at most 256.
        rules: how the files are decoded.

    Raises:
        base.InputError: the folder is missing, cannot be read, or its layout is not understood; `EmptySplit`: it has
            images, but none in this split.
    """
    name = f"folder:{imageset.printable(path)}"
    title = f"{name}, split {split!r}"
    found, understood = understand(path, data_dir=data_dir, title=title)
    files = [file for file in found.files if split in ("all", file.split)]
    if not files:
        raise imageset.EmptySplit(
            f"{title} must hold at least one image; got none of the {len(found.files)} in the folder. Add images, or "
            "folders PATH/train and PATH/test."
        )
    class_names = class_names_of(found)
    encoded = make_encoded(files, title=title, class_names=class_names, canvas_size=canvas_size, rules=rules)
    if split == "test":
        return encoded._replace(
            understood=f"{title}: {_count(files)} from {found.test_from}",
            warnings=tuple(layout.check_test(found.files)),
        )
    return encoded._replace(understood=f"{name}: {understood}", warnings=found.warnings)


def understand(
    path: str, *, data_dir: str | os.PathLike[str] | None = None, title: str = ""
) -> tuple[layout.Layout, str]:
    """What lies in a folder, and the same in one line.

    Args:
        path: see `open_folder`.
        data_dir: see `open_folder`.
        title: how messages call it; "" for "folder:PATH".

    Raises:
        base.InputError: see `open_folder`.
    """
    root = pathlib.Path(os.path.expanduser(data_dir or ""), os.path.expanduser(path))
    if not path or not os.path.isdir(root):
        raise base.InputError(
            f"folder:PATH needs the path of an existing folder; got "
            f"{imageset.printable(str(root)) if path else 'none'}. Give an absolute path, or one relative to the "
            "current folder."
        )
    listing = scan.scan(root)
    name = f"folder:{imageset.printable(path)}"
    if not listing.files:
        raise _nothing_to_read(listing, title or name)
    found = layout.understand(listing, name)
    return found, _tell(found, listing, class_names_of(found))


def class_names_of(found: layout.Layout) -> tuple[str, ...]:
    """The classes of all splits, so that train and test number them alike."""
    return tuple(sorted({file.class_name for file in found.files} - {""}))


def _tell(found: layout.Layout, listing: scan.Listing, class_names: tuple[str, ...]) -> str:
    """What was understood of the whole folder, in one line."""
    by_split = {split: [file for file in found.files if file.split == split] for split in ("train", "test")}
    train_from = f" from {found.train_from}" if found.train_from else ""
    names = ", ".join(imageset.printable(name) for name in class_names[:5]) + (", ..." if len(class_names) > 5 else "")
    unlabelled = sum(not file.class_name for file in found.files)
    parts = [
        units.counted(len(by_split["train"]), "training image") + train_from,
        f"{units.counted(len(by_split['test']), 'test image')} from {found.test_from}",
        f"{units.counted(len(class_names), 'class', 'classes')} ({names})" if class_names else "no classes",
    ]
    if class_names and unlabelled:
        parts.append(units.counted(unlabelled, "image") + " without a label")
    if found.left_out:
        parts.append("left out: " + _counts(found.left_out))
    if listing.ignored:
        parts.append(f"ignored: {_count_ignored(listing.ignored)}")
    if listing.skipped:
        parts.append(f"passed over: {_counts(listing.skipped)}")
    return "; ".join(parts)


def _count(files: list[layout.ImageFile]) -> str:
    classes = {file.class_name for file in files} - {""}
    of_classes = f" of {units.counted(len(classes), 'class', 'classes')}" if classes else ""
    return units.counted(len(files), "image") + of_classes


def _counts(numbers: Counter[str] | dict[str, int]) -> str:
    most = Counter(numbers).most_common()
    shown = ", ".join(f"{imageset.printable(name)} ({count})" for name, count in most[:5])
    return f"{shown} and {len(most) - 5} more" if len(most) > 5 else shown


_SORTS = {
    "unread picture": ("picture of a kind that is not read", "pictures of a kind that is not read"),
    "archive": ("archive", "archives"),
    "broken link": ("link that leads nowhere", "links that lead nowhere"),
    "other": ("file which is not an image", "files which are not images"),
}


def _count_ignored(ignored: Counter[tuple[str, str]]) -> str:
    parts = []
    for sort, words in _SORTS.items():
        endings = Counter({ending: count for (of_sort, ending), count in ignored.items() if of_sort == sort})
        kinds_ = ", ".join(f"{count} {ending or 'no ending'}" for ending, count in endings.most_common(3))
        if endings:
            parts.append(f"{units.counted(endings.total(), *words)} ({kinds_})")
    return ", ".join(parts)


def _nothing_to_read(listing: scan.Listing, title: str) -> base.InputError:
    got = _count_ignored(listing.ignored) or "no files"
    unread = Counter({ending: n for (sort, ending), n in listing.ignored.items() if sort == "unread picture"})
    sorts = {sort for sort, _ in listing.ignored}
    remedy = "Check the path."
    if unread:
        ending = unread.most_common(1)[0][0]
        remedy = f"Convert them, for example: {kinds.CONVERT.format(ending=ending)}"
    elif "broken link" in sorts:
        remedy = "Bring the files that the links mean (git annex get, dvc pull), or copy them with their content."
    elif "archive" in sorts:
        remedy = "Unpack the archives."
    return base.InputError(f"{title} must hold at least one {kinds.READ_NAMES} image; got {got}. {remedy}")


def make_encoded(
    files: list[layout.ImageFile],
    *,
    title: str,
    class_names: tuple[str, ...],
    canvas_size: int | None,
    rules: imageset.Rules = imageset.DEFAULT_RULES,
) -> imageset.Encoded:
    """The split of these files; `title` is how messages call it."""
    label_of = {name: label for label, name in enumerate(class_names)} | {"": -1}
    stamp = [
        decode.DECODER_VERSION,
        strict.is_available(),
        extras.require("PIL").__version__,
        canvas_size,
        rules,
        class_names,
        [(file.name, file.class_name, file.num_bytes, file.mtime_ns) for file in files],
    ]

    def locate(index: int) -> tuple[str, int, int, int]:
        file = files[index]
        return file.path, file.num_bytes, label_of[file.class_name], file.offset

    fetch = functools.partial(_fetch, rules=rules)

    def read(index: int) -> tuple[bytes, int]:
        return fetch(locate(index))

    @functools.cache
    def side() -> int:
        return canvas_size or _largest_side(len(files), lambda index: read(index)[0], rules)

    content = [class_names, [(file.name, file.class_name, file.num_bytes) for file in files]]
    return imageset.Encoded(
        title=title,
        key=hashlib.sha256(json.dumps(stamp).encode()).hexdigest(),
        class_names=class_names,
        ids=[file.name for file in files],
        canvas_size=side,
        read=read,
        rules=rules,
        locate=locate,
        fetch=fetch,
        identity=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        labels=lambda: np.asarray([label_of[file.class_name] for file in files], np.int32),
    )


def _fetch(place: tuple[str, int, int, int], rules: imageset.Rules) -> tuple[bytes, int]:
    """(bytes, label) of a file at (path, length, label, offset), see `layout.ImageFile`."""
    path, num_bytes, label, offset = place
    limit = decode.max_file_bytes(rules)
    if num_bytes > limit:
        raise decode.DamagedImage(f"larger than {limit / 1e6:.0f} MB (shrink it, or raise max_megapixels)")
    with open(path, "rb") as stream:
        if not offset:
            return stream.read(limit), label
        stream.seek(offset)
        content = stream.read(num_bytes)
    if len(content) < num_bytes:
        raise decode.DamagedImage(f"the file around it ends after {len(content)} of its {num_bytes} bytes")
    return content, label


def _largest_side(count: int, read: Callable[[int], bytes], rules: imageset.Rules) -> int:
    """Longest side among the images, at most 256; stops reading headers at the first image that large."""
    largest = 8
    for index in range(count):
        try:
            largest = max(largest, *decode.image_size(read(index), rules))
        except (decode.DamagedImage, OSError):
            continue  # named and counted when it is decoded
        if largest >= decode.DEFAULT_CANVAS_SIZE:
            return decode.DEFAULT_CANVAS_SIZE
    return largest
