"""A linear classifier of features in a file, with its classes and what made the features it was fitted on."""

import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, probes
from simclr_jax.run import array_files, feature_checks, feature_file

FORMAT = "simclr-jax.classifier.v1"
_ARRAYS = ("weights", "bias", "mean", "scale")


class Kept(NamedTuple):
    """A classifier, `class_names[class]`, and the `meta` of the features that it was fitted on."""

    classifier: probes.LinearClassifier
    class_names: tuple[str, ...]
    meta: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    classifier: probes.LinearClassifier,
    *,
    class_names: Sequence[str],
    meta: Mapping[str, Any],
) -> None:
    """Writes a file of NumPy arrays, `.npz`.

    Raises:
        base.InputError: it cannot be written.
    """
    made_by = {name: value for name, value in meta.items() if name not in ("skipped", "format", "features_digest")}
    content = {"format": FORMAT, **made_by, "class_names": list(class_names)}
    content |= {"regularization": classifier.regularization, "validation_accuracy": classifier.validation_accuracy}
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.asarray(json.dumps(content)), **{name: getattr(classifier, name) for name in _ARRAYS})
    atomic_files.write_bytes(path, buffer.getvalue())


def load(path: str | os.PathLike[str]) -> Kept:
    """What `save` wrote.

    Raises:
        base.InputError: no such file, or not one of ours.
    """
    rule = "--classifier must be a file that simclr-jax probe wrote"
    if not pathlib.Path(path).is_file():
        raise base.InputError(f"{rule}; there is no {path}. Make it: simclr-jax probe --classifier={path}")
    try:
        arrays = array_files.read_arrays(path, ("meta", *_ARRAYS))
        meta = base.parse_json(str(arrays.pop("meta")))
        feature_checks.check_said(meta)
        if meta.get("format") != FORMAT:
            raise ValueError(f"its format is {str(meta.get('format'))[:60]}")
        _check(arrays, meta)
    except Exception as error:  # readers raise nearly anything on other files
        raise base.InputError(f"{rule}; {path} is not: {base.one_line(error)}. Make it again.") from error
    strength, accuracy = meta.pop("regularization"), meta.pop("validation_accuracy")
    fitted = probes.LinearClassifier(**arrays, regularization=strength, validation_accuracy=accuracy)
    return Kept(fitted, tuple(meta.pop("class_names")), meta)


def _check(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Raises ValueError unless the arrays are those of one classifier with a column for every class."""
    weights = arrays["weights"]
    if weights.ndim != 2 or weights.shape[1] != len(meta["class_names"]):
        raise ValueError(f"its weights are {weights.dtype}{list(weights.shape)}, of {len(meta['class_names'])} classes")
    lengths = {
        "weights": weights.shape,
        "bias": weights.shape[1:],
        "mean": weights.shape[:1],
        "scale": weights.shape[:1],
    }
    for name, shape in lengths.items():
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f":
            raise ValueError(f"its {name} is not {list(shape)} numbers")
        # The scale of a constant feature is infinite.
        if not (array > 0 if name == "scale" else np.isfinite(array)).all():
            raise ValueError(f"its {name} is not made of finite numbers")
    if not isinstance(meta["regularization"], float | int):
        raise ValueError("its regularization is no number")
    if not isinstance(meta["validation_accuracy"], float | int | None):  # none of one label a class
        raise ValueError("its validation_accuracy is no number")


def check_features(kept: Kept, features: feature_file.Embedding) -> None:
    """Raises InputError unless the features were made as those that the classifier was fitted on."""
    feature_file.check_alike(
        kept.meta,
        features.meta,
        rule="--features must be made as those that the classifier was fitted on",
        remedy="Embed the pictures again, or use --images.",
    )
