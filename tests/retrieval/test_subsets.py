"""Subsets and outliers against float64 loops."""

import numpy as np
import pytest

from simclr_jax import base, retrieval
from tests.retrieval.test_exact import cosines

RNG = np.random.default_rng(2)
FEATURES = RNG.normal(size=(25, 4)).astype(np.float32)


def test_k_center_takes_the_farthest_row_each_time():
    distances = 1 - cosines(FEATURES, FEATURES)
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    chosen, radii = [int(np.argmax(unit @ unit.mean(axis=0)))], []
    for _ in range(8):
        to_chosen = distances[:, chosen].min(axis=1)
        to_chosen[chosen] = -1
        radii.append(to_chosen.max())
        chosen.append(int(to_chosen.argmax()))
    cover = retrieval.k_center(FEATURES, 8)
    assert cover.rows.tolist() == chosen[:8]
    np.testing.assert_allclose(cover.radii, radii, atol=1e-6)
    assert sorted(retrieval.k_center(FEATURES, 25).rows.tolist()) == list(range(25))
    # Equal rows are chosen once each.
    assert sorted(retrieval.k_center(np.ones((3, 2)), 3).rows.tolist()) == [0, 1, 2]
    with pytest.raises(base.InputError, match="got 26 and 25"):
        retrieval.k_center(FEATURES, 26)


def test_typicality_is_one_over_the_mean_distance_to_neighbours():
    distances = np.sqrt(np.maximum(2 - 2 * cosines(FEATURES, FEATURES), 0))
    np.fill_diagonal(distances, np.inf)
    expected = [1 / np.sort(row)[:5].mean() for row in distances]
    np.testing.assert_allclose(retrieval.typicality(FEATURES, k=5), expected, rtol=1e-5)
    assert retrieval.outliers(FEATURES, 3, k=5).tolist() == np.argsort(expected)[:3].tolist()
    assert np.isfinite(retrieval.typicality(np.ones((4, 3)))).all()
    with pytest.raises(base.InputError, match="at least two rows"):
        retrieval.typicality(FEATURES[:1])


def test_typical_rows_are_one_of_every_cluster():
    centers = 5 * np.eye(4)[:3]
    groups = np.repeat([0, 1, 2], [6, 10, 4])
    features = centers[groups] + 0.2 * RNG.normal(size=(20, 4))
    rows = retrieval.typical_rows(features, 3)
    assert groups[rows].tolist() == [1, 0, 2]
    for row in rows:
        members = np.flatnonzero(groups == groups[row])
        distances = np.sqrt(np.maximum(2 - 2 * cosines(features[members], features[members]), 0))
        assert members[distances.sum(axis=1).argmin()] == row
