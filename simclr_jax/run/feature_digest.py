"""The digest of features, by which a damaged file is known: SHA-256 over the SHA-256 of blocks, so that threads share.

Measured on an Intel Xeon (29 November 2026): 1.5 CPU seconds for 1 GB of float32 or float16, of which SHA-256 is 1.0
and the look for NaN 0.2 to 0.5. That is shared by the cores, and little beside what a verb does with the features.
"""

import concurrent.futures
import hashlib
import os
from typing import NamedTuple

import numpy as np

from simclr_jax.data import block_digests

_THREADS = 4


class Look(NamedTuple):
    """What is found in features: their digest (hex), and the first row with a number that is not finite, -1 if none."""

    digest: str
    bad_row: int


class Digest:
    """Collects the digest of rows [n, D] of one dtype that are written one after the other, in parts of any length."""

    def __init__(self) -> None:
        self._blocks, self._kind = block_digests.Digests(hashlib.sha256), ""

    def add(self, rows: np.ndarray) -> None:
        """Takes the rows that follow those before."""
        self._kind = _kind(rows)
        self._blocks.add(rows)

    def result(self) -> str:
        """Of all rows so far, hex; no more may be added."""
        return hashlib.sha256(self._blocks.joined() + self._kind.encode()).hexdigest()


def look(features: np.ndarray) -> Look:
    """Reads features [N, D] once, block by block: a memory map may be larger than memory."""
    length = block_digests.rows_of_block(features)

    def read(start: int) -> tuple[bytes, int]:
        block = np.array(features[start : start + length])  # a copy, as a file's rows are not aligned
        finite = _is_finite(block)
        bad = -1 if finite.all() else start + int(np.argmin(finite.all(axis=1)))
        return hashlib.sha256(block.data).digest(), bad

    digest, bad_row = hashlib.sha256(), -1
    with concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for found, bad in pool.map(read, range(0, len(features), length)):
            digest.update(found)
            bad_row = bad if bad_row < 0 else bad_row
    digest.update(_kind(features).encode())
    return Look(digest.hexdigest(), bad_row)


def _is_finite(block: np.ndarray) -> np.ndarray:
    """As `np.isfinite`, which is slow for float16: an exponent of ones is no number."""
    if block.dtype == np.float16:
        return (block.view(np.uint16) & 0x7C00) != 0x7C00
    return np.isfinite(block)


def _kind(rows: np.ndarray) -> str:
    return f"{rows.dtype.newbyteorder('<').str}{list(rows.shape[1:])}"
