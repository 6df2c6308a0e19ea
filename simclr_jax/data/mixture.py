"""`mix:SET*WEIGHT,SET*WEIGHT`: several sets on disk as one, which holds every example once.

How often training visits an example is left to `order`, which goes by the weights.
"""

import bisect
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import imageset, layout, order

_LARGEST = 2**31  # of `order.epoch_permutation`


class Part(NamedTuple):
    """A set of a mix by its own name, and how many times an epoch holds each of its examples."""

    name: str
    weight: float


def parse(text: str, *, names: Collection[str], on_disk: Mapping[str, str]) -> tuple[Part, ...]:
    """The sets that stand behind "mix:".

    A comma ends a set where the name of another one follows (KIND: or a built-in set), else it belongs to a path. What
    follows the last star of a set is its weight, so that a path with a star needs one.

    Args:
        text: "SET*WEIGHT,SET".
        names: of all kinds of data sets.
        on_disk: the kinds that can be mixed, with how they are written.

    Raises:
        base.InputError: no set, one that cannot be mixed or comes twice, or a weight that is no number above 0.
    """
    pieces: list[str] = []
    for piece in text.split(","):
        if not pieces or _begins_set(piece.strip(), names):
            pieces.append(piece)
        else:
            pieces[-1] += "," + piece
    parts = tuple(_parse_part(piece.strip()) for piece in pieces)
    for part in parts:
        kind, colon, _ = part.name.partition(":")
        if not colon or kind not in on_disk:
            raise base.InputError(
                f"a mix is of sets on disk ({', '.join(on_disk.values())}); got {imageset.printable(part.name)!r}. "
                "Write for example mix:folder:PATH*2,tfds:NAME."
            )
    if len({part.name for part in parts}) < len(parts):
        raise base.InputError(
            f"a mix holds each set once; got {imageset.printable(text)}. Give the set a larger weight."
        )
    return parts


def _begins_set(piece: str, names: Collection[str]) -> bool:
    return bool(re.match(r"[a-z][a-z0-9-]+:", piece)) or piece.rpartition("*")[0] in names or piece in names


def _parse_part(piece: str) -> Part:
    name, star, number = piece.rpartition("*")
    if not star:
        return Part(piece, 1.0)
    name, number = name.strip(), number.strip()
    if not re.fullmatch(r"\d{1,9}(\.\d*)?|\.\d+", number) or not float(number) > 0:
        raise base.InputError(
            "in a mix the last * of a set is followed by its weight, a number above 0; got "
            f"{imageset.printable(piece)!r}. Write for example folder:PATH*2, also where PATH has a * of its own."
        )
    return Part(name, float(number))


def mix_name(parts: Sequence[Part]) -> str:
    """The name of a mix: what `parse` reads, with "mix:".

    Example:
        >>> data.mix_name(data.parts_of("mix:folder:photos*2, tfds:cifar10"))
        'mix:folder:photos*2,tfds:cifar10*1'
    """
    return "mix:" + ",".join(f"{part.name}*{_digits(part.weight)}" for part in parts)


def _digits(weight: float) -> str:
    return np.format_float_positional(weight, trim="-")


def open_mix(
    parts: Sequence[Part], split: str, *, open_part: Callable[[str, str], imageset.Encoded]
) -> imageset.Encoded:
    """The examples of all sets in one split, those of the first set first, not yet decoded.

    Classes of the same name are one, those of the first set first; a label without a name counts as none. Ids are
    "NUMBER/ID", by the place of the set in the mix. A split for tests is of all sets that have it.

    Args:
        parts: the sets.
        split: of every set.
        open_part: (name, split) -> that set.

    Raises:
        base.InputError: a set cannot be read, has no such split, or an epoch would be too long; `imageset.EmptySplit`:
            a split for tests that no set has.
    """
    is_test = layout.split_role(split) in ("test", "valid")
    opened, missing, class_names = _open_parts(parts, split, is_test=is_test, open_part=open_part)
    title = imageset.printable(",".join(part.name for part in parts))
    title = f"mix:{title}, split {imageset.printable(split)!r}"
    if not opened:
        raise imageset.EmptySplit(f"{title} must be in one set at least; got none. Add images.")
    adapted = tuple(_adapt(encoded, number, class_names=class_names) for number, encoded in opened.items())
    weights = tuple(parts[number].weight for number in opened)
    lengths = [order.num_occurrences(weight, len(part.ids)) for weight, part in zip(weights, adapted, strict=True)]
    if sum(lengths) >= _LARGEST:
        raise base.InputError(f"an epoch holds less than 2**31 images; got {sum(lengths)}. Lower the weights.")
    shares = ["" if is_test else _tell_share(*known, sum(lengths)) for known in zip(weights, lengths, strict=True)]
    told = [part.understood + share for part, share in zip(adapted, shares, strict=True)]
    told += [f"{imageset.printable(parts[number].name)}: no images in the split {split!r}" for number in missing]
    return _join(adapted, title=title, class_names=class_names)._replace(weights=weights, understood="\n".join(told))


