"""Keeps the cache of decoded splits within a limit, lists it and empties it.

Only folders that `cache` made are ever touched: known by their name, their files and what is in meta.json. A process
holds a lock on the entries that it uses, and an entry which anybody holds stays.
"""

import contextlib
import os
import pathlib
import re
import shutil
import time
from typing import NamedTuple

from simclr_jax import base

try:
    import fcntl
except ImportError:  # Windows, which deletes no file that is in use
    fcntl = None  # type: ignore[assignment]

# A folder that changes leaves one entry for each of its states; older ones are hardly wanted again.
KEPT_OF_A_TITLE = 3
_STALE_SECONDS = 24 * 3600
_FILES = frozenset({"images.npy", "sizes.npy", "labels.npy", "meta.json", "digests.npy"})
_LABELS = re.compile(r"labels-[0-9a-f]{32}\.npy")  # of a split that stays encoded
_NAME = re.compile(r".*-[0-9a-f]{32}(\.tmp-\w+)?")
# File descriptors, open until the process ends: their locks say that the entries are in use.
_held: dict[str, int] = {}


class Entry(NamedTuple):
    """A decoded split in the cache.

    title: of the split, as messages call it; "" for what a killed run left behind.
    used: seconds since 1970, when it was last made or opened.
    """

    path: pathlib.Path
    title: str
    num_bytes: int
    used: float


def hold(entry: pathlib.Path) -> None:
    """Marks an entry as used now, and in use until this process ends."""
    path = str(entry / "meta.json")
    with contextlib.suppress(OSError):  # another user's
        os.utime(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if path in _held:
            os.close(_held[path])
        _held[path] = descriptor
    except OSError:  # a cache that may only be read: nobody here can remove from it either
        return


def list_entries(folder: pathlib.Path) -> list[Entry]:
    """The entries in a cache folder, the last used first; anything else in there is not listed."""
    entries = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        files = list(path.iterdir())
        if not {file.name for file in files} <= _FILES:
            continue
        try:
            num_bytes = sum(file.stat().st_size for file in files)
            meta = path / "meta.json"
            is_whole = meta.is_file() and ".tmp-" not in path.name
            title = _title(meta) if is_whole else ""
            entries.append(Entry(path, title, num_bytes, (meta if is_whole else path).stat().st_mtime))
        except OSError:  # removed by somebody else in the meantime
            continue
    return sorted(entries, key=lambda entry: -entry.used)


def _title(meta: pathlib.Path) -> str:
    try:
        return str(base.parse_json(meta.read_text(encoding="utf-8")).get("title", "?"))
    except (OSError, ValueError, AttributeError):
        return "?"


def default_limit(folder: pathlib.Path) -> float:
    """Half of the room (bytes) that the disk would have without the entries in `folder`."""
    return (shutil.disk_usage(folder).free + sum(entry.num_bytes for entry in list_entries(folder))) / 2


def make_room(folder: pathlib.Path, needed: int, *, title: str, max_gigabytes: float | None) -> None:
    """Removes entries which were used longest ago until `needed` bytes more keep within the limit and on the disk.

    Also what killed runs left behind a day ago, and older states of the same split beyond `KEPT_OF_A_TITLE`. Entries
    in use stay, so that the limit may be exceeded; so may a single entry that is larger than the limit.
    """
    entries = list_entries(folder)
    limit = default_limit(folder) if max_gigabytes is None else 1e9 * max_gigabytes
    total = sum(entry.num_bytes for entry in entries) + needed
    same_title = [entry for entry in entries if entry.title == title]
    for entry in reversed(entries):  # used longest ago first
        is_stale = not entry.title and time.time() - entry.used > _STALE_SECONDS
        is_old_state = entry in same_title[KEPT_OF_A_TITLE - 1 :]
        is_too_much = bool(entry.title) and (total > limit or needed > shutil.disk_usage(folder).free)
        if (is_stale or is_old_state or is_too_much) and remove(entry):
            total -= entry.num_bytes


def remove(entry: Entry) -> bool:
    """Removes an entry unless a process uses it; returns whether it is gone."""
    meta = entry.path / "meta.json"
    if str(meta) in _held:
        return False
    try:
        if entry.title and fcntl:
            with open(meta, "rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unlink(entry.path)
        else:
            _unlink(entry.path)
    except OSError:
        return False
    return True


def _unlink(path: pathlib.Path) -> None:
    # meta.json first: without it nobody takes the rest for an entry.
    for name in ("meta.json", *sorted(_FILES - {"meta.json"})):
        (path / name).unlink(missing_ok=True)
    path.rmdir()


def empty(folder: pathlib.Path) -> tuple[int, int]:
    """Removes every entry that no process uses, what killed runs left, and labels: (entries removed, bytes)."""
    # What has no title and is young may be in the making.
    chosen = [entry for entry in list_entries(folder) if entry.title or time.time() - entry.used > _STALE_SECONDS]
    removed = [entry for entry in chosen if remove(entry)]
    num_bytes = sum(entry.num_bytes for entry in removed)
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LABELS.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):  # a folder that may only be read
                size = path.stat().st_size
                path.unlink()
                num_bytes += size
    return len(removed), num_bytes
