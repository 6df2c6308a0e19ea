"""Clusters and their scores: against loops, and against all pairings."""

import itertools

import numpy as np
import pytest

from simclr_jax import base, retrieval
from tests.retrieval.test_exact import cosines

RNG = np.random.default_rng(3)


def test_k_means_finds_groups_that_are_there_the_largest_first():
    groups = np.repeat([2, 0, 1], [5, 9, 7])
    features = 4 * np.eye(6)[groups] * RNG.uniform(0.5, 3, (21, 1)) + 0.1 * RNG.normal(size=(21, 6))
    found = retrieval.cluster_rows(features.astype(np.float16), 3)
    assert found.assignments.tolist() == groups.tolist()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centers = np.stack([unit[groups == group].mean(axis=0) for group in range(3)])
    np.testing.assert_allclose(found.centers, centers, atol=1e-3)
    np.testing.assert_allclose(found.inertia, ((unit - centers[groups]) ** 2).sum(axis=1).mean(), rtol=1e-2)
    with pytest.raises(base.InputError, match="got 22 and 21"):
        retrieval.cluster_rows(features, 22)


def test_the_silhouette_is_that_of_loops():
    features, own = RNG.normal(size=(14, 3)), RNG.integers(0, 3, 14)
    distances = 1 - cosines(features, features)
    values = []
    for row in range(14):
        same = [j for j in range(14) if own[j] == own[row] and j != row]
        inside = distances[row, same].mean()
        outside = min(distances[row, own == other].mean() for other in range(3) if other != own[row])
        values.append((outside - inside) / max(outside, inside))
    assert retrieval.silhouette(features, own) == pytest.approx(np.mean(values), abs=1e-5)
    with pytest.raises(base.InputError, match="two clusters or more"):
        retrieval.silhouette(features, np.zeros(14))


def test_mutual_information_and_accuracy_are_those_of_their_definitions():
    found, labels = RNG.integers(0, 4, 60), RNG.integers(-1, 3, 60)
    known = labels >= 0
    joint = np.zeros((4, 3))
    for cluster, label in zip(found[known], labels[known], strict=True):
        joint[cluster, label] += 1 / known.sum()
    of_cluster, of_label = joint.sum(axis=1), joint.sum(axis=0)
    information = sum(
        joint[i, j] * np.log(joint[i, j] / of_cluster[i] / of_label[j]) for i, j in zip(*np.nonzero(joint), strict=True)
    )
    entropies = [-(p * np.log(p)).sum() for p in (of_cluster, of_label)]
    assert retrieval.mutual_information(found, labels) == pytest.approx(2 * information / sum(entropies), rel=1e-6)
    best = max(sum(joint[pairing[j], j] for j in range(3)) for pairing in itertools.permutations(range(4), 3))
    assert retrieval.clustering_accuracy(found, labels) == pytest.approx(best)
    with pytest.raises(base.InputError, match="at least one row"):
        retrieval.clustering_accuracy(found, np.full(60, -1))
