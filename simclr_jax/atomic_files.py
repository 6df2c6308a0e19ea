"""Files that appear whole or not at all, and the questions asked before long work whether they can be written.

A reader sees the old file or the new one, never half of one. Whatever the system says against writing is one line.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator

from simclr_jax import base

# What a disk says that is full, and one that may not be written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
# A page of the file system: enough for a full disk to say so.
_PROBE = bytes(4096)
# First bytes of JPEG, PNG, GIF, TIFF and most raw files, JPEG 2000, JPEG XL and Photoshop; brands of AVIF and HEIC.
_PICTURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"8BPS"),
)
_PHOTO_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"crx ")
_DRAWN = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")  # endings of the pictures that are written here
# The names of what is not finished; older ones end in a number or tell nobody's.
_TEMPORARY = re.compile(r"\..*?\.((?P<host>[0-9a-f]{6})-(?P<process>\d+)\.)?([0-9a-f]{8}|\d+)\.tmp|\.[0-9a-f]{8}\.tmp")
_LEFT_FOR = 86400.0  # seconds


def check_target(path: str | os.PathLike[str], *, flag: str = "--output") -> None:
    """Makes sure, before long work, that a file can be written at `path`; what is there already stays as it is.

    Raises:
        base.InputError: no such folder, a folder in the file's place, a picture in the place of what is none, a file or
            folder that may not be written, or no room. The message names `flag`.
    """
    text, target = os.fspath(path), pathlib.Path(path)
    if text.endswith(("/", os.sep)) or target.is_dir():
        raise base.InputError(f"{flag} must name a file; {text} is a folder. Add the name of a file to it.")
    if not target.parent.is_dir():
        raise base.InputError(f"{flag} must lie in an existing folder; got {text}. Create the folder first.")
    if _is_special(target):
        return
    if target.exists() and not os.access(target, os.W_OK):
        raise base.InputError(f"{flag} must be a file that can be written; {text} is read-only. Choose another name.")
    if is_picture(target) and target.suffix.lower() not in _DRAWN:
        raise base.InputError(f"{flag} must replace no picture; {text} is one. Choose another name.")
    with one_line(target, rule=f"{flag} must be a file that can be written"):
        _try_to_write(target.parent)


def check_folder(path: str | os.PathLike[str], *, flag: str) -> None:
    """Makes sure, before long work, that a folder can be made (or replaced) at `path`; nothing is made.

    Raises:
        base.InputError: something in its way, a disk or folder that may not be written, or no room. The message names
            `flag`.
    """
    target = pathlib.Path(os.path.realpath(path))
    _check_no_file(target, flag)
    with one_line(path, rule=f"{flag} must be a folder that can be written"):
        _try_to_write(next(folder for folder in (*target.parents, target) if folder.exists()))


def make_folder(path: str | os.PathLike[str], *, flag: str) -> None:
    """Makes a folder to write files into, if need be; where none can be written, nothing is made.

    Raises:
        base.InputError: something in its way, a disk or folder that may not be written, or no room. The message names
            `flag`.
    """
    target = pathlib.Path(os.path.realpath(path))
    with one_line(path, rule=f"{flag} must be a folder that can be written"):
        _try_to_write(next(folder for folder in (target, *target.parents) if folder.exists()))
        target.mkdir(parents=True, exist_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file (UTF-8); see `write_bytes`. Bytes of names that are not UTF-8 are escaped: `base.as_utf8`.

    Raises:
        base.InputError: the file cannot be written.
    """
    write_bytes(path, base.as_utf8(text).encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file through a temporary one beside it. A link stays a link; what is no file (a pipe) is written into.

    Raises:
        base.InputError: the file cannot be written; the old one is then still whole.
    """
    target = pathlib.Path(path)
    with one_line(target):
        if _is_special(target):
            target.write_bytes(content)
            return
        target = pathlib.Path(os.path.realpath(target))
        temporary = _beside(target)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A path beside `path` to write a large file to; it takes its place when the block ends, and vanishes if it fails.

    Raises:
        base.InputError: the system refuses to write; what was at `path` is then still whole.
    """
    target = pathlib.Path(os.path.realpath(path))
    temporary = _beside(target)
    with one_line(target):
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(target: pathlib.Path, *, flag: str) -> Iterator[pathlib.Path]:
    """A fresh folder beside `target` that takes its place when the block ends, and vanishes if the block fails.

    Raises:
        base.InputError: the system refuses to write; what was at `target` is then still there.
    """
    # "." and ".." have no name to call a neighbour after, and a link stays a link.
    target = pathlib.Path(os.path.realpath(target))
    fresh, old = _beside(target), _beside(target)
    _check_no_file(target, flag)
    with one_line(target, rule=f"{flag} must be a folder that can be written"):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir()
            yield fresh
            if target.exists():
                os.replace(target, old)
            try:
                os.replace(fresh, target)
            except OSError:
                if old.exists():
                    os.replace(old, target)
                raise
        finally:
            for folder in (fresh, old) if target.exists() else (fresh,):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def one_line(path: str | os.PathLike[str], *, rule: str = "A file must be writable") -> Iterator[None]:
    """Turns what the system says against writing `path` inside the block into one line that names it.

    Raises:
        base.InputError: in place of every OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise base.InputError(refusal(error, path, rule=rule)) from error


def refusal(error: OSError, path: str | os.PathLike[str], *, rule: str = "A file must be writable") -> str:
    """One readable line: the rule, the file that cannot be written, why, and what to do."""
    where, reason = os.fspath(path), error.strerror or type(error).__name__
    remedy = "Choose another place."
    if error.errno in NO_ROOM:
        there = next(folder for folder in pathlib.Path(os.path.abspath(where)).parents if folder.is_dir())
        with contextlib.suppress(OSError):
            reason += f" ({shutil.disk_usage(there).free / 1e6:.1f} MB free in {there})"
        remedy = "Make room or choose another place."
    elif error.errno in NO_RIGHT:
        remedy = "Change the permissions or choose another place."
    return f"{rule}; {where}: {reason}. {remedy}"


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there that begins as pictures do, whatever its name; also of kinds that are not read."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    is_bitmap = head.startswith(b"BM") and head[6:10] == bytes(4)
    is_webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    return head.startswith(_PICTURES) or is_bitmap or is_webp or (head[4:8] == b"ftyp" and head[8:12] in _PHOTO_BRANDS)


def _check_no_file(target: pathlib.Path, flag: str) -> None:
    if target.exists() and not target.is_dir():
        raise base.InputError(f"{flag} must be a folder; {target} is a file. Choose another name.")


def _try_to_write(folder: pathlib.Path) -> None:
    probe = folder / f".{secrets.token_hex(4)}.tmp"
    try:
        probe.write_bytes(_PROBE)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _is_special(path: pathlib.Path) -> bool:
    """Whether something is there that is neither file nor folder: /dev/stdout, a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what killed processes have left half written in a folder, by the names that this module gives.

    What a process of this host is writing stays, and for a day what came from elsewhere.
    """
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        host, number = (found["host"], int(found["process"])) if found and found["host"] else ("", 0)
        with contextlib.suppress(OSError):
            is_old = time.time() - path.lstat().st_mtime > _LEFT_FOR
            if found and ((host == _host() and not _is_running(number)) or is_old):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _beside(target: pathlib.Path) -> pathlib.Path:
    """A free name in the same folder, however long the target's own name is, that says which process took it."""
    return target.with_name(f".{target.name[:40]}.{_host()}-{os.getpid()}.{secrets.token_hex(4)}.tmp")
