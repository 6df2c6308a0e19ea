"""What a file of features must hold before a verb uses it: columns of the right types and lengths, and who made them.

A file may come from a stranger, or from a program of theirs: that it can be read does not make it one of ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Of a column: its type (a kind for text) and its dimensions.
_COLUMNS = {
    "names": ("U", 1),
    "labels": (np.int32, 1),
    "paths": ("U", 1),
    "sizes": (np.int32, 2),
    "digests": (np.uint64, 1),
}
# Types of what a file says of itself, where it says it; of "encoder" below.
_SAID = {
    **dict.fromkeys(("fingerprint", "images", "layer", "protocol"), str),
    **{"class_names": list, "skipped": list, "encoder": dict, "num_views": int, "canvas_size": int | None},
}
_ENCODER = {
    **{"source": str, "step": int, "size": int, "resize": str, "crop_fraction": float | int, "canvas_size": int},
    **{"mean": list, "std": list},
}
_LISTS = {"class_names": str, "skipped": str, "mean": float | int, "std": float | int}
# A file of Parquet says in a few bytes that a million rows are alike.
_MOST_BYTES, _MOST_RATIO = 2**28, 200


def check_columns(columns: Mapping[str, np.ndarray], *, num_classes: int) -> None:
    """Raises ValueError unless all columns of `feature_file.Rows` have their types and one length."""
    features = columns["features"]
    if features.ndim != 2 or features.dtype not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise ValueError(f"its features are {features.dtype}{list(features.shape)}")
    for name, (kind, ndim) in _COLUMNS.items():
        column = columns[name]
        is_kind = column.dtype.kind == kind if kind == "U" else column.dtype == kind
        if not is_kind or column.ndim != ndim or len(column) != len(features):
            raise ValueError(f"its {name} are {column.dtype}{list(column.shape)} beside {len(features)} features")
    if columns["sizes"].shape[1] != 2:
        raise ValueError("its sizes are no pairs")
    labels = columns["labels"]
    if len(labels) and not -1 <= labels.min() <= labels.max() < (num_classes or np.inf):
        raise ValueError(f"its labels are {labels.min()} to {labels.max()}, of {num_classes} classes")


def check_said(meta: Any) -> None:
    """Raises ValueError unless what a file says of itself has the right types, where it says it."""
    if not isinstance(meta, dict):
        raise ValueError("it says nothing of itself")
    _check_types(meta, _SAID)
    _check_types(meta.get("encoder", {}), _ENCODER)


def _check_types(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name in values.keys() & kinds.keys():
        value = values[name]
        parts: Sequence[Any] = value if isinstance(value, list) else ()
        is_right = isinstance(value, kinds[name]) and not isinstance(value, bool)
        if not is_right or not all(isinstance(part, _LISTS[name]) for part in parts):
            raise ValueError(f"its {name} is {str(value)[:60]!r}")


def check_expansion(*, num_bytes: int, unpacked: int) -> None:
    """Raises ValueError where a file would take far more memory than it has bytes."""
    if unpacked > max(_MOST_BYTES, _MOST_RATIO * num_bytes):
        raise ValueError(f"its {num_bytes} bytes would unpack to {unpacked / 1e6:.0f} MB")
