"""kNN against float64 loops and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn import neighbors as sk_neighbors

from simclr_jax import base, probes
from simclr_jax.probes import nearest


def _data(num_train=150, num_test=40, width=16, num_classes=5):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, num_train + num_test)
    features = (centers[labels] + 1.5 * rng.normal(size=(len(labels), width))).astype(np.float32)
    return features[:num_train], labels[:num_train], features[num_train:], labels[num_train:]


def _loop_votes(train, labels, query, *, num_classes, k, temperature):
    """Votes of one query by float64 loops over the definition."""
    cosines = []
    for row in train.astype(np.float64):
        dot = sum(a * b for a, b in zip(row, query.astype(np.float64), strict=True))
        cosines.append(dot / math.sqrt(sum(row**2) * sum(query.astype(np.float64) ** 2)))
    votes = [0.0] * num_classes
    for index in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]:
        votes[labels[index]] += math.exp(cosines[index] / temperature)
    return votes


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (150, 0.5)])
def test_knn_equals_loops_over_the_definition(k, temperature):
    train, labels, test, _ = _data()
    predictions = probes.knn(train, labels, test, num_classes=5, k=k, temperature=temperature)
    for query, prediction in zip(test, predictions, strict=True):
        votes = _loop_votes(train, labels, query, num_classes=5, k=k, temperature=temperature)
        # Votes within float32 rounding of the winner would be a tie; the winner must be among them.
        assert votes[prediction] >= max(votes) * (1 - 1e-5)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.07), (30, 0.1), (200, 0.1)])
def test_knn_equals_scikit_learn_with_the_same_weights(k, temperature, compare):
    train, labels, test, _ = _data(num_train=400, num_test=300)

    def weights(distance):
        # Divided by the largest weight of the row, so that nothing overflows.
        return np.exp((distance.min(axis=1, keepdims=True) - distance) / temperature)

    reference = sk_neighbors.KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    expected = reference.fit(train.astype(np.float64), labels).predict(test.astype(np.float64))
    predictions = probes.knn(train, labels, test, num_classes=5, k=k, temperature=temperature)
    compare("kNN, share of other classes", np.mean(predictions != expected), 0.0, source="scikit-learn")


@pytest.mark.parametrize("k", [1, 4, 10, 30])
def test_uniform_votes_equal_scikit_learn_with_its_defaults_ties_included(k, compare):
    """An even k among 5 classes leaves many equal votes, which both give to the lower class."""
    train, labels, test, _ = _data(num_train=400, num_test=300)
    reference = sk_neighbors.KNeighborsClassifier(k, metric="cosine").fit(train.astype(np.float64), labels)
    predictions = probes.knn(train, labels, test, num_classes=5, k=k, weights="uniform")
    others = np.mean(predictions != reference.predict(test.astype(np.float64)))
    compare("kNN, uniform votes, share of other classes", others, 0.0, source="scikit-learn")
    counts = np.sort(reference.predict_proba(test.astype(np.float64)), axis=1)
    assert k == 1 or (counts[:, -1] == counts[:, -2]).any()


def test_votes_are_of_a_known_kind():
    train, labels, test, _ = _data()
    with pytest.raises(base.InputError, match="weights of kNN must be one of similarity, uniform"):
        probes.knn(train, labels, test, num_classes=5, weights="soft")


def test_knn_is_the_same_in_small_blocks(monkeypatch):
    train, labels, test, _ = _data()
    whole = probes.knn(train, labels, test, num_classes=5)
    monkeypatch.setattr(nearest, "_BLOCK_ENTRIES", 7 * len(train))
    assert np.array_equal(probes.knn(train, labels, test, num_classes=5), whole)


def test_knn_does_not_depend_on_the_length_of_features():
    train, labels, test, _ = _data()
    scaled = probes.knn(train * 1000, labels, test * 0.01, num_classes=5, k=9)
    assert np.array_equal(scaled, probes.knn(train, labels, test, num_classes=5, k=9))


def test_knn_survives_tiny_temperatures_and_zero_features():
    train, labels, test, _ = _data()
    nearest_class = probes.knn(train, labels, test, num_classes=5, k=1)
    assert np.array_equal(probes.knn(train, labels, test, num_classes=5, k=50, temperature=1e-6), nearest_class)
    assert probes.knn(np.zeros((3, 4)), np.array([0, 1, 1]), np.zeros((2, 4)), num_classes=2).tolist() == [1, 1]


def test_knn_returns_int32_for_any_number_of_queries():
    train, labels, test, _ = _data()
    assert probes.knn(train, labels, test[:0], num_classes=5).shape == (0,)
    assert probes.knn(train, labels, test[:1], num_classes=5).dtype == np.int32


def test_neighbors_finds_each_row_itself_first():
    train = _data()[0]
    similarities, indices = probes.neighbors(train, train, k=2)
    assert np.array_equal(indices[:, 0], np.arange(len(train)))
    np.testing.assert_allclose(similarities[:, 0], 1.0, atol=1e-5)


def test_knn_protocol_names_the_neighbours_really_used():
    assert probes.knn_protocol(200, 0.1, 6344) == "knn.k200.t0.1.v1"
    assert probes.knn_protocol(200, 0.07, 63) == "knn.k63.t0.07.v1"
    assert probes.knn_protocol(10, 0.1, 50000, weights="uniform") == "knn.k10.uniform.v1"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"k": 0}, "k and temperature of kNN must be positive"),
        ({"temperature": 0.0}, "k and temperature of kNN must be positive"),
        ({"num_classes": 4}, r"labels of a probe must lie in \[0, 4\)"),
        ({"train_labels": np.zeros(3, int)}, "one label per training row"),
        ({"test_features": np.zeros((2, 3))}, "same width"),
    ],
)
def test_knn_states_the_rule_that_was_broken(change, rule):
    train, labels, test, _ = _data()
    arguments = {"train_features": train, "train_labels": labels, "test_features": test, "num_classes": 5} | change
    with pytest.raises(base.InputError, match=rule):
        probes.knn(**arguments)


def test_accuracy_leaves_out_unlabelled_rows():
    assert probes.accuracy(np.array([0, 1, 2, 0]), np.array([0, 1, 1, -1])) == pytest.approx(2 / 3)
    with pytest.raises(base.InputError, match="at least one labelled row"):
        probes.accuracy(np.array([0]), np.array([-1]))


def test_confusion_counts_true_classes_down_and_predictions_across():
    counts = probes.confusion(np.array([1, 1, 0, 2]), np.array([0, 1, 0, -1]), num_classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
