"""Files of features: one row a picture, with what it is and where it lies, and what the features were made by.

`.npz` is read by NumPy alone, its features memory-mapped; `.parquet` (pyarrow) by Pandas, Polars and DuckDB. The same
rows give the same bytes. A file is written row block by row block and appears whole.
"""

import itertools
import json
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, base

ENDINGS = (".npz", ".parquet")
FORMAT = "simclr-jax.features.v1"
_META = "simclr_jax"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member of an archive, so that equal rows give equal bytes


class Embedding(NamedTuple):
    """Features of pictures, row by row.

    features: float32 or float16 [N, D]; of a file `.npz` a memory map.
    names: of the pictures, the path below the folder for a folder's.
    labels: int32 [N], -1 where a picture has none.
    class_names: `class_names[label]`.
    paths: where they lie, "" for those of a data set.
    sizes: int32 [N, 2], height and width of the pictures, pixels.
    digests: uint64 [N], equal for files of equal bytes.
    meta: what made the features: format, fingerprint of the weights, source, layer, protocol, images, skipped ...
    """

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...] = ()
    sizes: np.ndarray = np.zeros((0, 2), np.int32)
    digests: np.ndarray = np.zeros(0, np.uint64)
    meta: Mapping[str, Any] = {}


# Types of what a file says of itself, where it says it.
_SAID = {"class_names": list, "encoder": dict, "fingerprint": str, "images": str, "layer": str}


class _Said(dict[str, Any]):
    """What a file says of itself; to ask for what it does not say is a mistake of the file, not of the program."""

    def __missing__(self, name: str) -> Any:
        raise base.InputError(
            f"A file of features must be one that simclr-jax embed wrote; this one does not say its {name!r}. Make it "
            "again."
        )


class Rows(NamedTuple):
    """Some rows of a file, as arrays: see `Embedding`."""

    features: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray


def check_ending(path: str | os.PathLike[str], *, flag: str = "--output") -> None:
    """Raises InputError unless the name of the file ends as one of ENDINGS and what it needs is installed."""
    ending = pathlib.Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise base.InputError(f"{flag} must end in {' or '.join(ENDINGS)}; got {path}. Use for example features.npz.")
    if ending == ".parquet":
        _parquet()


def save(path: str | os.PathLike[str], blocks: Iterable[Rows], *, meta: Mapping[str, Any], num_rows: int) -> None:
    """Writes blocks of rows, in order, of `num_rows` rows in all.

    Args:
        path: ends in one of ENDINGS.
        blocks: asked for more than once for `.npz`, whose arrays follow each other: a list, or an object that can be
            iterated again.
        meta: plain values; "class_names" is read back into its own field.
        num_rows: N.

    Raises:
        base.InputError: an unknown ending, or a file that cannot be written.
    """
    check_ending(path)
    text = json.dumps({"format": FORMAT, **meta}, ensure_ascii=False)
    with atomic_files.replacing_file(path) as temporary:
        if str(path).lower().endswith(".parquet"):
            _write_parquet(temporary, blocks, text)
        else:
            _write_npz(temporary, blocks, text, num_rows)


def load(path: str | os.PathLike[str], *, flag: str = "--features") -> Embedding:
    """What `save` wrote.

    Raises:
        base.InputError: no such file, or not one of ours. The message names `flag`.
    """
    target = pathlib.Path(path)
    rule = f"{flag} must be a file that simclr-jax embed wrote"
    if not target.is_file():
        raise base.InputError(f"{rule}; there is no {target}. Make it: simclr-jax embed --output={target}")
    try:
        rows, text = (_read_parquet if target.suffix.lower() == ".parquet" else _read_npz)(target)
        meta = json.loads(text, object_hook=_Said)
        if meta.get("format") != FORMAT:
            raise ValueError(f"its format is {meta.get('format')}")
        wrong = [name for name, kind in _SAID.items() if not isinstance(meta.get(name, kind()), kind)]
        if wrong:
            raise ValueError(f"its {wrong[0]} is {meta[wrong[0]]!r}")
    except base.InputError:
        raise
    except Exception as error:  # readers raise nearly anything on other files
        raise base.InputError(f"{rule}; {target} is not: {base.one_line(error)}. Make it again.") from error
    return as_embedding(rows, meta)


def as_embedding(rows: Rows, meta: Mapping[str, Any]) -> Embedding:
    """All rows of a file, with what goes with them."""
    names, paths = (tuple(column.tolist()) for column in (rows.names, rows.paths))
    classes = tuple(meta.get("class_names", ()))
    return Embedding(rows.features, names, rows.labels, classes, paths, rows.sizes, rows.digests, meta)


def take(embedding: Embedding, rows: Sequence[int] | np.ndarray) -> Embedding:
    """Some rows, their features in memory."""
    rows = np.asarray(rows, np.int64)
    names, paths = (tuple(column[row] for row in rows) for column in (embedding.names, embedding.paths))
    arrays = (np.asarray(array[rows]) for array in (embedding.features, embedding.labels, embedding.sizes))
    features, labels, sizes = arrays
    return Embedding(
        features, names, labels, embedding.class_names, paths, sizes, embedding.digests[rows], embedding.meta
    )


