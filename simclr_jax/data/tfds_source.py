"""`tfds:NAME`: TensorFlow Datasets prepared as array_record, read without TensorFlow.

Only the encoded bytes are taken from TFDS; decoding is ours, so that a damaged record is named and skipped and no
OpenCV is needed.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from simclr_jax import base
from simclr_jax.data import decode, extras, imageset, layout, records, strict


def open_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    canvas_size: int | None,
    rules: imageset.Rules = imageset.DEFAULT_RULES,
) -> imageset.Encoded:
    """One split of a prepared TFDS data set, not yet decoded.

    Args:
        name: "NAME[/CONFIG][:VERSION]", for example "cifar10".
        split: any TFDS split expression, for example "train[:10%]". If the data set has no "test" but a
            "validation", "test" means the latter.
        data_dir: folder of prepared data sets, or the one of this set in it; None for TFDS's own default.
        canvas_size: side of the canvas; None for the long side of the images, at most 256 (256 for mixed sizes).
        rules: how the images are decoded.

    Raises:
        base.InputError: not found, not prepared as array_record, or no feature "image"; `EmptySplit`: no such split,
            or nothing in it.
    """
    if not name:
        raise base.InputError("tfds:NAME needs the name of a data set; got none. Write for example tfds:cifar10.")
    builder = _find_builder(name, data_dir)
    features = _checked_features(builder, name)
    asked, split = split, _known_split(split, tuple(builder.info.splits))
    source, shards = _open_source(builder, name, split)
    class_names = _class_names(features)
    has_label = _has_label(features)
    content = [builder.info.full_name, split, class_names, shards]
    versions = [decode.DECODER_VERSION, strict.is_available(), extras.require("PIL").__version__]
    stamp = [*versions, canvas_size, rules, *content]
    return imageset.Encoded(
        title=f"tfds:{imageset.printable(name)}, split {imageset.printable(split)!r}",
        key=hashlib.sha256(json.dumps(stamp).encode()).hexdigest(),
        class_names=class_names,
        ids=[str(index) for index in range(len(source))],
        canvas_size=lambda: canvas_size or _default_canvas(features["image"].shape),
        read=lambda index: _read_record(source, index, has_label),
        read_block=lambda indices: [_example(record, has_label) for record in _read_records(source, indices)],
        rules=rules,
        locate=lambda index: index,
        fetch=functools.partial(_fetch, folder=os.fspath(builder.data_path), split=split, has_label=has_label),
        identity=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        labels=None if has_label else lambda: np.full(len(source), -1, np.int32),
        understood=f"tfds:{imageset.printable(builder.info.full_name)}: {len(source)} images of the split {split!r}"
        + (f", used as {asked!r}" if asked != split else "")
        + f"; {_tell_classes(class_names, has_label)}; splits: {_tell_splits(builder)}",
    )


def _has_label(features: Any) -> bool:
    return "label" in features and features["label"].shape == () and np.dtype(features["label"].np_dtype).kind in "iu"


def _read_record(source: Any, index: int, has_label: bool) -> tuple[bytes, int]:
    (record,) = _read_records(source, range(index, index + 1))
    found = _example(record, has_label)
    if isinstance(found, Exception):
        raise found
    return found


def _fetch(index: int, folder: str, split: str, has_label: bool) -> tuple[bytes, int]:
    """(bytes, label) of a record, from a source that every process opens for itself."""
    return _read_record(_reopened(folder, split), index, has_label)


@functools.lru_cache(maxsize=4)
def _reopened(folder: str, split: str) -> Any:
    tfds = extras.require("tensorflow_datasets")
    builder = tfds.builder_from_directory(folder)
    return builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)


def _read_records(source: Any, indices: range) -> list[bytes | Exception]:
    """The records as they lie in the files; a damaged one is the error that array_record raises for it."""
    try:
        # A request for several starts threads, which for one alone takes ten times as long as reading it.
        return [source[indices[0]]] if len(indices) == 1 else list(source.__getitems__(list(indices)))
    except RuntimeError as error:  # a checksum is wrong
        if len(indices) == 1:
            return [error]
        return [record for index in indices for record in _read_records(source, range(index, index + 1))]


def _example(record: bytes | Exception, has_label: bool) -> tuple[bytes, int] | Exception:
    """(image, label) of a record. Read here instead of by TFDS, which takes ten times as long for a small image."""
    try:
        if isinstance(record, Exception):
            raise record
        values = records.decode_example(record)
        image, label = values["image"], values["label"] if has_label else -1
    except (RuntimeError, ValueError, KeyError):
        return decode.DamagedImage("damaged record")
    if not isinstance(image, bytes) or not isinstance(label, int):
        return decode.DamagedImage("damaged record")
    return image, label


def _known_split(split: str, known: tuple[str, ...]) -> str:
    """The split itself, or for "test", where there is none, the one that validates."""
    valid = [name for name in known if layout.split_role(name) == "valid"]
    return valid[0] if split == "test" and "test" not in known and valid else split


def _tell_classes(class_names: tuple[str, ...], has_label: bool) -> str:
    if not class_names:
        return "labels without names" if has_label else "no labels"
    names = ", ".join(imageset.printable(name) for name in class_names[:5])
    return f"{len(class_names)} classes ({names}{', ...' if len(class_names) > 5 else ''})"


def _tell_splits(builder: Any) -> str:
    return ", ".join(f"{imageset.printable(name)} {part.num_examples}" for name, part in builder.info.splits.items())


def _find_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    tfds = extras.require("tensorflow_datasets")
    looked = os.path.abspath(os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")))
    looked = _folder_of_sets(looked, name)
    try:
        builder = tfds.builder(name, data_dir=None if data_dir is None else looked)
    except Exception as error:  # TFDS raises many types, some with pages of suggestions
        raise _not_found(name, looked, _prepared(looked)) from error
    if not os.path.isdir(builder.data_path):
        raise _not_found(name, os.fspath(builder.data_path), _prepared(looked).replace("there", f"in {looked}"))
    return builder


def _folder_of_sets(data_dir: str, name: str) -> str:
    """`data_dir`, or the folder above it that holds the set where people named the set's own, or one within it."""
    root, path = re.split("[/:]", name)[0], pathlib.Path(data_dir)
    above = [folder.parent for folder in (path, *path.parents)[:3] if folder.name == root]
    return os.fspath(above[0]) if above and not (path / root).is_dir() else data_dir


