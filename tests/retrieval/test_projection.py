"""Maps: t-SNE, principal components, and rows placed among those that were laid out."""

import numpy as np
import pytest

from simclr_jax import base, retrieval
from simclr_jax.retrieval import projection


def two_clusters(rows=40, width=16):
    """float32 [rows, width], int [rows]: directions around two opposite poles."""
    labels = np.arange(rows) % 2
    centre = np.zeros(width)
    centre[0] = 10.0
    features = np.random.default_rng(0).normal(size=(rows, width)) + np.where(labels, 1, -1)[:, None] * centre
    return features.astype(np.float32), labels


def principal_by_svd(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    return centred @ axes.T


def test_principal_components_are_those_of_an_svd_but_for_their_sign(monkeypatch):
    monkeypatch.setattr(projection, "_CHUNK", 7)  # several chunks
    features = np.random.default_rng(1).normal(size=(40, 6)) * np.asarray([5, 3, 1, 1, 1, 1])
    found = retrieval.project_rows(features.astype(np.float32), method="pca")
    expected = principal_by_svd(features)
    assert found.title == "principal components" and found.positions.dtype == np.float32
    for axis in range(2):
        sign = np.sign(found.positions[:, axis] @ expected[:, axis])
        np.testing.assert_allclose(found.positions[:, axis], sign * expected[:, axis], atol=1e-6)


def test_rows_beyond_the_landmarks_lie_among_their_like(monkeypatch):
    monkeypatch.setattr(projection, "_LANDMARKS", 30)
    features, labels = two_clusters(rows=90)
    found = retrieval.project_rows(features, method="tsne")
    laid_out, rows = retrieval.map_2d(features, max_rows=30)
    np.testing.assert_array_equal(found.positions[rows], laid_out)
    assert "of 30 pictures" in found.title
    centres = np.stack([laid_out[labels[rows] == label].mean(axis=0) for label in (0, 1)])
    nearest = np.linalg.norm(found.positions[:, None] - centres, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, labels)


def test_a_row_that_equals_a_landmark_lies_on_it():
    rows = np.asarray([0, 1, 2, 3, 4, 5, 6])
    features = np.eye(8)[np.asarray([0, 1, 2, 3, 4, 5, 6, 2])]
    positions = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    placed = projection._placed(features, positions, rows)
    np.testing.assert_allclose(placed[7], positions[2], atol=1e-4)


@pytest.mark.slow  # numba compiles
def test_umap_separates_two_far_clusters():
    pytest.importorskip("umap")
    features, labels = two_clusters()
    positions = retrieval.project_rows(features, method="umap").positions
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(labels[distance.argmin(axis=1)], labels)


def test_an_unknown_projection_and_a_missing_package_are_mistakes_of_one_line(monkeypatch):
    with pytest.raises(base.InputError, match="umap, tsne, pca"):
        retrieval.project_rows(np.eye(6), method="mds")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(base.InputError, match="umap-learn; it is not installed"):
        retrieval.project_rows(np.eye(6), method="umap")


def test_map_is_the_same_twice():
    features, _ = two_clusters()
    first, second = retrieval.map_2d(features), retrieval.map_2d(features.copy())
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].dtype == np.float32 and first[1].dtype == np.int64


def test_map_separates_two_far_clusters():
    features, labels = two_clusters(rows=100)
    positions, rows = retrieval.map_2d(features)
    labels = labels[rows]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    # The nearest neighbour on the map is of the same cluster, and the clusters do not overlap.
    np.testing.assert_array_equal(labels[distance.argmin(axis=1)], labels)
    centres = np.stack([positions[labels == label].mean(axis=0) for label in (0, 1)])
    nearest = np.linalg.norm(positions[:, None] - centres, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, labels)


def test_map_depends_on_directions_only():
    features, _ = two_clusters()
    # Powers of two scale without rounding.
    scaled = features * np.exp2(np.arange(40) % 5 - 2).astype(np.float32)[:, None]
    np.testing.assert_array_equal(retrieval.map_2d(features)[0], retrieval.map_2d(scaled)[0])


@pytest.mark.parametrize(
    ("count", "width"), [(0, 8), (1, 8), (2, 8), (4, 8), (5, 8), (7, 64), (20, 1), (20, 2), (20, 3)]
)
def test_map_takes_few_rows_and_few_features(count, width):
    positions, rows = retrieval.map_2d(np.random.default_rng(0).normal(size=(count, width)))
    assert positions.shape == (count, 2) and np.isfinite(positions).all()
    np.testing.assert_array_equal(rows, np.arange(count))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_map_of_a_collapsed_representation_is_one_point(value):
    positions, _ = retrieval.map_2d(np.full((20, 100), value))
    np.testing.assert_array_equal(positions, np.zeros((20, 2)))


def test_map_of_many_rows_takes_evenly_spaced_ones_from_first_to_last():
    _, rows = retrieval.map_2d(np.random.default_rng(0).normal(size=(1000, 4)), max_rows=31)
    assert len(rows) == 31 and (rows[0], rows[-1]) == (0, 999)
    assert set(np.diff(rows)) <= {33, 34}
