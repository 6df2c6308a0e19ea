"""A prepared data set: what is in it, and whether it still is."""

import concurrent.futures
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from simclr_jax import base
from simclr_jax.data.prepare import shard

RECORD = "prepared.json"


class Prepared(NamedTuple):
    """A prepared data set.

    folder: where its files lie, OUTPUT/NAME[/CONFIG]/VERSION.
    name: for `tfds:NAME`, NAME[/CONFIG].
    splits: split -> its number of examples.
    class_counts: split -> class name -> number of its examples.
    fingerprint: 64 hexadecimal digits: equal for equal records, however they are spread over files.
    refused: "split/name: reason" for each example that was left out.
    changed: "split/name: how" for each image that is not stored as it was.
    remarks: a sentence for each thing that may not be meant so.
    understood: one line: what was found.
    """

    folder: str
    name: str
    splits: dict[str, int]
    class_counts: dict[str, dict[str, int]]
    fingerprint: str
    refused: tuple[str, ...]
    changed: tuple[str, ...]
    remarks: tuple[str, ...]
    understood: str


def read_record(folder: pathlib.Path) -> dict[str, Any]:
    """What `prepare` wrote about the data set in this folder.

    Raises:
        base.InputError: there is no such file.
    """
    try:
        record: dict[str, Any] = base.parse_json((folder / RECORD).read_text(encoding="utf-8"))
        return record
    except (OSError, ValueError) as error:
        raise base.InputError(
            f"a prepared data set must have a readable {RECORD}; {folder} has none. Remove the folder, or choose "
            "another output."
        ) from error


def verify(folder: str | os.PathLike[str], *, num_threads: int | None = None) -> Prepared:
    """Reads every record of a data set made by `prepare` and compares it with what was written then.

    Args:
        folder: of the data set, with `prepared.json` in it.
        num_threads: None for one a core.

    Raises:
        base.InputError: not such a folder, or a file that has changed or is missing: it is named.
    """
    place = pathlib.Path(folder)
    shards = [
        (split, file, *expected)
        for split, values in read_record(place)["splits"].items()
        for file, expected in values["shards"].items()
    ]

    def total(row: tuple[str, str, int, str]) -> int:
        return shard.digest_file(place / row[1], split=row[0])

    with concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
        for (_, file, _, expected), found in zip(shards, pool.map(total, shards), strict=True):
            if f"{found:064x}" != expected:
                raise base.InputError(
                    f"a prepared file must hold what was written; {place / file} is damaged or missing. Remove the "
                    "folder and prepare it again."
                )
    return load(place)


def load(folder: pathlib.Path) -> Prepared:
    """The data set in this folder, by what was written about it."""
    record = read_record(folder)
    splits: Mapping[str, Mapping[str, Any]] = record["splits"]
    total = sum(int(digest, 16) for values in splits.values() for _, digest in values["shards"].values())
    info = base.parse_json((folder / "dataset_info.json").read_text(encoding="utf-8"))
    return Prepared(
        folder=str(folder),
        name="/".join(part for part in (info["name"], info.get("configName")) if part),
        splits={name: sum(n for n, _ in values["shards"].values()) for name, values in splits.items()},
        class_counts={name: dict(sorted(values["class_counts"].items())) for name, values in splits.items()},
        fingerprint=f"{total % 2**256:064x}",
        refused=tuple(f"{name}/{line}" for name, values in splits.items() for line in values["refused"]),
        changed=tuple(f"{name}/{line}" for name, values in splits.items() for line in values["changed"]),
        remarks=tuple(record["remarks"]),
        understood=record["understood"],
    )
