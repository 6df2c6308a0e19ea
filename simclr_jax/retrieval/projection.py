"""Features on a plane, to be looked at: UMAP, t-SNE and principal components of the directions of the rows.

A map shows which rows are alike; its distances between far groups and the sizes of groups mean nothing.
"""

import importlib.util
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.retrieval import exact

METHODS = ("auto", "umap", "tsne", "pca")
_COMPONENTS = 50
_LANDMARKS, _NEAREST_LANDMARKS = 5000, 5
_CHUNK = 16384


class Projection(NamedTuple):
    """positions float32 [N, 2]; title: the method in words, for a caption."""

    positions: np.ndarray
    title: str


def project_rows(features: np.ndarray, *, method: str = "auto", seed: int = 0) -> Projection:
    """Every row on a plane, rows of like directions near each other. The same features give the same map.

    Args:
        features: [N, D], any number of rows; may be a memory map.
        method: "umap" (needs the package umap-learn), "tsne", "pca", or "auto" for UMAP where it is installed, else
            t-SNE. t-SNE lays out up to 5,000 rows, evenly spaced; every other row is placed among the five of them that
            it is most like, each weighted by how much nearer it is than the sixth.
        seed: of UMAP and t-SNE.

    Raises:
        InputError: an unknown method, or its package is missing.

    Reference: McInnes et al. 2018 (UMAP), by umap-learn: cosine, 15 neighbours, min_dist 0.1. van der Maaten and Hinton
    2008 (t-SNE), see `map_2d`. Difference: rows beyond 5,000 are placed, not optimised.

    Example:
        >>> retrieval.project_rows(np.eye(3), method="pca").positions.shape
        (3, 2)
    """
    base.check_choice(method, METHODS, name="the projection")
    if method == "auto":
        method = "umap" if importlib.util.find_spec("umap") else "tsne"
    if method == "pca" or len(features) < 5 or features.shape[1] < 3:
        return Projection(_principal(features, 2), "principal components")
    if method == "umap":
        return Projection(_umap(features, seed), "UMAP")
    if not importlib.util.find_spec("sklearn"):
        raise base.InputError(
            "the projection tsne needs the Python package scikit-learn; it is not installed. Install it with: pip "
            "install 'simclr-jax[use]', or use pca."
        )
    positions, rows = map_2d(features, max_rows=_LANDMARKS, seed=seed)
    if len(rows) == len(features):
        return Projection(positions, "t-SNE")
    return Projection(_placed(features, positions, rows), f"t-SNE of {len(rows):,} pictures, the others among these")


def map_2d(features: np.ndarray, *, max_rows: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(positions float32 [n, 2], rows int64 [n]): t-SNE of the directions of the features, on a fixed subsample.

    Rows are divided by their length, so that distance follows cosine similarity as in the kNN probe. Start and seed
    are fixed: the same features give the same map. Above `max_rows` rows, evenly spaced ones are used.

    Args:
        features: float [N, D].
        max_rows: most rows on the map.
        seed: of t-SNE.

    Reference: van der Maaten and Hinton 2008, by scikit-learn: perplexity 30 (less below 91 rows), start from
    PCA, 500 iterations (about ten seconds for 3,000 rows on one CPU core).

    Example:
        >>> retrieval.map_2d(np.eye(4))[1].tolist()
        [0, 1, 2, 3]
    """
    rows = np.unique(np.linspace(0, len(features) - 1, min(len(features), max_rows)).astype(np.int64))
    chosen = _unit(features[rows])
    if len(rows) < 5 or chosen.shape[1] < 3:
        return np.pad(chosen, ((0, 0), (0, 2)))[:, :2], rows
    # Of a collapsed representation there is nothing to lay out: t-SNE would divide by its spread of zero.
    if (chosen == chosen[0]).all():
        return np.zeros((len(rows), 2), np.float32), rows
    import threadpoolctl
    from sklearn import decomposition, manifold

    components = min(_COMPONENTS, *chosen.shape)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = manifold.TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed)
    # On one thread: its threads wait for each other at every step, which crawls on a busy machine.
    with threadpoolctl.threadpool_limits(1):
        if components < chosen.shape[1]:
            chosen = decomposition.PCA(components, random_state=seed).fit_transform(chosen)
        return tsne.fit_transform(chosen).astype(np.float32), rows


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))


def _principal(features: np.ndarray, components: int) -> np.ndarray:
    """The directions of the rows on their first principal components, float32 [N, components], chunk by chunk."""
    count, width = features.shape
    if not count:
        return np.zeros((0, components), np.float32)
    total, products = np.zeros(width), np.zeros((width, width))
    for start in range(0, count, _CHUNK):
        rows = _unit(features[start : start + _CHUNK]).astype(np.float64)
        total, products = total + rows.sum(axis=0), products + rows.T @ rows
    mean = total / count
    _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    axes = vectors[:, ::-1][:, :components]
    # An axis has no sign of its own: its largest entry is positive.
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1, 1)
    found = np.zeros((count, components), np.float32)
    for start in range(0, count, _CHUNK):
        found[start : start + _CHUNK, : axes.shape[1]] = (_unit(features[start : start + _CHUNK]) - mean) @ axes
    return found


def _umap(features: np.ndarray, seed: int) -> np.ndarray:
    try:
        import umap
    except ImportError as error:
        raise base.InputError(
            "the projection umap needs the Python package umap-learn; it is not installed. Install it with: pip "
            "install 'simclr-jax[map]', or use tsne."
        ) from error
    rows = _principal(features, min(_COMPONENTS, features.shape[1])) if len(features) > _LANDMARKS else features
    neighbors = min(15, len(features) - 1)
    how = umap.UMAP(n_neighbors=neighbors, min_dist=0.1, metric="cosine", random_state=seed, n_jobs=1)
    return np.asarray(how.fit_transform(np.asarray(rows, np.float32)), np.float32)


def _placed(features: np.ndarray, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions [N, 2] of all rows from those [n, 2] of some."""
    found = np.zeros((len(features), 2), np.float32)
    landmarks = np.asarray(features[rows], np.float32)
    for start in range(0, len(features), _CHUNK):
        queries = np.asarray(features[start : start + _CHUNK], np.float32)
        similar, nearest = exact.search(landmarks, queries, k=_NEAREST_LANDMARKS + 1)
        weights = np.maximum(similar[:, :-1] - similar[:, -1:], 0) + np.float32(1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        found[start : start + _CHUNK] = np.einsum("nk,nkc->nc", weights, positions[nearest[:, :-1]])
    found[rows] = positions
    return found
