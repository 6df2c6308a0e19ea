"""A linear classifier of features in a file, with its classes and what made the features it was fitted on."""

import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, probes
from simclr_jax.run import feature_file

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
        arrays = feature_file.read_arrays(path, ("meta", *_ARRAYS))
        meta = json.loads(str(arrays.pop("meta")))
        if meta.get("format") != FORMAT:
            raise ValueError(f"its format is {meta.get('format')}")
    except Exception as error:  # readers raise nearly anything on other files
        raise base.InputError(f"{rule}; {path} is not: {base.one_line(error)}. Make it again.") from error
    strength, accuracy = meta.pop("regularization"), meta.pop("validation_accuracy")
    fitted = probes.LinearClassifier(**arrays, regularization=strength, validation_accuracy=accuracy)
    return Kept(fitted, tuple(meta.pop("class_names")), meta)


def check_features(kept: Kept, features: feature_file.Embedding) -> None:
    """Raises InputError unless the features were made as those that the classifier was fitted on."""
    feature_file.check_alike(
        kept.meta,
        features.meta,
        rule="--features must be made as those that the classifier was fitted on",
        remedy="Embed the pictures again, or use --images.",
    )
