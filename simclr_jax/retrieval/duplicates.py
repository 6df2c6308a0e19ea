"""Pictures that are there twice: equal bytes, and features so near that they hardly are of two pictures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.retrieval import exact

MAX_PAIRS = 5_000_000
_SHARE_OF_ANGLE = 0.25


class Pairs(NamedTuple):
    """Pairs of rows, the most similar first: rows int64 [P, 2] (in both sets, if there are two), similarities [P]."""

    rows: np.ndarray
    similarities: np.ndarray


def equal_pairs(digests: np.ndarray, others: np.ndarray | None = None) -> Pairs:
    """Rows of equal digests, of similarity 1: each row with the first one like it.

    Args:
        digests: uint64 [N].
        others: uint64 [M], for pairs between two sets; None for pairs within one.

    Example:
        >>> retrieval.equal_pairs(np.asarray([7, 5, 7, 7])).rows.tolist()
        [[0, 2], [0, 3]]
    """
    firsts: dict[int, int] = {}
    for row, digest in enumerate(np.asarray(digests).tolist()):
        firsts.setdefault(digest, row)
    asked = digests if others is None else others
    pairs = [(firsts[d], row) for row, d in enumerate(np.asarray(asked).tolist()) if d in firsts]
    if others is None:
        pairs = [(first, row) for first, row in pairs if first != row]
    rows = np.asarray(pairs, np.int64).reshape(-1, 2)
    return Pairs(rows, np.ones(len(rows), np.float32))


def nearest_others(features: np.ndarray, others: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(similarities float32 [N], rows int64 [N]) of the row nearest to every row: in `others`, or among its own others.

    Args:
        features: [N, D], of at least two rows without `others`.
        others: [M, D], or None.

    Raises:
        InputError: shapes do not fit.

    Example:
        >>> retrieval.nearest_others(np.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))[1].tolist()
        [1, 0, 1]
    """
    if others is not None:
        similarities, rows = exact.search(others, features, k=1)
        return similarities[:, 0], rows[:, 0]
    similarities, rows = exact.search_others(features, k=1)
    return similarities[:, 0], rows[:, 0]


def suggest_threshold(nearest: np.ndarray) -> float:
    """A similarity from which two pictures are likely the same one: a quarter of the median angle to the nearest other.

    A rule of thumb that follows the encoder, whose similarities may all lie above 0.9; look at pairs at several scores.

    Args:
        nearest: [N], similarity of every row to its nearest other.

    Example:
        >>> round(retrieval.suggest_threshold(np.asarray([0.5, 0.5, 1.0])), 3)
        0.966
    """
    angles = np.arccos(np.clip(np.asarray(nearest, np.float64), -1, 1))
    return float(np.cos(_SHARE_OF_ANGLE * np.median(angles)))


def near_pairs(features: np.ndarray, others: np.ndarray | None = None, *, threshold: float) -> Pairs:
    """All pairs of at least this similarity: of a row and a later one, or of a row and one of `others`.

    Every pair is looked at, N (N - 1) / 2 or N M products of rows, in blocks of bounded memory.

    Args:
        features: [N, D].
        others: [M, D], or None for pairs within `features`.
        threshold: cosine, in (-1, 1].

    Raises:
        InputError: shapes do not fit, or more than 5 million pairs are that similar.

    Example:
        >>> pairs = retrieval.near_pairs(np.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), threshold=0.9)
        >>> pairs.rows.tolist()
        [[0, 1]]
    """
    within = others is None
    bank = features if others is None else others
    exact.check_rows(bank, features)
    length, found, count = exact.chunk_rows(bank), list[tuple[np.ndarray, np.ndarray]](), 0
    for start, block, num in exact.query_blocks(features, length):
        for first, chunk, valid in exact.chunks(bank, length):
            if within and first + valid <= start:
                continue
            scores, hits = _hits(block, chunk, jnp.float32(threshold))
            if not int(hits):
                continue
            near = np.asarray(scores)[:num, :valid]
            rows, columns = np.nonzero(near >= np.float32(threshold))
            pairs = np.stack([rows + start, columns + first], axis=1)
            later = pairs[:, 0] < pairs[:, 1] if within else np.ones(len(pairs), bool)
            found.append((pairs[later], near[rows, columns][later]))
            count += int(later.sum())
            if count > MAX_PAIRS:
                raise base.InputError(
                    f"threshold must leave at most {MAX_PAIRS} pairs; got {threshold:g}, which leaves more. Raise it."
                )
    rows = np.concatenate([np.zeros((0, 2), np.int64), *(pairs for pairs, _ in found)])
    similarities = np.concatenate([np.zeros(0, np.float32), *(values for _, values in found)])
    order = np.lexsort((rows[:, 1], rows[:, 0], -similarities))
    return Pairs(rows[order], similarities[order])


def group_rows(pairs: np.ndarray, num_rows: int) -> list[list[int]]:
    """The rows that hang together by pairs: groups of two rows or more, the largest first.

    Args:
        pairs: int [P, 2]. num_rows: N.

    Example:
        >>> retrieval.group_rows(np.asarray([[0, 2], [2, 3]]), 5)
        [[0, 2, 3]]
    """
    from scipy import sparse

    ones = np.ones(len(pairs), bool)
    graph = sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(num_rows, num_rows))
    _, group = sparse.csgraph.connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for row in np.unique(pairs).tolist():
        members.setdefault(int(group[row]), []).append(row)
    return sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))


@jax.jit
def _hits(block: jax.Array, chunk: jax.Array, threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
    scores = exact.similarities(block, chunk)
    return scores, jnp.sum(scores >= threshold)
