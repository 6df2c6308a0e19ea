"""`folder:PATH`: pictures in class folders, or a flat folder of unlabelled ones.

Layout. If PATH has a folder `train` and one of `test`, `val`, `validation` (or `train` alone), these are the splits.
Otherwise the test split is a fixed tenth of the files, chosen by a hash of their relative path. Below that, the first
folder on the way to a file is its class; files directly at the top are unlabelled. Hidden files, files which are
not images and links which lead back into the folder are ignored.
"""

import hashlib
import json
import os
import pathlib
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from simclr_jax import base
from simclr_jax.data import decode, extras, imageset

SPLITS = ("train", "test", "all")
HELD_OUT_SHARE = 0.1
_TEST_FOLDERS = ("test", "val", "validation")
_EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib"})


class ImageFile(NamedTuple):
    """A file which looks like an image: its path below the data folder (always valid text), where it is, its split
    and its class folder ("" = none)."""

    name: str
    path: str
    split: str
    class_name: str
    num_bytes: int
    mtime_ns: int


class Listing(NamedTuple):
    """Image files sorted by name, and how many other files of each extension were ignored."""

    files: list[ImageFile]
    ignored: Counter[str]


def open_folder(
    path: str, split: str, *, data_dir: str | os.PathLike[str] | None, canvas_size: int | None, progress: bool
) -> imageset.Encoded:
    """The files of one split of `folder:PATH`, not yet decoded.

    Args:
        path: the folder; a relative one is taken below `data_dir` if that is given.
        split: "train", "test", or "all" for every image of both.
        data_dir: see `path`.
        canvas_size: long side of the canvas; None for that of the largest image, at most 256.
        progress: whether to say on stderr how many files were ignored.

    Raises:
        base.InputError: the folder is missing, cannot be read, or has no images in this split.
    """
    root = pathlib.Path(data_dir or "", os.path.expanduser(path))
    if not path or not root.is_dir():
        raise base.InputError(
            f"folder:PATH needs the path of an existing folder; got {decode.printable(str(root)) if path else 'none'}. "
            "Give an absolute path, or one relative to the current folder."
        )
    listing = scan(root)
    files = [file for file in listing.files if split in ("all", file.split)]
    title = f"folder:{decode.printable(path)}, split {split!r}"
    _check_not_empty(files, listing, title)
    if progress and listing.ignored:
        print(f"{title}: ignored {_count_ignored(listing)}", file=sys.stderr)
    # From all splits, so that train and test number the classes alike.
    class_names = tuple(sorted({file.class_name for file in listing.files} - {""}))
    return _make_encoded(files, title=title, class_names=class_names, canvas_size=canvas_size)


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """{"train": folder, "test": folder} by the layout rule; "test" or both may be absent.

    A folder called `train` among others such as `bus` and `car` is a class, not a split.
    """
    entries = [entry for entry in _read_folder(str(root)) if not _is_hidden(entry)]
    folders = {entry.name for entry in entries if _is_folder(entry)}
    tests = [name for name in _TEST_FOLDERS if name in folders]
    if "train" not in folders or (not tests and folders != {"train"}):
        return {}
    return {"train": root / "train"} | ({"test": root / tests[0]} if tests else {})


def scan(root: pathlib.Path) -> Listing:
    """All image files below `root`, each with its split; names are relative to `root`, classes to the split folder."""
    files: list[ImageFile] = []
    ignored: Counter[str] = Counter()
    splits = split_folders(root)
    for split, top in (splits or {"": root}).items():
        pending, visited = [str(top)], {os.path.realpath(top)}
        while pending:
            for entry in _read_folder(pending.pop()):
                if _is_hidden(entry):
                    continue
                if _is_folder(entry):
                    if _may_enter(entry, top, visited):
                        pending.append(entry.path)
                elif _looks_like_image(entry):
                    files.append(_describe(entry, root, top=top, split=split))
                else:
                    ignored[os.path.splitext(entry.name)[1].lower()] += 1
    if "test" not in splits:
        files = [file._replace(split=_held_out_split(file.name)) for file in files]
    return Listing(sorted(files), ignored)


