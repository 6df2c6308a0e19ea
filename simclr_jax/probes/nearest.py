"""Nearest neighbours by cosine similarity: search, the kNN classifier, and counting its hits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.probes import protocols

# One block of similarities holds at most this many numbers (64 MiB in float32), whatever the size of the data.
_BLOCK_ENTRIES = 2**24
_MAX_BLOCK_ROWS = 1024

WEIGHTS = ("similarity", "uniform")


def neighbors(features: np.ndarray, query_features: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarities float32 [Q, k], indices int32 [Q, k]) of the k rows most similar to every query, best first.

    Similarity is the cosine, in [-1, 1]; a row of zeros has similarity 0 to everything. Of equal similarities the
    lower index comes first. Memory is bounded: queries are handled in blocks.

    Args:
        features: [N, D], cast to float32.
        query_features: [Q, D].
        k: at least 1; at most N.

    Raises:
        InputError: if k is not in [1, N], or the widths of the two arrays differ.

    Example:
        >>> similarities, rows = probes.neighbors(np.eye(3), np.asarray([[0.9, 0.1, 0.0]]), k=2)
        >>> rows.tolist()
        [[0, 1]]
    """
    features, query_features = _checked(features, query_features)
    if not 1 <= k <= len(features):
        raise base.InputError(f"k must lie in [1, number of rows]; got {k} and {len(features)}. Use a smaller k.")
    bank = _normalize(jnp.asarray(features))
    # A power of two, so that sets of similar size share one compiled program.
    rows = max(1, min(_MAX_BLOCK_ROWS, _BLOCK_ENTRIES // len(features)))
    rows = 1 << (rows.bit_length() - 1)
    similarities = np.empty((len(query_features), k), np.float32)
    indices = np.empty((len(query_features), k), np.int32)
    for start in range(0, len(query_features), rows):
        block = query_features[start : start + rows]
        padded = np.pad(block, ((0, rows - len(block)), (0, 0)))
        top, index = _search(bank, jnp.asarray(padded), k=k)
        similarities[start : start + rows] = np.asarray(top)[: len(block)]
        indices[start : start + rows] = np.asarray(index)[: len(block)]
    return similarities, indices


def knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    num_classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
    weights: str = "similarity",
) -> np.ndarray:
    """The class of every test row by a vote of its k nearest training rows: int32 [M] in [0, C).

    With weights "similarity" a neighbour of cosine similarity s votes for its class with weight exp(s / temperature),
    with "uniform" all k count alike. `k` is capped at the number of training rows; `knn_protocol` names what was used.
    Of equal votes the lower class wins.

    Args:
        train_features: [N, D], cast to float32; need not be normalised.
        train_labels: int [N] in [0, C).
        test_features: [M, D].
        num_classes: C; None for one more than the largest training label.
        k: number of neighbours, at least 1.
        temperature: above 0; not read for uniform votes.
        weights: one of WEIGHTS.

    Raises:
        InputError: if a label is outside [0, C), k or temperature is not positive, votes is unknown, or shapes do not
            fit.

    Reference: Wu et al. 2018 (InstDisc), section 3.4 (k = 200, temperature 0.07); MoCo's CIFAR demonstration uses
    temperature 0.1, which is the default here. The weights are divided by that of the nearest neighbour, which leaves
    the vote unchanged and cannot overflow. Uniform votes are scikit-learn's KNeighborsClassifier(k, metric="cosine"),
    which gives equal votes to the lower class as well. Difference: of rows that are equally near, the one that comes
    first is a neighbour here; which one is there depends on how the distances were partitioned.

    Example:
        >>> features, labels = np.asarray([[1.0, 0.0], [0.0, 1.0]]), np.asarray([0, 1])
        >>> probes.knn(features, labels, np.asarray([[0.9, 0.1]]), k=1).tolist()
        [0]
    """
    num_classes = count_classes(train_labels) if num_classes is None else num_classes
    labels = checked_labels(train_labels, rows=len(train_features), num_classes=num_classes)
    check_vote(k=k, temperature=temperature, weights=weights)
    found = neighbors(train_features, test_features, k=min(k, len(labels)))
    return vote(*found, labels, num_classes=num_classes, temperature=temperature, weights=weights)


def check_vote(*, k: int, temperature: float, weights: str) -> None:
    """Raises InputError unless these are settings of kNN, see `knn`."""
    base.check_choice(weights, WEIGHTS, name="weights of kNN", remedy="Use similarity.")
    if k < 1 or not temperature > 0:
        raise base.InputError(f"k and temperature of kNN must be positive; got {k} and {temperature}. Use 200 and 0.1.")


def vote(
    similarities: np.ndarray,
    indices: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    temperature: float = 0.1,
    weights: str = "similarity",
) -> np.ndarray:
    """The class of every query by a vote of neighbours that were found before: int32 [Q] in [0, C); see `knn`.

    The first k columns of the neighbours are the k nearest ones, so that one search serves several k.

    Args:
        similarities: float32 [Q, k], best first; see `neighbors`.
        indices: int [Q, k], into `labels`.
        labels: int [N] in [0, C).
        num_classes: C.
        temperature: above 0; not read for uniform votes.
        weights: one of WEIGHTS.

    Example:
        >>> similarities, indices = probes.neighbors(np.eye(3), np.eye(3), k=3)
        >>> probes.vote(similarities[:, :1], indices[:, :1], np.asarray([0, 1, 1]), num_classes=2).tolist()
        [0, 1, 1]
    """
    if not len(similarities):
        return np.zeros(0, np.int32)
    # NumPy's bincount on (row, class) pairs: exact in float64 and no [M, k, C] array.
    each = np.ones(indices.shape)
    if weights == "similarity":
        each = np.exp((similarities.astype(np.float64) - similarities[:, :1]) / temperature)
    cells = np.arange(len(indices))[:, None] * num_classes + labels[indices]
    counts = np.bincount(cells.ravel(), weights=each.ravel(), minlength=len(indices) * num_classes)
    return counts.reshape(len(indices), num_classes).argmax(axis=1).astype(np.int32)


def knn_protocol(k: int, temperature: float, num_train: int, *, weights: str = "similarity") -> str:
    """The name of the kNN protocol as it was run: "knn.k200.t0.1.v1", "knn.k10.uniform.v1" (k at most num_train).

    Example:
        >>> probes.knn_protocol(200, 0.1, 50000)
        'knn.k200.t0.1.v1'
    """
    used = min(k, num_train)
    if weights == "uniform":
        return protocols.protocol_name("knn_uniform", k=used)
    return protocols.protocol_name("knn", k=used, temperature=f"{temperature:g}")


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of rows where the two agree, in [0, 1]; rows with label -1 are left out.

    Raises:
        InputError: if no row is labelled.

    Example:
        >>> probes.accuracy(np.asarray([0, 1, 1]), np.asarray([0, 1, -1]))
        1.0
    """
    labels = np.asarray(labels)
    labelled = labels >= 0
    if not labelled.any():
        raise base.InputError("accuracy needs at least one labelled row; got none. Use data with labels.")
    return float(np.mean(np.asarray(predictions)[labelled] == labels[labelled]))


def confusion(predictions: np.ndarray, labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    """int64 [C, C]: how many rows of class i (first axis) were called class j; rows with label -1 are left out.

    Example:
        >>> probes.confusion(np.asarray([0, 1, 1]), np.asarray([0, 1, 0]), num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    labels, predictions = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    cells = (labels * num_classes + predictions)[labels >= 0]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def count_classes(labels: np.ndarray) -> int:
    """One more than the largest label, at least 1."""
    return int(max(np.max(labels, initial=0), 0)) + 1


def checked_labels(labels: np.ndarray, *, rows: int, num_classes: int) -> np.ndarray:
    """`labels` as int64 [rows]. Raises InputError unless there is one per row and all lie in [0, num_classes)."""
    labels = np.asarray(labels, np.int64)
    if labels.shape != (rows,) or rows == 0:
        raise base.InputError(
            f"a probe needs one label per training row and at least one row; got {labels.shape} labels and {rows} rows."
            " Use features and labels of the same split."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise base.InputError(
            f"labels of a probe must lie in [0, {num_classes}); got {labels.min()} to {labels.max()}."
            " Leave out unlabelled rows (-1) or raise num_classes."
        )
    return labels


def _checked(features: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, queries = np.asarray(features, np.float32), np.asarray(queries, np.float32)
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1]:
        raise base.InputError(
            f"features must be two arrays [rows, D] of the same width; got shapes {features.shape} and {queries.shape}."
            " Use features of the same encoder."
        )
    return features, queries


def _normalize(rows: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(norms > 0, norms, jnp.ones_like(norms))


@functools.partial(jax.jit, static_argnames="k")
def _search(bank: jax.Array, queries: jax.Array, *, k: int) -> tuple[jax.Array, jax.Array]:
    # Full float32 products also on accelerators: near neighbours differ by less than a TF32 rounding.
    similarities = jnp.matmul(_normalize(queries), bank.T, precision=jax.lax.Precision.HIGHEST)
    top, indices = jax.lax.top_k(similarities, k)
    return top, indices.astype(jnp.int32)
