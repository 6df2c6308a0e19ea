"""Duplicates: every pair that is there, in one set or between two, against loops."""

import numpy as np
import pytest

from simclr_jax import base, retrieval
from simclr_jax.retrieval import duplicates, exact
from tests.retrieval.test_exact import cosines

RNG = np.random.default_rng(1)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(exact, "_CHUNK_BYTES", 8 * 5 * 4)
    monkeypatch.setattr(exact, "_MAX_QUERIES", 4)


@pytest.mark.usefixtures("small_chunks")
def test_near_pairs_are_all_pairs_of_that_similarity():
    features, others = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (30, 21))
    features[7] = 2 * features[19]
    others[4] = features[2]
    for bank, true in ((None, np.triu(cosines(features, features) + 2, 1) - 2), (others, cosines(features, others))):
        pairs = retrieval.near_pairs(features, bank, threshold=0.7)
        assert {tuple(pair) for pair in pairs.rows.tolist()} == set(
            zip(*map(list, np.nonzero(true >= 0.7)), strict=True)
        )
        np.testing.assert_allclose(pairs.similarities, true[tuple(pairs.rows.T)], atol=1e-6)
        assert (np.diff(pairs.similarities) <= 0).all() and pairs.similarities[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_the_nearest_other_is_never_the_row_itself_also_among_equal_rows():
    features = RNG.normal(size=(20, 5)).astype(np.float32)
    features[9] = features[10] = features[3]
    true = cosines(features, features)
    np.fill_diagonal(true, -2)
    similarities, rows = retrieval.nearest_others(features)
    assert (rows != np.arange(20)).all()
    np.testing.assert_allclose(similarities, true.max(axis=1), atol=1e-6)
    others = RNG.normal(size=(7, 5)).astype(np.float32)
    similarities, rows = retrieval.nearest_others(features, others)
    np.testing.assert_array_equal(rows, cosines(features, others).argmax(axis=1))


def test_equal_digests_are_pairs_with_the_first_one():
    assert retrieval.equal_pairs(np.asarray([3, 1, 3, 1, 2], np.uint64)).rows.tolist() == [[0, 2], [1, 3]]
    between = retrieval.equal_pairs(np.asarray([3, 1], np.uint64), np.asarray([1, 5, 3, 1], np.uint64))
    assert between.rows.tolist() == [[1, 0], [0, 2], [1, 3]]
    assert retrieval.equal_pairs(np.asarray([1, 2], np.uint64)).rows.shape == (0, 2)


def test_groups_hang_together_by_pairs_and_the_largest_comes_first():
    pairs = np.asarray([[8, 9], [0, 4], [4, 2], [5, 2]])
    assert retrieval.group_rows(pairs, 10) == [[0, 2, 4, 5], [8, 9]]
    assert retrieval.group_rows(np.zeros((0, 2), np.int64), 3) == []


def test_a_threshold_that_leaves_too_many_pairs_is_refused(monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 10)
    with pytest.raises(base.InputError, match="at most 10 pairs"):
        retrieval.near_pairs(np.ones((8, 3), np.float32), threshold=0.5)


def test_the_suggested_threshold_follows_the_encoder():
    wide, narrow = (np.cos(np.asarray([0.2, 1.0, 1.0, 1.1]) * scale) for scale in (1.0, 0.1))
    assert retrieval.suggest_threshold(wide) == pytest.approx(np.cos(0.25))
    assert retrieval.suggest_threshold(narrow) == pytest.approx(np.cos(0.025))