def _checked_features(builder: Any, name: str) -> Any:
    features = builder.info.features
    if features is None or "image" not in features:
        known = ", ".join(features or ()) or "none"
        raise base.InputError(f"tfds:{name} must have a feature 'image'; got {known}. Choose an image data set.")
    return features


def _open_source(builder: Any, name: str, split: str) -> tuple[Any, list[tuple[str, int, int, int]]]:
    """The random-access source of encoded examples, and (file, bytes, first, count) of each shard it reads."""
    tfds = extras.require("tensorflow_datasets")
    try:
        parts = builder.info.splits[split].file_instructions
    except Exception as error:
        valid = ", ".join(builder.info.splits) or "none"
        raise imageset.EmptySplit(
            f"the split of tfds:{name} must be one of {valid}, or an expression such as 'train[:10%]'; "
            f"got {imageset.printable(split)!r}. Choose one of these."
        ) from error
    if not sum(part.take for part in parts):
        raise imageset.EmptySplit(
            f"split {split!r} of tfds:{name} must not be empty; got 0 examples. Take a larger part."
        )
    try:
        source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except NotImplementedError as error:
        found = builder.info.file_format.value if builder.info.file_format else "an unknown format"
        raise base.InputError(
            f"tfds:{name} must be prepared as array_record; {builder.data_path} holds {found}. Prepare it again "
            "into another data_dir with file_format='array_record'."
        ) from error
    shards = [(os.path.basename(p.filename), os.path.getsize(p.filename), p.skip, p.take) for p in parts]
    return source, shards


def _class_names(features: Any) -> tuple[str, ...]:
    if "label" not in features:
        return ()
    return tuple(getattr(features["label"], "names", None) or ())


def _default_canvas(shape: tuple[int | None, ...]) -> int:
    if shape[0] is None or shape[1] is None:
        return decode.DEFAULT_CANVAS_SIZE
    return min(decode.DEFAULT_CANVAS_SIZE, max(shape[0], shape[1]))


def _not_found(name: str, looked: str, detail: str) -> base.InputError:
    from simclr_jax.data import prepare  # only for this message

    plain = imageset.printable(name.partition(":")[0])
    root = plain.partition("/")[0]
    if root in prepare.BUILDERS:
        remedy = f"prepare it: simclr-jax prepare --input={root} --source=ARCHIVES --output=FOLDER"
    else:
        builder = f"tfds.builder('{plain}', file_format='array_record')"
        remedy = f"prepare it where tensorflow is installed: {builder}.download_and_prepare()"
    return base.InputError(
        f"tfds:{imageset.printable(name)} must be prepared on disk; not found at {looked} ({detail}). Set data_dir, or "
        f"{remedy}"
    )


def _prepared(data_dir: str) -> str:
    """What lies ready in `data_dir`, for a message."""
    infos = [info for depth in ("*/*", "*/*/*") for info in pathlib.Path(data_dir).glob(f"{depth}/dataset_info.json")]
    names = sorted(imageset.printable(info.parent.relative_to(data_dir).as_posix()) for info in infos)
    return f"prepared there: {', '.join(names[:4])}" if names else "nothing is prepared there"
