"""Files of features: one row a picture, with what it is and where it lies, and what the features were made by.

`.npz` is read by NumPy alone, its features memory-mapped; `.parquet` (pyarrow) by Pandas, Polars and DuckDB. The same
rows give the same bytes. A file is written row block by row block and appears whole. It holds a digest of its features,
which is compared whenever it is read; the other columns have the checksums of the zip archive or of Parquet's pages.
"""

import contextlib
import itertools
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import IO, Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, base
from simclr_jax.run import array_files, feature_checks, feature_digest

ENDINGS = (".npz", ".parquet")
FORMAT = "simclr-jax.features.v1"
_META, _DIGEST = "simclr_jax", "features_digest"
_ROW_GROUP = 4096  # rows that are written to Parquet together, however they come
# What must be equal for features to be compared with each other: in the metadata, and of the encoder's settings.
_ALIKE, _ALIKE_SETTINGS = ("fingerprint", "layer", "protocol"), ("mean", "std")
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
    meta: what made the features: format, fingerprint of the weights, source, layer, protocol, images, skipped ...;
        "features_digest" of a file's, none of one made before there were any.
    """

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...] = ()
    sizes: np.ndarray = np.zeros((0, 2), np.int32)
    digests: np.ndarray = np.zeros(0, np.uint64)
    meta: Mapping[str, Any] = {}


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
        blocks: asked for once; at least one, of one dtype. Their lengths change no byte of the file.
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
        base.InputError: no such file, not one of ours, or a damaged one, by its digest; features that are not finite.
            The message names `flag`.
    """
    target = pathlib.Path(path)
    rule = f"{flag} must be a file that simclr-jax embed wrote"
    if not target.is_file():
        raise base.InputError(f"{rule}; there is no {target}. Make it: simclr-jax embed --output={target}")
    try:
        rows, text, digest = (_read_parquet if target.suffix.lower() == ".parquet" else _read_npz)(target)
        meta = base.parse_json(text, object_hook=_Said)
        feature_checks.check_said(meta)
        if digest:
            meta[_DIGEST] = digest
        if meta.get("format") != FORMAT:
            raise ValueError(f"its format is {str(meta.get('format'))[:60]}")
        feature_checks.check_columns(rows._asdict(), num_classes=len(meta.get("class_names", ())))
        _check_content(rows, meta.get(_DIGEST))
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


def check_alike(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, rule: str, remedy: str) -> None:
    """Raises InputError, of `rule`, what differs and `remedy`, unless features with these `meta` can be compared.

    That is: they are of the same weights, layer, way of preparing pictures, views and normalisation.
    """
    pairs = [(name, mine.get(name), theirs.get(name)) for name in _ALIKE]
    settings = [meta.get("encoder", {}) for meta in (mine, theirs)]
    pairs += [(name, *(own[name] for own in settings)) for name in _ALIKE_SETTINGS if all(name in s for s in settings)]
    for name, own, other in pairs:
        if own != other:
            shown = (base.one_line(str(value), 60) for value in (other, own))
            raise base.InputError(f"{rule}; their {name} is {' and not '.join(shown)}. {remedy}")


def _check_content(rows: Rows, digest: str | None) -> None:
    found = feature_digest.look(rows.features)
    if digest and found.digest != digest:
        raise ValueError("its features are not those that were written, by their digest")
    if found.bad_row >= 0:
        raise ValueError(f"the features of {rows.names[found.bad_row]} are not finite numbers")


def _write_npz(path: pathlib.Path, blocks: Iterable[Rows], text: str, num_rows: int) -> None:
    first, rest = _peeked(blocks)
    digest, others = feature_digest.Digest(), list[tuple[np.ndarray, ...]]()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with _member(archive, "features", first.features.dtype, (num_rows, *first.features.shape[1:])) as member:
            for block in itertools.chain([first], rest):
                features = np.ascontiguousarray(block.features, first.features.dtype)
                digest.add(features)
                member.write(features.tobytes())
                others.append(block[1:])
        for field, parts in zip(Rows._fields[1:], zip(*others, strict=True), strict=True):
            column = np.concatenate(parts)  # text has the width of its longest row
            with _member(archive, field, column.dtype, column.shape) as member:
                member.write(column.tobytes())
        with archive.open(zipfile.ZipInfo("meta.npy", _EPOCH), "w") as member:
            said = json.dumps({**base.parse_json(text), _DIGEST: digest.result()}, ensure_ascii=False)
            np.lib.format.write_array(member, np.asarray(said), allow_pickle=False)


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """An array of an archive, its header written."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _read_npz(path: pathlib.Path) -> tuple[Rows, str, str | None]:
    small = array_files.read_arrays(path, (*Rows._fields[1:], "meta"))
    text = str(small.pop("meta"))
    return Rows(features=array_files.map_array(path, "features"), **small), text, None


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
    classes = base.parse_json(text).get("class_names", [])
    first, rest = _peeked(_regrouped(blocks, _ROW_GROUP))
    # Escaped, as names that are not UTF-8 would not go into the file.
    schema = _to_table(arrow, first, classes).schema.with_metadata({_META: json.dumps(base.parse_json(text))})
    digest = feature_digest.Digest()
    with parquet.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for block in itertools.chain([first], rest):
            writer.write_table(_to_table(arrow, block, classes).cast(schema))
            digest.add(block.features)
        writer.add_key_value_metadata({_DIGEST: digest.result()})


def _regrouped(blocks: Iterable[Rows], length: int) -> Iterator[Rows]:
    """The same rows in blocks of `length`, the last one shorter."""
    held, count = list[Rows](), 0
    for block in blocks:
        while len(block.labels):
            held.append(Rows(*(column[: length - count] for column in block)))
            block = Rows(*(column[length - count :] for column in block))
            count += len(held[-1].labels)
            if count == length:
                yield Rows(*map(np.concatenate, zip(*held, strict=True)))
                held, count = [], 0
    if held:
        yield Rows(*map(np.concatenate, zip(*held, strict=True)))


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


def _read_parquet(path: pathlib.Path) -> tuple[Rows, str, str | None]:
    arrow, parquet = _parquet()
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        _check_parquet(arrow, file, path.stat().st_size)
        table, more = file.read(), file.metadata.metadata or {}
    column = {name: table[name].combine_chunks() for name in table.column_names if name != "class"}
    feature = column["feature"]
    width = feature.type.list_size
    features = feature.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    sizes = np.stack([column[name].to_numpy() for name in ("height", "width")], axis=1)
    names, paths = (np.asarray(column[name].to_pylist(), str) for name in ("id", "path"))
    label, digest = column["label"].to_numpy(), column["digest"].to_numpy()
    text = table.schema.metadata[_META.encode()].decode()
    kept = more.get(_DIGEST.encode())
    return Rows(features, names, label, paths, sizes, digest), text, None if kept is None else kept.decode()


def _check_parquet(arrow: ModuleType, file: Any, num_bytes: int) -> None:
    """Raises ValueError where text is none, a value is missing where none may, or rows are too many for the bytes."""
    schema, rows = file.schema_arrow, file.metadata.num_rows
    texts = (arrow.string(), arrow.large_string())  # other programs write the latter
    wrong = [name for name in ("id", "path") if schema.field(name).type not in texts]
    if wrong:
        raise ValueError(f"its {wrong[0]} is no text")
    width = schema.field("feature").type.list_size
    feature_checks.check_expansion(num_bytes=num_bytes, unpacked=rows * (4 * width + 64))
