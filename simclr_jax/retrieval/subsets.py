"""Subsets that stand for a whole set, and the rows that stand apart from it: without labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.retrieval import clusters, exact


class Cover(NamedTuple):
    """rows int64 [k] in the order in which they were chosen; radii float32 [k]: after each choice, the largest distance
    1 - cosine from any row to the nearest chosen one."""

    rows: np.ndarray
    radii: np.ndarray


def k_center(features: np.ndarray, size: int) -> Cover:
    """A diverse subset: each row is the one farthest from those chosen before it, so that none is far from the subset.

    It begins with the row nearest to the mean direction. Any beginning of the result is itself such a subset. Rare
    pictures come early: outliers too, see `outliers`. The rows must fit on the device.

    Args:
        features: [N, D]. size: k, from 1 to N.

    Raises:
        InputError: size is out of range.

    Reference: Gonzalez 1985, within twice the best radius; Sener and Savarese 2018 (core-set). Difference: the distance
    is 1 - cosine.

    Example:
        >>> retrieval.k_center(np.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 2).rows.tolist()
        [1, 2]
    """
    _check_size(size, len(features))
    unit = _unit(np.asarray(features, np.float32))
    mean = unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows, radii = _farthest_first(jnp.asarray(unit), jnp.int32(np.argmax(unit @ mean)), size=size)
    return Cover(np.asarray(rows, np.int64), np.asarray(radii))


def typicality(features: np.ndarray, *, k: int = 20) -> np.ndarray:
    """How much a row is among its like: float32 [N], 1 / the mean distance to its k nearest others.

    The distance is that of directions, sqrt(2 - 2 cosine), at least 1e-6.

    Args:
        features: [N, D], of at least two rows. k: neighbours, at most N - 1 are used.

    Raises:
        InputError: fewer than two rows.

    Reference: Hacohen, Dekel and Weinshall 2022 (TypiClust), equation 4, with K = 20.

    Example:
        >>> values = retrieval.typicality(np.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), k=1)
        >>> int(np.argmin(values))
        2
    """
    if len(features) < 2:
        raise base.InputError(f"typicality needs at least two rows; got {len(features)}. Use more pictures.")
    similarities, _ = exact.search_others(features, k=min(k, len(features) - 1))
    distances = np.sqrt(np.maximum(2 - 2 * similarities.astype(np.float64), 0))
    return (1 / np.maximum(distances.mean(axis=1), 1e-6)).astype(np.float32)


def typical_rows(features: np.ndarray, size: int, *, seed: int = 0) -> np.ndarray:
    """A subset to label first: the most typical row of each of `size` clusters, int64 [size], the largest first.

    Args:
        features: [N, D]. size: from 1 to N. seed: of k-means.

    Raises:
        InputError: size is out of range, or scikit-learn is missing.

    Reference: Hacohen et al. 2022 (TypiClust), without labels at the start; neighbours are counted within the cluster.

    Example:
        >>> rows = retrieval.typical_rows(np.repeat(np.eye(2), 4, axis=0) + 0.01 * np.arange(16).reshape(8, 2), 2)
        >>> sorted(int(row) // 4 for row in rows)
        [0, 1]
    """
    _check_size(size, len(features))
    found = clusters.cluster_rows(features, size, seed=seed)
    members = [np.flatnonzero(found.assignments == cluster) for cluster in range(size)]
    members = sorted((rows for rows in members if len(rows)), key=lambda rows: (-len(rows), rows[0]))
    chosen = [rows[np.argmax(typicality(np.asarray(features[rows])))] if len(rows) > 1 else rows[0] for rows in members]
    return np.asarray(chosen, np.int64)


def outliers(features: np.ndarray, num: int, *, k: int = 20) -> np.ndarray:
    """The `num` least typical rows, int64, the most unusual first: strange pictures, and often broken ones.

    Args:
        features: [N, D]. num: from 1 to N. k: neighbours, see `typicality`.

    Raises:
        InputError: num is out of range.

    Example:
        >>> retrieval.outliers(np.asarray([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), 1, k=1).tolist()
        [2]
    """
    _check_size(num, len(features))
    return np.argsort(typicality(features, k=k), kind="stable")[:num].astype(np.int64)


def _check_size(size: int, rows: int) -> None:
    if not 1 <= size <= rows:
        raise base.InputError(f"the size of a subset must be from 1 to the number of rows; got {size} and {rows}.")


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, np.float32(1))


def _farthest_first(unit: jax.Array, first: jax.Array, *, size: int) -> tuple[jax.Array, jax.Array]:
    def choose(
        step: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        rows, radii, distances, row = carry
        product = jnp.matmul(unit, unit[row], precision=jax.lax.Precision.HIGHEST)
        distances = jnp.minimum(distances, 1 - product).at[row].set(-jnp.inf)
        return rows.at[step].set(row), radii.at[step].set(jnp.max(distances)), distances, jnp.argmax(distances)

    count = unit.shape[0]
    start = jnp.zeros(size, jnp.int32), jnp.zeros(size, jnp.float32), jnp.full(count, jnp.inf, jnp.float32), first
    rows, radii, _, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, size, choose, carry))(start)
    return rows, jnp.maximum(radii, 0)
