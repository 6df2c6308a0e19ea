"""Archives read in place: their members are found by offset and never become files, so that no path in them matters.

Links, devices and sparse files inside of an archive are passed over; a compressed archive is unpacked to one plain
.tar, up to a limit, and read in place as well.
"""

import gzip
import hashlib
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from simclr_jax import base
from simclr_jax.data import imageset
from simclr_jax.data.prepare import plan as plan_lib

_PIECE = 2**22
Tick = Callable[[], None]


class Member(NamedTuple):
    """A file inside of an archive: its name there, and where its bytes lie."""

    name: str
    path: str
    offset: int
    num_bytes: int


def open_tar(path: pathlib.Path, *, work: pathlib.Path, max_bytes: int, tick: Tick) -> list[Member]:
    """The files inside of a .tar, .tar.gz or .tgz.

    Args:
        path: the archive.
        work: folder where a compressed archive is unpacked to a plain one; found again there by a later run.
        max_bytes: what it may unpack to: an archive of that name does not hold more, or it is made to fill disks.
        tick: called now and then; what it raises stops the work.

    Raises:
        base.InputError: not an archive, damaged, or larger than `max_bytes`.
    """
    with open(path, "rb") as stream:
        is_packed = stream.read(2) == b"\x1f\x8b"
    plain = _unpack(path, work, max_bytes=max_bytes, tick=tick) if is_packed else path
    return list(list_members(plain, tick=tick, shown=path))


def list_members(
    path: pathlib.Path, *, tick: Tick, shown: pathlib.Path | None = None, within: tuple[int, int] | None = None
) -> Iterator[Member]:
    """The files inside of a plain .tar, or of the one that lies at (offset, length) inside of a file.

    Raises:
        base.InputError: not an archive, or one that ends too early; it is called `shown`.
    """
    start, length = within or (0, os.path.getsize(path))
    try:
        with open(path, "rb") as stream:
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                while (info := archive.next()) is not None:
                    tick()
                    archive.members.clear()  # type: ignore[attr-defined]  # a million headers are not kept
                    if info.offset_data + info.size > start + length:
                        raise tarfile.ReadError("it ends in the middle of a file")
                    # No links, devices or sparse files.
                    if info.isreg() and not info.issparse():
                        yield Member(info.name, str(path), info.offset_data, info.size)
                stream.seek(archive.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise _not_whole(shown or path, error) from error


def _unpack(path: pathlib.Path, work: pathlib.Path, *, max_bytes: int, tick: Tick) -> pathlib.Path:
    """The plain .tar of a compressed one, made once."""
    status = path.stat()
    stamp = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    plain = work / f"{stamp}.tar"
    if plain.exists():
        return plain
    part, total = plain.with_suffix(".part"), 0
    try:
        with gzip.open(path, "rb") as packed, open(part, "wb") as stream:
            while piece := packed.read(_PIECE):
                tick()
                total += len(piece)
                if total > max_bytes:
                    raise base.InputError(
                        f"{imageset.printable(path.name)} must unpack to {max_bytes / 1e9:.1f} GB at most; it is "
                        "larger. Check where it comes from."
                    )
                stream.write(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _not_whole(path, error) from error
    # Its time is the packed one's, so that unpacked again it counts as the same.
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    part.replace(plain)
    return plain


def _not_whole(path: pathlib.Path, error: Exception) -> base.InputError:
    return base.InputError(
        f"an archive must be whole; {imageset.printable(str(path))}: {base.one_line(error, 120)}. Bring it here again."
    )


def read_member(member: Member) -> bytes:
    """The bytes of a file inside of an archive. Raises OSError as `plan.read_item` does."""
    return plan_lib.read_item(plan_lib.Item(member.name, member.path, member.offset, member.num_bytes, labels=()))
