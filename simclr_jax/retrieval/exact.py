"""Exact search among any number of rows: the rows pass the device chunk by chunk, and memory stays bounded."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base

_CHUNK_BYTES = 2**26  # of rows on the device at a time, as float32
_BLOCK_ENTRIES = 2**24  # of similarities at a time
_MAX_QUERIES = 1024


def search(features: np.ndarray, queries: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarities float32 [Q, k], rows int64 [Q, k]): for every query the k most similar rows of all, best first.

    Similarity is the cosine, in [-1, 1]; a row of zeros has similarity 0 to everything. Of equal similarities the lower
    row comes first. Unlike `probes.neighbors` the rows need not fit on the device: about 200 MB are used whatever N is.

    Args:
        features: [N, D], any floating type; may be a memory map.
        queries: [Q, D].
        k: from 1 to N.

    Raises:
        InputError: k is not in [1, N], or the widths of the two arrays differ.

    Example:
        >>> similarities, rows = retrieval.search(np.eye(3), np.asarray([[0.9, 0.1, 0.0]]), k=2)
        >>> rows.tolist()
        [[0, 1]]
    """
    check_rows(features, queries)
    if not 1 <= k <= len(features):
        raise base.InputError(f"k must lie in [1, number of rows]; got {k} and {len(features)}. Use a smaller k.")
    similarities = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    length = chunk_rows(features)
    for start, block, num in query_blocks(queries, length):
        best = jnp.full((len(block), k), -jnp.inf, jnp.float32), jnp.zeros((len(block), k), jnp.int32)
        for first, chunk, valid in chunks(features, length):
            best = _merge(best, block, chunk, (jnp.int32(first), jnp.int32(valid)), k=k)
        similarities[start : start + num], rows[start : start + num] = (np.asarray(part)[:num] for part in best)
    return similarities, rows


def search_others(features: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarities float32 [N, k], rows int64 [N, k]): for every row the k most similar other ones, best first.

    Args:
        features: [N, D], see `search`. k: from 1 to N - 1.

    Raises:
        InputError: k is not in [1, N - 1].

    Example:
        >>> retrieval.search_others(np.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), k=1)[1].tolist()
        [[1], [0], [1]]
    """
    if not 1 <= k < len(features):
        raise base.InputError(f"k must lie in [1, number of other rows]; got {k} and {len(features) - 1}. Change k.")
    return without_self(*search(features, np.asarray(features), k=k + 1))


def without_self(similarities: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a search by all rows themselves found, [N, k + 1] each, without the row itself: [N, k] each.

    Example:
        >>> retrieval.without_self(np.ones((2, 2)), np.asarray([[0, 1], [0, 1]]))[1].tolist()
        [[1], [0]]
    """
    count, k = rows.shape[0], rows.shape[1] - 1
    own = rows == np.arange(count)[:, None]
    # Among equal rows a row itself may be missing, and then the last goes.
    own[~own.any(axis=1), -1] = True
    return similarities[~own].reshape(count, k), rows[~own].reshape(count, k)


def check_rows(features: np.ndarray, queries: np.ndarray) -> None:
    """Raises InputError unless both are [rows, D] of the same width, with rows to search in."""
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1] or not len(features):
        raise base.InputError(
            f"features must be two arrays [rows, D] of the same width; got shapes {features.shape} and {queries.shape}."
            " Use features of the same encoder and layer."
        )
    if len(features) >= 2**31:
        raise base.InputError(f"search takes fewer than 2**31 rows; got {len(features)}. Split them.")


def chunk_rows(features: np.ndarray) -> int:
    """How many rows are on the device at a time: a power of two, so that sets of similar size share one program."""
    most = max(1, min(_CHUNK_BYTES // (4 * features.shape[1]), len(features)))
    return min(1 << (most - 1).bit_length(), max(1, _CHUNK_BYTES // (4 * features.shape[1])))


def chunks(features: np.ndarray, length: int) -> Iterator[tuple[int, jax.Array, int]]:
    """(number of the first row, rows of length 1 [length, D] float32 on the device, how many of them there are)."""
    for start in range(0, len(features), length):
        yield start, _unit(_padded(features[start : start + length], length)), min(length, len(features) - start)


def query_blocks(queries: np.ndarray, length: int) -> Iterator[tuple[int, jax.Array, int]]:
    """The queries as `chunks`, in blocks whose similarities to a chunk of `length` rows fit in memory."""
    most = max(1, min(_MAX_QUERIES, _BLOCK_ENTRIES // length))
    rows = min(1 << (most.bit_length() - 1), 1 << max(0, len(queries) - 1).bit_length())
    return chunks(queries, rows)


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.asarray(rows, np.float32), ((0, length - len(rows)), (0, 0)))


@jax.jit
def _unit(rows: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norms > 0, norms, jnp.ones_like(norms))


def similarities(block: jax.Array, chunk: jax.Array) -> jax.Array:
    """Cosines [q, n] of unit rows; full float32 products also on accelerators, as near neighbours differ by little."""
    return jnp.matmul(block, chunk.T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="k")
def _merge(
    best: tuple[jax.Array, jax.Array], block: jax.Array, chunk: jax.Array, place: tuple[jax.Array, jax.Array], *, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k best of those so far and of a chunk that begins at row place[0] and has place[1] rows."""
    first, valid = place
    number = jax.lax.iota(jnp.int32, chunk.shape[0])
    scores = jnp.where(number < valid, similarities(block, chunk), -jnp.inf)
    top, at = jax.lax.top_k(scores, min(k, chunk.shape[0]))
    # Earlier rows stand in front, and top_k takes the first of equals.
    scores = jnp.concatenate([best[0], top], axis=1)
    rows = jnp.concatenate([best[1], at.astype(jnp.int32) + first], axis=1)
    top, at = jax.lax.top_k(scores, k)
    return top, jnp.take_along_axis(rows, at, axis=1)
