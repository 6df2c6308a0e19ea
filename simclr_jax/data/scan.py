"""Walks a folder of pictures: which files are images, and what else lies there, by kind.

What a system puts into a folder by itself (recycle bins, thumbnails of a NAS, lost+found) is passed over like hidden
files, without being opened; a folder of the user's that cannot be read is an error.
"""

import os
import pathlib
import unicodedata
from collections import Counter
from typing import NamedTuple

from simclr_jax import base
from simclr_jax.data import imageset, kinds

# Lower case. Names that begin with a dot are hidden anyway.
_SERVICE_NAMES = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@__thumb", "@appstore", "@database"),
        *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "$extend", "recycler", "recycled", "trashbox"),
        *("lost+found", "lost.dir", "system volume information", "msocache", "_gsdata_", "resource.frk", "aquota.user"),
        *("network trash folder", "temporary items", "__macosx", "__pycache__", "icon\r"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "zbthumbnail.info"),
    }
)


class Found(NamedTuple):
    """A file which looks like an image.

    parts: its path below the root, as composed (NFC) text that UTF-8 can hold.
    path: where it is.
    is_linked: whether only a link led there from another folder of the root, where it is listed as well.
    """

    parts: tuple[str, ...]
    path: str
    num_bytes: int
    mtime_ns: int
    is_linked: bool


class Listing(NamedTuple):
    """What lies below a folder.

    files: images, sorted by their composed names, whatever the system's own order is.
    ignored: (sort, ending) -> number of files: "unread picture", "archive", "other" or "broken link".
    skipped: name -> number of hidden and service folders passed over.
    folders: the path of every folder down to three levels, empty ones too.
    """

    files: list[Found]
    ignored: Counter[tuple[str, str]]
    skipped: Counter[str]
    folders: set[tuple[str, ...]]


def scan(root: pathlib.Path) -> Listing:
    """All that lies below `root`. Links are followed, except where they lead back.

    Raises:
        base.InputError: a folder cannot be read.
    """
    listing = Listing([], Counter(), Counter(), set())
    for entry in _read_folder(str(root)):
        if _is_passed_over(entry, listing):
            continue
        if not _is_folder(entry):
            _add_file(entry, root, listing, is_linked=False)
            continue
        # A link to another folder of the root: a class would count twice, but a split may be made of such links.
        target = os.path.realpath(entry.path)
        if not entry.is_symlink() or not _holds(target, os.path.realpath(root)):
            is_linked = entry.is_symlink() and _holds(os.path.realpath(root), target)
            _scan_top(entry.path, root, listing, is_linked=is_linked)
    return listing._replace(files=sorted(_mark_listed_twice(listing.files)))


def _mark_listed_twice(files: list[Found]) -> list[Found]:
    if not any(file.is_linked for file in files):
        return files
    plain = {os.path.realpath(file.path) for file in files if not file.is_linked}
    return [file._replace(is_linked=file.is_linked and os.path.realpath(file.path) in plain) for file in files]


def _scan_top(top: str, root: pathlib.Path, listing: Listing, *, is_linked: bool) -> None:
    """Adds what lies below one folder of the root."""
    pending, visited = [(top, is_linked)], {os.path.realpath(top)}
    real_root = os.path.realpath(root)
    while pending:
        folder, linked = pending.pop()
        parts = _parts(folder, root)
        if len(parts) <= 3:
            listing.folders.add(parts)
        for entry in _read_folder(folder):
            if _is_passed_over(entry, listing):
                continue
            if not _is_folder(entry):
                _add_file(entry, root, listing, is_linked=linked)
            elif _may_enter(entry, top, visited):
                leads_inside = entry.is_symlink() and _holds(real_root, os.path.realpath(entry.path))
                pending.append((entry.path, linked or leads_inside))


def _read_folder(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise base.InputError(
            f"every folder of the data must be readable; got {error.strerror} for {imageset.printable(path)}. "
            "Change its permissions or move it away."
        ) from error


def _is_passed_over(entry: os.DirEntry[str], listing: Listing) -> bool:
    """Whether the entry is hidden or the system's; folders are counted."""
    is_check_disk = entry.name.lower().startswith("found.") and entry.name[6:].isdigit() and len(entry.name) == 9
    if not (entry.name.startswith(".") or entry.name.lower() in _SERVICE_NAMES or is_check_disk):
        return False
    if _is_folder(entry):
        listing.skipped[entry.name] += 1
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link which leads to itself
        return False


def _holds(outer: str, inner: str) -> bool:
    """Whether the real path `outer` is `inner` or one of the folders above it."""
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def _may_enter(entry: os.DirEntry[str], top: str, visited: set[str]) -> bool:
    """Whether a folder is to be scanned: a link back would loop or count images twice."""
    if not entry.is_symlink():
        return True
    target, real_top = os.path.realpath(entry.path), os.path.realpath(top)
    if _holds(target, real_top) or _holds(real_top, target) or target in visited:
        return False
    visited.add(target)
    return True


def _add_file(entry: os.DirEntry[str], root: pathlib.Path, listing: Listing, *, is_linked: bool) -> None:
    ending = os.path.splitext(entry.name)[1].lower()
    try:
        is_file = entry.is_file()
        head = b""
        if is_file and ending not in kinds.READ_ENDINGS:
            with open(entry.path, "rb") as stream:
                head = stream.read(kinds.HEAD_BYTES)
        sort = kinds.sort_of(entry.name, head) if is_file else "other"
        if is_file and sort == "image":
            status = entry.stat()
            parts = _parts(entry.path, root)
            listing.files.append(Found(parts, entry.path, status.st_size, status.st_mtime_ns, is_linked))
            return
    except OSError:  # unreadable, or gone in the meantime
        sort = "other"
    if entry.is_symlink() and not os.path.exists(entry.path):
        sort = "broken link"
    listing.ignored[sort, imageset.printable(ending)] += 1


def _parts(path: str, root: pathlib.Path) -> tuple[str, ...]:
    relative = pathlib.PurePath(os.path.relpath(path, root))
    return tuple(as_text(part) for part in relative.parts)


def as_text(name: str) -> str:
    """The name as composed text which UTF-8 can hold: macOS stores accents apart; odd bytes are escaped."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
