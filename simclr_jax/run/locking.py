"""One process at a time in a folder: a lock that the system frees however the process ends, and who holds it."""

import contextlib
import os
import pathlib
import platform
from collections.abc import Iterator

from simclr_jax import atomic_files, base
from simclr_jax.run import progress, small_files

# What the system locks and what says who did: on Windows nobody else can read a locked file.
LOCK, HOLDER = ".lock", "lock"


@contextlib.contextmanager
def only_process(folder: pathlib.Path, *, flag: str, rule: str, remedy: str) -> Iterator[None]:
    """Holds a folder that is there for this process.

    Args:
        folder: gets the files LOCK and HOLDER.
        flag: how messages call the folder.
        rule, remedy: begin and end what the second process is told.

    Raises:
        base.InputError: another process holds it, or it cannot be written.
    """
    import filelock

    for name in (LOCK, HOLDER):
        small_files.check_place(folder / name)
    held = filelock.FileLock(str(folder / LOCK))
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        raise base.InputError(f"{rule}; {folder} is in use by process {holder(folder)}. {remedy}") from error
    except NotImplementedError:
        progress.say(f"{folder} is on a disk without locks: let no other process use it.")
    except OSError as error:
        raise base.InputError(f"{flag} must be a folder that can be written; {folder}: {error.strerror}.") from error
    try:
        # First of all, as these may be what fills the disk.
        atomic_files.remove_leftovers(folder)
        atomic_files.write_text(folder / HOLDER, f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        held.release()


def holder(folder: pathlib.Path) -> str:
    """What the process that holds the folder has written into it; empty if there is none."""
    path = folder / HOLDER
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
