"""Pictures that carry no information: found while decoding, one sentence each.

A run on black pictures, or on one picture in a thousand copies, trains without a fault and learns nothing.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax.data import decode, imageset

# Levels of 255 between the darkest and the brightest pixel of a channel: one colour, up to the noise of JPEG ...
_ONE_COLOR = 3
# ... and so little that 12 bits read as 16 bits (16 levels) are below it.
_NARROW = 32
_MANY_COPIES = 0.01
_NUM_NAMED = 3


class Content(NamedTuple):
    """What one decoded image holds.

    spread: levels between the darkest and the brightest pixel, of the channel where they differ most.
    digest: equal for equal pixels and size (64 bits).
    levels, has_more: see `decode.Picture`.
    """

    spread: int
    digest: int
    levels: tuple[float, float, float, float] | None
    has_more: bool


def look_at(picture: decode.Picture, canvas: np.ndarray, size: tuple[int, int]) -> Content:
    """What `picture` holds once it is on its canvas: uint8 [c, c, 3], valid up to `size` (height, width)."""
    # Rows first: the inner loop is then long, which makes a small image four times cheaper.
    valid = np.ascontiguousarray(canvas[: size[0], : size[1]]).reshape(size[0], -1)
    highest, lowest = (of_rows.reshape(-1, 3) for of_rows in (valid.max(axis=0), valid.min(axis=0)))
    spread = int((highest.max(axis=0).astype(np.int64) - lowest.min(axis=0)).max())
    digest = hashlib.blake2b(np.asarray(size, "<i4").tobytes(), digest_size=8)
    digest.update(valid.data)
    return Content(spread, int.from_bytes(digest.digest(), "big"), picture.levels, picture.has_more)


def describe(contents: Sequence[Content], ids: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each thing that is odd about the images `ids` with these `contents`; often none."""
    spreads = np.asarray([content.spread for content in contents])
    flat, narrow = np.flatnonzero(spreads <= _ONE_COLOR), np.flatnonzero((spreads > _ONE_COLOR) & (spreads < _NARROW))
    found = []
    if len(flat):
        found.append(f"{_share(flat, ids)} of a single colour, with nothing to learn from")
    if 2 * (len(narrow) + len(flat)) > len(ids) and len(narrow):
        found.append(f"{_share(narrow, ids)} nearly of a single colour (fewer than {_NARROW} of 256 levels)")
    found += [*_describe_levels(contents, ids), *_describe_copies(contents, ids)]
    more = np.flatnonzero([content.has_more for content in contents])
    if len(more):
        found.append(
            f"{_share(more, ids)} the first of several pages or frames in their files; the others are not read"
        )
    return tuple(found)


def _describe_levels(contents: Sequence[Content], ids: Sequence[str]) -> list[str]:
    """Whether pictures of more than 8 bits use little of the range that is shown, or go beyond it."""
    deep = [index for index, content in enumerate(contents) if content.levels]
    if not deep:
        return []
    levels = np.asarray([contents[index].levels for index in deep])
    low, high = float(levels[:, 0].min()), float(levels[:, 1].max())
    black, white = (float(level) for level in levels[0, 2:])
    if low == high or (black <= low and high <= white and high - low >= (white - black) / 4):
        return []
    asked = f"({low:g},{high:g})"
    if 0 <= low < high / 2 and 1 < high < 65536:  # cameras count from 0, by powers of two
        asked = f"(0,{max(255, 2 ** int(high).bit_length() - 1)})"
    return [
        f"{_share(deep, ids)} of more than 8 bits with levels from {low:g} to {high:g}, shown as {black:g} = black to "
        f"{white:g} = white: set sixteen_bit_range={asked}"
    ]


def _describe_copies(contents: Sequence[Content], ids: Sequence[str]) -> list[str]:
    digests = np.asarray([content.digest for content in contents], np.uint64)
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[group] != np.arange(len(digests)))
    if not len(copies) or len(copies) <= _MANY_COPIES * len(ids):
        return []
    example = copies[0]
    names = f"{imageset.printable(ids[example])} = {imageset.printable(ids[first[group[example]]])}"
    all_same = "all the same picture: " if len(first) == 1 else ""
    return [f"{all_same}{len(copies)} of {len(ids)} images are exact copies of another one ({names})"]


def _share(rows: Sequence[int] | np.ndarray, ids: Sequence[str]) -> str:
    """ "3 of 20 images (a, b, c) are"."""
    names = ", ".join(imageset.printable(ids[row]) for row in rows[:_NUM_NAMED])
    dots = ", ..." if len(rows) > _NUM_NAMED else ""
    return f"{len(rows)} of {len(ids)} images ({names}{dots}) are"
