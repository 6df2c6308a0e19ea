"""The table of probe results."""

import json

import numpy as np
import pytest

from simclr_jax import base, probes
from simclr_jax.probes import rows as rows_lib


def _features(num_train=240, num_test=90, width=6, num_classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(num_train + num_test) % num_classes
    features = (2 * rng.normal(size=(num_classes, width))[labels] + rng.normal(size=(len(labels), width))).astype(
        np.float32
    )
    return (features[:num_train], features[num_train:]), labels[:num_train], labels[num_train:]


@pytest.mark.slow
def test_probe_rows_has_one_row_per_features_share_and_probe():
    features, train_labels, test_labels = _features()
    rows = probes.probe_rows({"simclr": features, "noise": features}, train_labels, test_labels, num_classes=3)
    keys = [(row["features"], row["labels"], row["probe"]) for row in rows]
    assert len(keys) == len(set(keys)) == 18
    assert {row["labels"]: row["num_labels"] for row in rows} == {"1%": 3, "10%": 24, "100%": 240}
    assert all(0 <= row["accuracy"] <= 1 and row["chance"] == pytest.approx(1 / 3) for row in rows)
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.slow
def test_probe_rows_are_the_scores_of_the_probes():
    (train, test), train_labels, test_labels = _features()
    rows = probes.probe_rows({"simclr": (train, test)}, train_labels, test_labels, num_classes=3, fractions=(0.1,))
    subset = probes.label_subset(train_labels, 0.1)
    knn = probes.knn(train[subset], train_labels[subset], test, num_classes=3)
    linear = probes.linear(train[subset], train_labels[subset], test, num_classes=3)
    assert rows[0]["accuracy"] == probes.accuracy(knn, test_labels)
    assert rows[1]["accuracy"] == probes.accuracy(linear.predictions, test_labels)
    ridge = probes.ridge(train[subset], train_labels[subset], test, num_classes=3)
    assert rows[2]["accuracy"] == probes.accuracy(ridge.predictions, test_labels)
    assert rows[0]["protocol"] == "knn.k24.t0.1.v1"
    assert rows[1]["protocol"] == "linear.lbfgs.standardized.v1"


def test_further_numbers_of_neighbours_are_scored_as_by_a_search_of_their_own(monkeypatch):
    monkeypatch.setattr(rows_lib, "_fitted", lambda *_, seed: [])
    (train, test), train_labels, test_labels = _features()
    how = {"num_classes": 3, "fractions": (0.1, 1.0), "k": 20, "more_k": (3, 20, 200)}
    rows = probes.probe_rows({"h": (train, test)}, train_labels, test_labels, **how)
    found = {(row["probe"], row["num_labels"]): row for row in rows if row["probe"].startswith("knn")}
    # Of 24 labels at most 24 vote.
    assert {key: row["k"] for key, row in found.items()} == {
        **{("knn", 24): 20, ("knn3", 24): 3, ("knn200", 24): 24},
        **{("knn", 240): 20, ("knn3", 240): 3, ("knn200", 240): 200},
    }
    for (_, count), row in found.items():
        subset = probes.label_subset(train_labels, count / 240)
        alone = probes.knn(train[subset], train_labels[subset], test, num_classes=3, k=row["k"])
        assert row["accuracy"] == probes.accuracy(alone, test_labels)


def test_the_mean_over_classes_weighs_a_rare_class_as_a_common_one(monkeypatch):
    monkeypatch.setattr(rows_lib, "_fitted", lambda *_, seed: [])
    truth = np.array([0] * 90 + [1] * 10)
    h = np.eye(2)[np.where(np.arange(100) < 80, 0, 1)].astype(np.float32)  # ten of class 0 look like class 1
    rows = probes.probe_rows({"h": (np.eye(2, dtype=np.float32), h)}, np.arange(2), truth, num_classes=2, k=1)
    assert rows[0]["accuracy"] == pytest.approx(0.9)
    assert rows[0]["mean_class_accuracy"] == pytest.approx((80 / 90 + 1) / 2)


@pytest.mark.slow
def test_the_standard_error_is_never_zero_and_that_of_the_share_for_many_rows():
    (train, test), train_labels, test_labels = _features(num_test=90)
    far = {"h": (train + 100 * np.eye(6)[train_labels], test + 100 * np.eye(6)[test_labels])}
    rows = probes.probe_rows(far, train_labels, test_labels[:90], num_classes=3, fractions=(1.0,))
    assert rows[0]["accuracy"] == 1.0
    # Every share equally likely before: what is known after 90 hits of 90 is a beta distribution.
    after = np.random.default_rng(0).beta(1 + 90, 1 + 0, 200_000).std()
    assert rows[0]["standard_error"] == pytest.approx(after, rel=0.02)
    noise = {"h": (train[:, ::-1] * 0 + 1, test * 0 + 1)}
    share = probes.probe_rows(noise, train_labels, test_labels, num_classes=3, fractions=(1.0,))[0]
    expected = np.sqrt(share["accuracy"] * (1 - share["accuracy"]) / 90)
    assert share["standard_error"] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_probe_rows_leave_out_unlabelled_rows():
    (train, test), train_labels, test_labels = _features()
    hidden_train, hidden_test = train_labels.copy(), test_labels.copy()
    hidden_train[120:], hidden_test[30:] = -1, -1
    rows = probes.probe_rows({"h": (train, test)}, hidden_train, hidden_test, num_classes=3, fractions=(1.0,))
    expected = probes.probe_rows(
        {"h": (train[:120], test[:30])}, train_labels[:120], test_labels[:30], num_classes=3, fractions=(1.0,)
    )
    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in expected]
    assert rows[0]["num_labels"] == 120
    assert rows[0]["num_test"] == 30


def test_probe_rows_of_unlabelled_data_are_empty():
    features, train_labels, test_labels = _features()
    assert probes.probe_rows({"h": features}, np.full_like(train_labels, -1), test_labels, num_classes=3) == []


@pytest.mark.slow
def test_probe_rows_reduce_wide_pixels_and_say_so():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(150, 130)).astype(np.float32), rng.normal(size=(40, 130)).astype(np.float32)
    labels = np.arange(190) % 2
    rows = probes.probe_rows({"pixels": pixels}, labels[:150], labels[150:], num_classes=2, fractions=(1.0,))
    assert rows[1]["protocol"] == "linear.lbfgs.pca100.v1"
    assert rows[0]["protocol"] == "knn.k150.t0.1.v1"


def test_probe_rows_refuse_features_of_another_split():
    (train, test), train_labels, test_labels = _features()
    with pytest.raises(base.InputError, match="one row per label; 'h' has 90 and 240 rows"):
        probes.probe_rows({"h": (test, train)}, train_labels, test_labels, num_classes=3)
