"""The features that a run's encoder gave for its two splits, kept beside its results for later verbs.

A folder `features` in the workdir holds train.npy, test.npy and meta.json, which says of which step and which data they
are. It appears whole or not at all, and the next evaluation replaces it.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, data

_FOLDER, _META = "features", "meta.json"
MAX_BYTES = 8e9


class Stored(NamedTuple):
    """Features h float32 [N, D] of the training and the test split at a step; arrays are memory-mapped."""

    step: int
    train_h: np.ndarray
    test_h: np.ndarray


def save(
    workdir: pathlib.Path,
    *,
    step: int,
    train: tuple[np.ndarray, data.ImageSet],
    test: tuple[np.ndarray, data.ImageSet],
) -> bool:
    """Keeps (h, the split) of both splits at a step; False, and nothing is kept, where they take over MAX_BYTES.

    Raises:
        base.InputError: the workdir cannot be written; what was kept before is then still there.
    """
    if train[0].nbytes + test[0].nbytes > MAX_BYTES:
        return False
    with atomic_files.replacing_folder(workdir / _FOLDER, flag="workdir") as fresh:
        np.save(fresh / "train.npy", train[0])
        np.save(fresh / "test.npy", test[0])
        meta = {"step": step, "train": train[1].fingerprint, "test": test[1].fingerprint}
        (fresh / _META).write_text(json.dumps(meta), encoding="utf-8")
    return True


def load(workdir: pathlib.Path, *, step: int, train_set: data.ImageSet, test_set: data.ImageSet) -> Stored | None:
    """What was kept, if it is of this step and of these very splits; else None."""
    folder = workdir / _FOLDER
    try:
        meta = base.parse_json((folder / _META).read_text(encoding="utf-8"))
        if meta != {"step": step, "train": train_set.fingerprint, "test": test_set.fingerprint}:
            return None
        train_h, test_h = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("train", "test"))
        fits = len(train_h) == len(train_set.images) and len(test_h) == len(test_set.images)
        return Stored(step, train_h, test_h) if fits else None
    except Exception:  # damaged: NumPy and JSON raise nearly anything, and all of it can be computed again
        return None
