"""Golden vectors of the reference implementation: small copies beside this file, full ones where they are at hand.

What each array means and which tolerance it allows is written in README.md.
"""

import os
import pathlib

import numpy as np
import pytest

_HERE = pathlib.Path(__file__).parent


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of the thinned golden file `name` (no suffix)."""
    with np.load(_HERE / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def load_full(name: str) -> dict[str, np.ndarray]:
    """All arrays of the full golden file; skips the test where the full files are not at hand."""
    folder = pathlib.Path(os.environ.get("SIMCLR_GOLDEN", _HERE.parents[2] / "shared" / "golden"))
    path = folder / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"full golden file {name}.npz not found; set SIMCLR_GOLDEN to its folder to run this check")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
