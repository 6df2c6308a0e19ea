"""Digests of the blocks of a large array on disk, by which a part of it can be compared without reading it whole."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

_BLOCK_BYTES = 2**24
_short = functools.partial(hashlib.blake2b, digest_size=8)


class Digests:
    """Collects the digests of rows that are written one after the other, in parts of any length.

    Args:
        make_hash: the digest of a block, as hashlib's; eight bytes of BLAKE2b by default.
    """

    def __init__(self, make_hash: Callable[[], Any] = _short) -> None:
        self._make, self._hash, self._rows, self._found = make_hash, make_hash(), 0, list[bytes]()

    def add(self, rows: np.ndarray) -> None:
        """Takes rows [n, ...] of one dtype that follow those before."""
        length = rows_of_block(rows)
        while len(rows):
            part = rows[: length - self._rows]
            self._hash.update(np.ascontiguousarray(part).data)
            self._rows += len(part)
            rows = rows[len(part) :]
            if self._rows == length:
                self._close()

    def _close(self) -> None:
        self._found.append(self._hash.digest())
        self._hash, self._rows = self._make(), 0

    def joined(self) -> bytes:
        """The digests of all blocks so far, one after the other; no more rows may be added."""
        if self._rows:
            self._close()
        return b"".join(self._found)

    def result(self) -> np.ndarray:
        """uint64 [blocks] of all rows so far, of digests of eight bytes; no more may be added."""
        return np.frombuffer(self.joined(), np.uint64)


def rows_of_block(rows: np.ndarray) -> int:
    """How many rows of an array like this one make a block."""
    return max(1, _BLOCK_BYTES // max(1, rows[:1].nbytes))


def differing(array: np.ndarray, digests: np.ndarray, *, most_bytes: int, rng: np.random.Generator) -> list[int]:
    """The blocks, among some drawn at random, of at most so many bytes, that are not those whose digests these are.

    Every look draws others, so that damage anywhere is found after some.

    Args:
        array: uint8 [N, ...], for example memory-mapped.
        digests: uint64 [blocks], from `Digests`.
        most_bytes: to read.
        rng: draws the blocks.
    """
    length = rows_of_block(array)
    count = -(-len(array) // length)
    if len(digests) != count:
        return [min(len(digests), count)]
    chosen = rng.choice(count, size=min(count, max(1, most_bytes // _BLOCK_BYTES)), replace=False)
    bad = []
    for block in sorted(int(number) for number in chosen):
        digest = hashlib.blake2b(np.ascontiguousarray(array[block * length : (block + 1) * length]).data, digest_size=8)
        if np.frombuffer(digest.digest(), np.uint64)[0] != digests[block]:
            bad.append(block)
    return bad
