"""What is to be prepared: every example of every split by name, place and label, before its bytes are read."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# A shard is what is finished or made again after a stop, and what one thread works on.
_SHARD_BYTES = 2**23
_MAX_SHARDS = 1024
# Shards are filled by a hash; from this many examples on, none is empty.
_MIN_EXAMPLES = 64


class Item(NamedTuple):
    """One example before it is read.

    name: unique within its split.
    path, offset, num_bytes: where its bytes lie: a whole file, or a part of an archive.
    labels: one for each of `Plan.labels`; -1 = none.
    mtime_ns: of the file, which tells a changed one.
    """

    name: str
    path: str
    offset: int
    num_bytes: int
    labels: tuple[int, ...]
    mtime_ns: int = 0


class Image(NamedTuple):
    """An encoded image, and how it was changed ("" = it was not)."""

    data: bytes
    change: str = ""


class Plan(NamedTuple):
    """A data set to be prepared.

    name, config, version: its name for TFDS: "name[/config]:version"; config may be "".
    splits: split -> its examples.
    labels: label feature -> names of its classes, "label" first; {} = unlabelled.
    name_feature: feature that keeps the examples' names; "" = none.
    shape: (height, width) of every image, or None for mixed sizes.
    to_image: the bytes at an item's place -> the image to keep.
    expected: split -> number of examples that the published set has; {} = unknown.
    understood: one line: what was found.
    encoding: "jpeg" or "png" where all images are that, else "".
    """

    name: str
    version: str
    splits: Mapping[str, Sequence[Item]]
    labels: Mapping[str, tuple[str, ...]]
    understood: str
    config: str = ""
    name_feature: str = ""
    shape: tuple[int, int] | None = None
    to_image: Callable[[bytes], Image] = Image
    expected: Mapping[str, int] = {}
    encoding: str = ""


def full_name(plan: Plan) -> str:
    """ "name/version" or "name/config/version", which is also the folder below the data folder."""
    return "/".join(part for part in (plan.name, plan.config, plan.version) if part)


def spread(items: Sequence[Item]) -> list[list[Item]]:
    """The examples of a split by shards, each in an order without meaning (that of a hash of their names).

    Which shard an example goes to depends on its name and the number of shards alone, so that a changed or removed
    file changes one shard.
    """
    num_bytes = sum(item.num_bytes for item in items)
    count = max(1, min(math.ceil(num_bytes / _SHARD_BYTES), _MAX_SHARDS, len(items) // _MIN_EXAMPLES))
    shards: list[list[tuple[bytes, Item]]] = [[] for _ in range(count)]
    for item in items:
        digest = hashlib.sha256(item.name.encode("utf-8", "surrogateescape")).digest()
        shards[int.from_bytes(digest[:8], "big") % count].append((digest, item))
    return [[item for _, item in sorted(shard)] for shard in shards]


def read_item(item: Item) -> bytes:
    """The bytes at an example's place.

    Raises:
        OSError: they cannot be read, or fewer are there than there were.
    """
    with open(item.path, "rb") as stream:
        stream.seek(item.offset)
        data = stream.read(item.num_bytes)
    if len(data) != item.num_bytes:
        raise OSError(None, "the file has become shorter", item.path)
    return data
