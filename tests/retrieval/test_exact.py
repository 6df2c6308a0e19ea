"""Exact search: against float64 loops, across the borders of chunks and blocks."""

import numpy as np
import pytest

from simclr_jax import base, retrieval
from simclr_jax.retrieval import exact

RNG = np.random.default_rng(0)


def cosines(queries, features):
    """float64 [Q, N], one by one."""
    found = np.zeros((len(queries), len(features)))
    for i, q in enumerate(np.asarray(queries, np.float64)):
        for j, x in enumerate(np.asarray(features, np.float64)):
            lengths = np.sqrt((q * q).sum()) * np.sqrt((x * x).sum())
            found[i, j] = (q * x).sum() / lengths if lengths else 0.0
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_search_finds_what_loops_find_in_any_number_of_chunks(monkeypatch, tmp_path, dtype):
    features = RNG.normal(size=(70, 6)).astype(dtype)
    features[11] = 0
    features[50] = features[3]  # a tie: the lower row comes first
    queries = np.concatenate([features[3:4], RNG.normal(size=(8, 6)).astype(dtype)])
    np.save(tmp_path / "rows.npy", features)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    true = cosines(queries, features)
    expected = np.argsort(-true, axis=1, kind="stable")[:, :7]
    monkeypatch.setattr(exact, "_CHUNK_BYTES", 16 * 6 * 4)  # 16 rows
    monkeypatch.setattr(exact, "_MAX_QUERIES", 4)
    similarities, rows = retrieval.search(mapped, queries, k=7)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, np.take_along_axis(true, expected, axis=1), atol=1e-6)
    assert rows[0, :2].tolist() == [3, 50]


def test_as_many_as_there_are_may_be_asked_for_and_no_more():
    features = RNG.normal(size=(5, 3))
    _, rows = retrieval.search(features, features[:2], k=5)
    assert np.sort(rows, axis=1).tolist() == [[0, 1, 2, 3, 4]] * 2
    with pytest.raises(base.InputError, match="got 6 and 5"):
        retrieval.search(features, features, k=6)
    with pytest.raises(base.InputError, match="same width"):
        retrieval.search(features, features[:, :2], k=1)


def test_the_nearest_others_are_those_of_loops_also_among_equal_rows():
    features = RNG.normal(size=(9, 4))
    features[4:8] = features[2]  # five equal rows: a row itself may not be among the first
    true = cosines(features, features)
    np.fill_diagonal(true, -2)
    similarities, rows = retrieval.search_others(features, k=3)
    assert not (rows == np.arange(9)[:, None]).any()
    np.testing.assert_allclose(similarities, -np.sort(-true, axis=1)[:, :3], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(true, rows, axis=1), similarities, atol=1e-6)
    with pytest.raises(base.InputError, match="got 9 and 8"):
        retrieval.search_others(features, k=9)


def test_an_approximate_index_finds_most_of_it_and_says_how_much(tmp_path):
    pytest.importorskip("usearch")
    from simclr_jax.retrieval import approximate

    features = (RNG.normal(size=(20, 8))[RNG.integers(0, 20, 600)] + 0.3 * RNG.normal(size=(600, 8))).astype("float16")
    index = retrieval.build_index(features)
    recall = retrieval.measure_recall(index, features, k=10)
    assert 0.9 < recall <= 1
    index.save(tmp_path / "rows.usearch")
    again = approximate.load_index(tmp_path / "rows.usearch")
    similarities, rows = again.search(np.asarray(features[:3]), k=4)
    assert rows[:, 0].tolist() == [0, 1, 2] and rows.dtype == np.int64
    np.testing.assert_allclose(similarities, np.take_along_axis(cosines(features[:3], features), rows, 1), atol=2e-3)
    # What was lost would show: an index of half of the rows finds about half of them.
    assert retrieval.measure_recall(retrieval.build_index(features[:300]), features, k=10) < 0.7
