"""Clusters of features by k-means, and how good they are, without and with labels; by scikit-learn."""

from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base

# Numbers in the features above which k-means has fewer starts, and above which it works on batches.
_MANY_STARTS_ENTRIES, _MINI_BATCH_ENTRIES = 5e6, 5e7
_DISTINCT = 1e5  # unit rows are the same where they agree to five digits


class Clusters(NamedTuple):
    """assignments int32 [N], the cluster of every row; centers float32 [k, D], means of unit rows; inertia: the mean
    squared distance of a unit row to its centre."""

    assignments: np.ndarray
    centers: np.ndarray
    inertia: float


def cluster_rows(features: np.ndarray, num_clusters: int, *, seed: int = 0) -> Clusters:
    """k-means of the directions of the rows; cluster 0 is the largest.

    Args:
        features: [N, D], divided by their lengths first.
        num_clusters: k, from 1 to N; fewer are made where the rows have fewer than k directions.
        seed: of the starts, of which the best is taken.

    Raises:
        InputError: k is out of range, or scikit-learn is missing.

    Reference: Lloyd 1982 with starts of Arthur and Vassilvitskii 2007 (k-means++), by scikit-learn: ten starts, above
    five million numbers three; above 50 million on batches (Sculley 2010).

    Example:
        >>> retrieval.cluster_rows(np.repeat(np.eye(2), [3, 2], axis=0), 2).assignments.tolist()
        [0, 0, 0, 1, 1]
    """
    if not 1 <= num_clusters <= len(features):
        raise base.InputError(
            f"the number of clusters must be from 1 to the number of rows; got {num_clusters} and {len(features)}."
        )
    rows: np.ndarray = np.asarray(features, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, np.float32(1))
    cluster = _sklearn("cluster")
    kind = cluster.KMeans if rows.size <= _MINI_BATCH_ENTRIES else cluster.MiniBatchKMeans
    starts = 10 if rows.size <= _MANY_STARTS_ENTRIES else 3
    num_clusters = _num_distinct(rows, upto=num_clusters)
    fitted = kind(num_clusters, n_init=starts, random_state=seed).fit(rows)
    order = np.argsort(-np.bincount(fitted.labels_, minlength=num_clusters), kind="stable")
    assignments = np.argsort(order)[fitted.labels_].astype(np.int32)
    centers = fitted.cluster_centers_[order].astype(np.float32)
    return Clusters(assignments, centers, float(fitted.inertia_) / len(rows))


def _num_distinct(rows: np.ndarray, *, upto: int) -> int:
    """How many rows differ by more than rounding, counted no further than `upto`."""
    seen = set[bytes]()
    for row in rows:
        seen.add((np.rint(row * _DISTINCT) + 0.0).astype(np.int32).tobytes())
        if len(seen) == upto:
            break
    return len(seen)


def silhouette(features: np.ndarray, assignments: np.ndarray, *, max_rows: int = 5000) -> float:
    """How much nearer rows are to their own cluster than to the next, in [-1, 1]: the mean silhouette by 1 - cosine.

    Args:
        features: [N, D].
        assignments: int [N], of two clusters or more, and fewer than N.
        max_rows: of more rows, so many evenly spaced ones are measured.

    Raises:
        InputError: fewer than two clusters, or every row is one of its own.

    Reference: Rousseeuw 1987, by scikit-learn.

    Example:
        >>> retrieval.silhouette(np.repeat(np.eye(2), 3, axis=0), np.repeat([0, 1], 3))
        1.0
    """
    chosen = np.unique(np.linspace(0, len(features) - 1, min(len(features), max_rows)).astype(np.int64))
    own = np.asarray(assignments)[chosen]
    if not 2 <= len(np.unique(own)) < len(own):
        raise base.InputError(
            f"a silhouette needs two clusters or more, and fewer than rows; got {len(np.unique(own))} of "
            f"{len(own)} rows."
        )
    rows = np.asarray(features[chosen], np.float32)
    return float(_sklearn("metrics").silhouette_score(rows, own, metric="cosine"))


def mutual_information(assignments: np.ndarray, labels: np.ndarray) -> float:
    """What clusters and labels tell of each other, in [0, 1]: 2 I / (H + H). Rows with label -1 are left out.

    Raises:
        InputError: no row is labelled, or scikit-learn is missing.

    Reference: normalized mutual information with the arithmetic mean of the entropies, by scikit-learn.

    Example:
        >>> round(retrieval.mutual_information(np.asarray([1, 1, 0]), np.asarray([5, 5, 2])), 6)
        1.0
    """
    found, labels = _labelled(assignments, labels)
    return float(_sklearn("metrics").normalized_mutual_info_score(labels, found))


def clustering_accuracy(assignments: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose cluster stands for their class, under the best pairing of both, in [0, 1].

    Every class has at most one cluster and the other way round. Rows with label -1 are left out.

    Raises:
        InputError: no row is labelled.

    Reference: Kuhn 1955, as clustering papers report it; by SciPy's linear_sum_assignment.

    Example:
        >>> retrieval.clustering_accuracy(np.asarray([1, 1, 0, 0]), np.asarray([0, 0, 1, 0]))
        0.75
    """
    from scipy import optimize

    found, labels = _labelled(assignments, labels)
    counts = np.zeros((found.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (found, labels), 1)
    pairing = optimize.linear_sum_assignment(counts, maximize=True)
    return float(counts[pairing].sum() / len(labels))


def _labelled(assignments: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assignments, labels = np.asarray(assignments), np.asarray(labels)
    known = labels >= 0
    if not known.any():
        raise base.InputError("clusters are compared with labels of at least one row; got none. Use data with labels.")
    return assignments[known], labels[known]


def _sklearn(module: str) -> Any:
    try:
        import sklearn.cluster
        import sklearn.metrics
    except ImportError as error:
        raise base.InputError(
            "clusters need the Python package scikit-learn; it is not installed. Install it with: pip install "
            "'simclr-jax[use]'"
        ) from error
    return getattr(sklearn, module)