def _open_parts(
    parts: Sequence[Part], split: str, *, is_test: bool, open_part: Callable[[str, str], imageset.Encoded]
) -> tuple[dict[int, imageset.Encoded], list[int], tuple[str, ...]]:
    """(number -> set, numbers of those without this split, class names of all sets)."""
    opened, missing = {}, []
    class_names: dict[str, None] = {}
    for number, part in enumerate(parts):
        try:
            encoded = opened[number] = open_part(part.name, split)
        except imageset.EmptySplit:
            if not is_test:
                raise
            missing.append(number)
            encoded = open_part(part.name, "train")  # for its classes: labels mean the same in all splits
        class_names |= dict.fromkeys(encoded.class_names)
    return opened, missing, tuple(class_names)


def _tell_share(weight: float, length: int, total: int) -> str:
    return f"; weight {weight:g}: {length:,} of {total:,} images of an epoch ({length / total:.1%})"


def _adapt(part: imageset.Encoded, number: int, *, class_names: tuple[str, ...]) -> imageset.Encoded:
    """A set with the labels of the mix, and ids that no other set has."""
    place = {name: label for label, name in enumerate(class_names)}
    table = (*(place[name] for name in part.class_names), -1)  # the last one is for every other label
    fetch = functools.partial(_relabelled, read=part.fetch or part.read, table=table)
    read, block, labels = functools.partial(_relabelled, read=part.read, table=table), part.read_block, part.labels

    def read_block(indices: range) -> list[tuple[bytes, int] | Exception]:
        assert block is not None
        return [
            found if isinstance(found, Exception) else (found[0], _new_label(found[1], table))
            for found in block(indices)
        ]

    return part._replace(
        class_names=class_names,
        ids=[f"{number + 1}/{name}" for name in part.ids],
        read=read,
        read_block=None if block is None else read_block,
        locate=part.locate or (lambda index: index),
        fetch=fetch,
        labels=None if labels is None else lambda: np.asarray([_new_label(n, table) for n in labels()], np.int32),
        key=_digest(part.key, class_names),
        identity=_digest(part.identity, class_names),
        warnings=tuple(f"{part.title}: {warning}" for warning in part.warnings),
    )


def _new_label(label: int, table: tuple[int, ...]) -> int:
    return table[label] if 0 <= label < len(table) else -1


def _relabelled(where: Any, read: Callable[[Any], tuple[bytes, int]], table: tuple[int, ...]) -> tuple[bytes, int]:
    content, label = read(where)
    return content, _new_label(label, table)


def _join(parts: tuple[imageset.Encoded, ...], *, title: str, class_names: tuple[str, ...]) -> imageset.Encoded:
    """The sets one after another."""
    starts = [0, *itertools.accumulate(len(part.ids) for part in parts)]

    def find(index: int) -> tuple[int, int]:
        number = bisect.bisect_right(starts, index) - 1
        return number, index - starts[number]

    def read(index: int) -> tuple[bytes, int]:
        number, own = find(index)
        return parts[number].read(own)

    def locate(index: int) -> tuple[int, Any]:
        number, own = find(index)
        place = parts[number].locate
        assert place is not None
        return number, place(own)

    def read_block(indices: range) -> list[tuple[bytes, int] | Exception]:
        found: list[tuple[bytes, int] | Exception] = []
        for part, start in zip(parts, starts, strict=False):
            own = range(max(indices.start - start, 0), min(indices.stop - start, len(part.ids)))
            found += part.read_block(own) if part.read_block and own else map(_read_or_error(part), own)
        return found

    fetches = tuple(part.fetch or part.read for part in parts)
    return imageset.Encoded(
        title=title,
        key=_digest(*(part.key for part in parts)),
        class_names=class_names,
        ids=[name for part in parts for name in part.ids],
        canvas_size=lambda: max(part.canvas_size() for part in parts),
        read=read,
        rules=parts[0].rules,
        warnings=tuple(warning for part in parts for warning in part.warnings),
        locate=locate,
        fetch=functools.partial(_fetch, fetches=fetches),
        identity=_digest(*(part.identity for part in parts)),
        labels=_joined_labels(parts),
        read_block=read_block if any(part.read_block for part in parts) else None,
        parts=parts,
    )


def _joined_labels(parts: Sequence[imageset.Encoded]) -> Callable[[], np.ndarray] | None:
    known = [part.labels for part in parts if part.labels is not None]
    return (lambda: np.concatenate([labels() for labels in known])) if len(known) == len(parts) else None


def _read_or_error(part: imageset.Encoded) -> Callable[[int], tuple[bytes, int] | Exception]:
    def read(index: int) -> tuple[bytes, int] | Exception:
        try:
            return part.read(index)
        except Exception as error:  # raised where the example is used
            return error

    return read


def _fetch(place: tuple[int, Any], fetches: tuple[Callable[[Any], tuple[bytes, int]], ...]) -> tuple[bytes, int]:
    """(bytes, label) of an example at (number of the set, place in it); worker processes call it."""
    number, own = place
    return fetches[number](own)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(["mix", *values]).encode()).hexdigest()