def _read_folder(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise base.InputError(
            f"every folder of the data must be readable; got {error.strerror} for {decode.printable(path)}. "
            "Change its permissions or move it away."
        ) from error


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name == "__MACOSX"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link which leads to itself
        return False


def _may_enter(entry: os.DirEntry[str], top: pathlib.Path, visited: set[str]) -> bool:
    """Whether a folder is to be scanned: a link into the data itself would loop or count images twice."""
    if not entry.is_symlink():
        return True
    target = os.path.realpath(entry.path)
    inside = os.path.commonpath([target, os.path.realpath(top)]) in (target, os.path.realpath(top))
    if inside or target in visited:
        return False
    visited.add(target)
    return True


def _looks_like_image(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_file():
            return False
        if os.path.splitext(entry.name)[1].lower() in _EXTENSIONS:
            return True
        with open(entry.path, "rb") as stream:
            return decode.image_format(stream.read(16)) is not None
    except OSError:
        return False


def _describe(entry: os.DirEntry[str], root: pathlib.Path, *, top: pathlib.Path, split: str) -> ImageFile:
    parts = pathlib.PurePath(os.path.relpath(entry.path, top)).parts
    status = entry.stat()
    return ImageFile(
        name=_as_text(pathlib.PurePath(os.path.relpath(entry.path, root)).as_posix()),
        path=entry.path,
        split=split,
        class_name=_as_text(parts[0]) if len(parts) > 1 else "",
        num_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _as_text(name: str) -> str:
    """The name as text which UTF-8 can hold: bytes of another encoding are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _held_out_split(name: str) -> str:
    # Normalised, because macOS stores accents decomposed: the same folder is split alike everywhere.
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64 else "train"


def _check_not_empty(files: list[ImageFile], listing: Listing, title: str) -> None:
    if files:
        return
    if listing.files:
        raise base.InputError(
            f"{title} must hold at least one image; got none of the {len(listing.files)} in the folder, because a "
            "tenth, chosen by name, is held out as test. Add images, or folders PATH/train and PATH/test."
        )
    raise base.InputError(
        f"{title} must hold at least one JPEG, PNG, WebP or BMP image; got {_count_ignored(listing) or 'no files'}. "
        "Check the path."
    )


def _count_ignored(listing: Listing) -> str:
    if not listing.ignored:
        return ""
    kinds = ", ".join(
        f"{count} {decode.printable(ending) or 'no ending'}" for ending, count in listing.ignored.most_common(3)
    )
    return f"{listing.ignored.total()} files which are not images ({kinds})"


def _make_encoded(
    files: list[ImageFile], *, title: str, class_names: tuple[str, ...], canvas_size: int | None
) -> imageset.Encoded:
    label_of = {name: label for label, name in enumerate(class_names)} | {"": -1}
    stamp = [
        decode.DECODER_VERSION,
        extras.require("PIL").__version__,
        canvas_size,
        class_names,
        [(file.name, file.class_name, file.num_bytes, file.mtime_ns) for file in files],
    ]

    def read(index: int) -> tuple[bytes, int]:
        return _read_file(files[index]), label_of[files[index].class_name]

    return imageset.Encoded(
        title=title,
        key=hashlib.sha256(json.dumps(stamp).encode()).hexdigest(),
        class_names=class_names,
        ids=[file.name for file in files],
        canvas_size=lambda: canvas_size or _largest_side(files, lambda index: read(index)[0]),
        read=read,
    )


def _read_file(file: ImageFile) -> bytes:
    if file.num_bytes > decode.MAX_FILE_BYTES:
        raise decode.DamagedImage(f"larger than {decode.MAX_FILE_BYTES} bytes")
    with open(file.path, "rb") as stream:
        return stream.read(decode.MAX_FILE_BYTES)


def _largest_side(files: list[ImageFile], read: Callable[[int], bytes]) -> int:
    """Longest side among the images, at most 256; stops reading headers at the first image that large."""
    largest = 8
    for index in range(len(files)):
        try:
            largest = max(largest, *decode.image_size(read(index)))
        except (decode.DamagedImage, OSError):
            continue  # named and counted when it is decoded
        if largest >= decode.DEFAULT_CANVAS_SIZE:
            return decode.DEFAULT_CANVAS_SIZE
    return largest
