"""What lies in a folder of checkpoints, without orbax: the steps, the manifest of each, and what is moved or removed.

A step is a folder named by its number that appears by one rename. Its manifest (digests/metadata) has the step, the
type, shape and SHA-256 of every array, and a digest of itself: what does not agree with it is damaged, and so is a
step without one. Nothing here decides which step is used.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from simclr_jax import base

STATE, MANIFEST = "state", "digests"
_FILE = "metadata"
# As a save names a step: "0500" and "1²", which Python takes for numbers, are folders of somebody else.
_STEP = re.compile("0|[1-9][0-9]*", re.ASCII)
# Orbax's word for what is not finished; what is being removed is called so too, that the next start finishes it.
_HALF = "orbax-checkpoint-tmp"


class MayNotRead(base.InputError):
    """A checkpoint whose files this user may not read; it may well be intact."""


class Manifest(NamedTuple):
    """What a step was saved as: array name -> type and shape, and -> SHA-256.

    step, shapes: None and {} in the manifests of older runs.
    """

    step: int | None
    shapes: Mapping[str, str]
    digests: Mapping[str, str]


def saved_steps(folder: pathlib.Path) -> list[int]:
    """The steps with a state in the folder, in order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if _STEP.fullmatch(path.name) and path.is_dir())


def make_manifest(step: int, shapes: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, Any]:
    """The JSON value that `read_manifest` reads."""
    arrays = {name: [shapes[name], digests[name]] for name in shapes}
    return {"format": 2, "step": step, "arrays": arrays, "sha256": _own_digest(step, arrays)}


def read_manifest(folder: pathlib.Path, step: int) -> Manifest:
    """The manifest of a step.

    Raises:
        base.InputError: it is missing, empty, damaged, or that of another step.
    """
    path = folder / str(step) / MANIFEST / _FILE
    try:
        _check_plain(folder / str(step))
        content = base.parse_json(path.read_text(encoding="utf-8"))
        if not (isinstance(content, dict) and content):
            raise ValueError("empty")
        if "format" not in content:
            return Manifest(None, {}, {str(name): str(digest) for name, digest in content.items()})
        arrays = {str(name): (str(shape), str(digest)) for name, (shape, digest) in content["arrays"].items()}
        if content["sha256"] != _own_digest(content["step"], content["arrays"]) or not arrays:
            raise ValueError("its own digest differs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        check_readable(folder, step)
        reason = getattr(error, "strerror", None) or base.one_line(error, 80)
        raise base.InputError(f"Checkpoint {step} in {folder} cannot be read: its manifest: {reason}.") from error
    if content["step"] != step:
        raise base.InputError(f"Checkpoint {step} in {folder} is not that step: it was saved as {content['step']}.")
    of = [{name: pair[at] for name, pair in arrays.items()} for at in (0, 1)]
    return Manifest(int(content["step"]), of[0], of[1])


def _check_plain(whole: pathlib.Path) -> None:
    """Raises ValueError for what is neither a file nor a folder: whoever reads a pipe waits for ever."""
    for path in whole.rglob("*"):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{path.relative_to(whole)} is no plain file")


def _own_digest(step: int, arrays: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([step, arrays], sort_keys=True).encode()).hexdigest()


def check_readable(folder: pathlib.Path, step: int) -> None:
    """Raises MayNotRead if the permissions of a step's files are what is wrong."""
    whole = folder / str(step)
    for path in [folder, whole, *whole.rglob("*")]:
        if path.exists() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise MayNotRead(
                f"Checkpoint {step} in {folder} must be readable; {path}: permission denied. Give yourself the right "
                "to read it, or move that folder away to go on from the one before."
            )


def outdated(steps: Iterable[int], *, keep: int, best: int | None) -> list[int]:
    """The steps to remove: all but the newest `keep` and the best one."""
    ordered = sorted(steps)
    return [step for step in ordered[: max(len(ordered) - keep, 0)] if step != best]


def remove_steps(folder: pathlib.Path, steps: Iterable[int]) -> None:
    """Removes steps; a kill in the middle leaves nothing that looks like a step. What cannot go is left."""
    for step in steps:
        going = folder / f"{step}.{_HALF}-removed"
        with contextlib.suppress(OSError):
            os.replace(folder / str(step), going)
        shutil.rmtree(going, ignore_errors=True)


def set_aside(folder: pathlib.Path, steps: Iterable[int]) -> None:
    """Moves damaged steps into the folder NAME.damaged beside `folder`, in place of older ones of the same number."""
    for step in steps:
        target = folder.with_name(f"{folder.name}.damaged") / str(step)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder / str(step), target)


def remove_half_written(folder: pathlib.Path) -> None:
    """Frees what a killed save has left; only who holds the run's lock may call it."""
    for path in folder.glob(f"*.{_HALF}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_failed(folder: pathlib.Path) -> None:
    """The same after a save that failed: writers in the background that have not failed yet may still add files.

    It ends once nothing has come for half a second, or after four.
    """
    calm = 0
    for _ in range(80):
        calm = 0 if any(folder.glob(f"*.{_HALF}*")) else calm + 1
        if calm == 10:
            return
        remove_half_written(folder)
        time.sleep(0.05)