def join(first: Embedding, second: Embedding) -> Embedding:
    """The rows of both without features and what made them; labels are numbered by the class names of both."""
    classes = tuple(dict.fromkeys((*first.class_names, *second.class_names)))
    labels = relabelled(second, classes)
    return Embedding(
        np.zeros((0, first.features.shape[1]), np.float32),
        (*first.names, *second.names),
        np.concatenate([relabelled(first, classes), labels]),
        classes,
        (*first.paths, *second.paths),
        np.concatenate([first.sizes, second.sizes]),
        np.concatenate([first.digests, second.digests]),
        {},
    )


def relabelled(embedding: Embedding, class_names: Sequence[str]) -> np.ndarray:
    """The labels int32 [N] as numbers of other class names; -1 for a class that is not among them."""
    places = {name: number for number, name in enumerate(class_names)}
    table = np.asarray([*(places.get(name, -1) for name in embedding.class_names), -1], np.int32)
    return table[np.where(embedding.labels >= 0, embedding.labels, len(table) - 1)]


def _write_npz(path: pathlib.Path, blocks: Iterable[Rows], text: str, num_rows: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for position, field in enumerate(Rows._fields):
            parts = [np.asarray(block[position])[:0] for block in blocks]
            # Text has the width of its longest row.
            dtype = np.result_type(*{part.dtype for part in parts})
            shape = (num_rows, *parts[0].shape[1:])
            with archive.open(zipfile.ZipInfo(f"{field}.npy", _EPOCH), "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for block in blocks:
                    member.write(np.ascontiguousarray(block[position], dtype).tobytes())
        with archive.open(zipfile.ZipInfo("meta.npy", _EPOCH), "w") as member:
            np.lib.format.write_array(member, np.asarray(text), allow_pickle=False)


def _read_npz(path: pathlib.Path) -> tuple[Rows, str]:
    small = read_arrays(path, (*Rows._fields[1:], "meta"))
    text = str(small.pop("meta"))
    return Rows(features=_mapped(path, "features.npy"), **small), text


def read_arrays(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a file `.npz`, none of which may hold Python objects.

    Raises:
        ValueError, OSError: it is no such file, in words for people who do not know NumPy.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("its content is no .npz, or only a part of one")
    with np.load(path, allow_pickle=False) as archive:
        missing = [name for name in names if name not in archive]
        if missing:
            raise ValueError(f"it holds no {missing[0]}")
        try:
            return {name: archive[name] for name in names}
        except ValueError as error:  # NumPy's own words advise to load them all the same
            raise ValueError("it holds Python objects, or is damaged") from error


def _mapped(path: pathlib.Path, name: str) -> np.ndarray:
    """An uncompressed array of an archive, read from the disk when it is used."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        file.seek(info.header_offset)
        # A local header: 30 bytes, of which the last four are the lengths of its name and its extra field.
        lengths = struct.unpack("<HH", file.read(30)[26:])
        file.seek(info.header_offset + 30 + sum(lengths))
        np.lib.format.read_magic(file)
        shape, order, dtype = np.lib.format.read_array_header_1_0(file)
        if not shape[0]:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape, order="F" if order else "C")


def _parquet() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise base.InputError(
            "files .parquet need the Python package pyarrow; it is not installed. Install it with: pip install "
            "'simclr-jax[use]', or write .npz."
        ) from error
    return pyarrow, pyarrow.parquet


def _write_parquet(path: pathlib.Path, blocks: Iterable[Rows], text: str) -> None:
    arrow, parquet = _parquet()
    classes = json.loads(text).get("class_names", [])
    first, rest = _peeked(blocks)
    schema = _to_table(arrow, first, classes).schema.with_metadata({_META: json.dumps(json.loads(text))})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in itertools.chain([first], rest):
            writer.write_table(_to_table(arrow, block, classes).cast(schema))


def _peeked(blocks: Iterable[Rows]) -> tuple[Rows, Iterator[Rows]]:
    rest = iter(blocks)
    return next(rest), rest


def _to_table(arrow: ModuleType, rows: Rows, classes: list[str]) -> Any:
    width = rows.features.shape[1]
    flat = arrow.array(np.ascontiguousarray(rows.features).reshape(-1))
    return arrow.table(
        {
            "id": arrow.array([base.as_utf8(name) for name in rows.names.tolist()], arrow.string()),
            "path": arrow.array([base.as_utf8(path) for path in rows.paths.tolist()], arrow.string()),
            "label": arrow.array(rows.labels, arrow.int32()),
            "class": arrow.array([base.as_utf8(classes[k]) if k >= 0 else None for k in rows.labels], arrow.string()),
            "height": arrow.array(rows.sizes[:, 0], arrow.int32()),
            "width": arrow.array(rows.sizes[:, 1], arrow.int32()),
            "digest": arrow.array(rows.digests, arrow.uint64()),
            "feature": arrow.FixedSizeListArray.from_arrays(flat, width),
        }
    )


def _read_parquet(path: pathlib.Path) -> tuple[Rows, str]:
    _, parquet = _parquet()
    table = parquet.read_table(path)
    column = {name: table[name].combine_chunks() for name in table.column_names if name != "class"}
    feature = column["feature"]
    width = feature.type.list_size
    features = feature.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    sizes = np.stack([column[name].to_numpy() for name in ("height", "width")], axis=1)
    names, paths = (np.asarray(column[name].to_pylist(), str) for name in ("id", "path"))
    label, digest = column["label"].to_numpy(), column["digest"].to_numpy()
    text = table.schema.metadata[_META.encode()].decode()
    return Rows(features, names, label, paths, sizes, digest), text
