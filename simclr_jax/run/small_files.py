"""The small JSON files of a run: written whole, with a digest of themselves, and never believed without a look.

A file holds one object. Its entry "sha256" is the digest of the others, so that a letter that flips on a disk is damage
and not another setting; files of older runs, without the entry, are taken if they are readable.
"""

import hashlib
import json
import math
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from simclr_jax import atomic_files, base

_DIGEST = "sha256"


class Damaged(base.InputError):
    """A file that is there and cannot be believed; the message names it and says why, without a remedy."""


def write(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes the object; readers see the old or the new file, never half of one.

    Raises:
        base.InputError: it cannot be written, or something else is in its place.
    """
    check_place(path)
    entries = json.loads(json.dumps(dict(value)))
    text = json.dumps({**entries, _DIGEST: _digest(entries)}, indent=2)
    atomic_files.write_text(path, text + "\n")


def read(path: pathlib.Path) -> dict[str, Any]:
    """The object in a file, without its digest.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is no plain file, cannot be read, or is not what was written.
    """
    try:
        check_place(path)
        content = base.parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or base.one_line(error, 120)
        raise Damaged(f"{path} cannot be read: {reason}.") from error
    # The letter that flipped may be one of the digest's own name.
    lost = _DIGEST not in content and any(re.fullmatch("[0-9a-f]{64}", str(value)) for value in content.values())
    digest = content.pop(_DIGEST, None)
    if lost or (digest is not None and digest != _digest(content)):
        raise Damaged(f"{path} is not what was written: its digest differs.")
    return content


def check_place(path: pathlib.Path) -> None:
    """Raises InputError where something else than a plain file is in the place of one: a folder, a link, a pipe."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISLNK: "a link", stat.S_ISFIFO: "a pipe"}
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in kinds.items() if test(mode)), "no plain file")
        raise base.InputError(f"A run keeps plain files of its own; {path} is {kind}. Move it away.")


def read_rows(path: pathlib.Path) -> tuple[list[dict[str, float]], int]:
    """(the rows of a file with one JSON object of numbers a line, how many lines hold something else).

    Every row has a "step". A file that is not there has no rows; one that cannot be read is one bad line.
    """
    try:
        check_place(path)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], 0
    except (OSError, base.InputError):
        return [], 1
    rows = [row for line in lines if line.strip() and (row := _row(line)) is not None]
    return rows, sum(bool(line.strip()) for line in lines) - len(rows)


def _row(line: str) -> dict[str, float] | None:
    try:
        row = base.parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not all(_are_numbers(row.values())):
        return None
    return row if math.isfinite(row.get("step", math.nan)) else None


def _are_numbers(values: Iterable[Any]) -> Iterable[bool]:
    return (isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _digest(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
