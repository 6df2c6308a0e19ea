"""One process, or one job of several, at a time in a folder: a lock that the system frees however a process ends.

A job's process 0 holds the folder's lock and looks that no other process of a job before is still there; each of the
others holds a lock of its own meanwhile. Beside each lock lies who holds it.
"""

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
def only_process(folder: pathlib.Path, *, flag: str, rule: str, remedy: str, index: int = 0) -> Iterator[None]:
    """Holds a folder that is there for this process.

    Args:
        folder: gets the files LOCK and HOLDER.
        flag: how messages call the folder.
        rule, remedy: begin and end what the second process is told.
        index: of the process within its job; above 0 it enters once process 0 holds the folder, with files whose names
            end in this number.

    Raises:
        base.InputError: another process holds it, or it cannot be written.
    """
    import filelock

    lock, text = _name(LOCK, index), _name(HOLDER, index)
    for name in (lock, text):
        small_files.check_place(folder / name)
    held = filelock.FileLock(str(folder / lock))
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        who = holder(folder, index=index)
        raise base.InputError(f"{rule}; {folder} is in use by process {who}. {remedy}") from error
    except NotImplementedError:
        progress.say(f"{folder} is on a disk without locks: let no other process use it.")
    except OSError as error:
        raise base.InputError(f"{flag} must be a folder that can be written; {folder}: {error.strerror}.") from error
    try:
        if index == 0 and (busy := _busy_members(folder)):
            raise base.InputError(f"{rule}; {folder} is in use by process {holder(folder, index=busy)}. {remedy}")
        # First of all, as these may be what fills the disk.
        atomic_files.remove_leftovers(folder)
        atomic_files.write_text(folder / text, f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        held.release()


def _busy_members(folder: pathlib.Path) -> int:
    """The number of a process that is still there from a job whose process 0 has ended; 0 for none."""
    import filelock

    for path in folder.glob(f"{LOCK}-*"):
        number = path.name.removeprefix(f"{LOCK}-")
        try:
            if number.isdigit() and int(number):
                filelock.FileLock(str(path)).acquire(timeout=0).lock.release()
        except filelock.Timeout:
            return int(number)
        except (NotImplementedError, OSError):
            continue
    return 0


def _name(name: str, index: int) -> str:
    return name if index == 0 else f"{name}-{index}"


def holder(folder: pathlib.Path, *, index: int = 0) -> str:
    """What the process that holds the folder, or number `index` of its job, has written into it; empty if none."""
    path = folder / _name(HOLDER, index)
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
