"""Approximate search for millions of rows: an HNSW graph by usearch, and what it misses, measured."""

import os
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.retrieval import exact

_CHUNK = 16384
_SAMPLE_SEED = 0


class ApproximateIndex(NamedTuple):
    """A graph over rows; see `build_index`. graph: usearch's Index."""

    graph: Any

    def search(self, queries: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(similarities float32 [Q, k], rows int64 [Q, k]), as `retrieval.search`, except that rows may be missed."""
        found = self.graph.search(np.array(queries, np.float32), k)
        keys, distances = (np.asarray(part).reshape(len(queries), k) for part in (found.keys, found.distances))
        return (1 - distances).astype(np.float32), keys.astype(np.int64)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the graph to a file, which `load_index` reads."""
        self.graph.save(os.fspath(path))


def build_index(features: np.ndarray, *, dtype: str = "f16", connectivity: int = 16) -> ApproximateIndex:
    """A graph over all rows: built once, then a query takes about a millisecond whatever N is.

    Args:
        features: [N, D]; may be a memory map.
        dtype: in which usearch keeps the rows: "f32", "f16" or "i8" (a quarter of the memory, less exact).
        connectivity: neighbours of a row in the graph; more find more and take more memory.

    Raises:
        InputError: the package usearch is missing, or an unknown dtype.

    Reference: Malkov and Yashunin 2018 (HNSW), by usearch.

    Example:
        >>> index = retrieval.build_index(np.eye(8))
        >>> index.search(np.eye(8)[:1], k=1)[1].tolist()
        [[0]]
    """
    base.check_choice(dtype, ("f32", "f16", "i8"), name="dtype", remedy="Use f16.")
    graph = _usearch().Index(ndim=features.shape[1], metric="cos", dtype=dtype, connectivity=connectivity)
    for start in range(0, len(features), _CHUNK):
        rows = np.array(features[start : start + _CHUNK], np.float32)  # a copy: a file's rows are not aligned
        graph.add(np.arange(start, start + len(rows)), rows)
    return ApproximateIndex(graph)


def load_index(path: str | os.PathLike[str]) -> ApproximateIndex:
    """What `ApproximateIndex.save` wrote.

    Raises:
        InputError: the package usearch is missing, or the file is not one of its own.
    """
    graph = _usearch().Index.restore(os.fspath(path))
    if graph is None:
        raise base.InputError(f"An index must be a file that search wrote; {path} is not. Remove it.")
    return ApproximateIndex(graph)


def measure_recall(index: ApproximateIndex, features: np.ndarray, *, k: int = 10, num_queries: int = 100) -> float:
    """The share of the k nearest rows that the index finds, for rows of its own as queries, in [0, 1].

    Args:
        index: of `features`.
        features: [N, D].
        k: at most N.
        num_queries: rows drawn with a fixed seed; one exact search is made for them.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 4))
        >>> retrieval.measure_recall(retrieval.build_index(rows, dtype="f32"), rows, k=5)
        1.0
    """
    drawn = np.random.default_rng(_SAMPLE_SEED).choice(len(features), min(num_queries, len(features)), replace=False)
    queries = np.asarray(features[np.sort(drawn)], np.float32)
    _, true = exact.search(features, queries, k=k)
    _, found = index.search(queries, k=k)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(true.tolist(), found.tolist(), strict=True)]))


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        raise base.InputError(
            "approximate search needs the Python package usearch; it is not installed. Install it with: pip install "
            "'simclr-jax[use]', or search exactly."
        ) from error
    return usearch.index
