"""The ridge probe against normal equations in float64 and scikit-learn."""

import numpy as np
import pytest

from simclr_jax import base, probes
from simclr_jax.probes import least_squares


def _blobs(num=240, width=7, num_classes=3, *, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    scale = np.geomspace(0.01, 100, width)
    features = scale * (1.2 * rng.normal(size=(num_classes, width))[labels] + rng.normal(size=(num, width)) + 3)
    return features.astype(np.float32), labels


def _least_squares(features, labels, num_classes, strength):
    """The penalised normal equations with a free bias, term by term."""
    rows = [np.append(row.astype(np.float64), 1.0) for row in features]
    size = len(rows[0])
    matrix, right = np.zeros((size, size)), np.zeros((size, num_classes))
    for row, label in zip(rows, labels, strict=True):
        matrix += np.outer(row, row) / len(rows)
        right[:, label] += row / len(rows)
    matrix[range(size - 1), range(size - 1)] += strength
    solution = np.linalg.solve(matrix, right)
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_fit_ridge_solves_the_normal_equations(strength):
    features, labels = _blobs()
    weights, bias = probes.fit_ridge(features, labels, num_classes=3, regularization=strength)
    expected_weights, expected_bias = _least_squares(features, labels, 3, strength)
    # Both in float64; the condition number of these features is about 1e9.
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-6, atol=1e-8)


def test_fit_ridge_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = _blobs()
    weights, bias = probes.fit_ridge(features, labels, num_classes=3, regularization=0.3)
    theirs = linear_model.Ridge(alpha=0.3 * len(labels)).fit(features.astype(np.float64), np.eye(3)[labels])
    np.testing.assert_allclose(weights, theirs.coef_.T, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=1e-6)


def test_the_probe_decides_as_scikit_learns_classifier_of_that_strength_on_standardised_features():
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = _blobs(400)
    train, test = features[:300], features[300:]
    found = probes.ridge(train, labels[:300], test)
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    theirs = linear_model.RidgeClassifier(alpha=found.regularization * 300).fit(
        (train - mean) / deviation, labels[:300]
    )
    np.testing.assert_array_equal(found.predictions, theirs.predict((test - mean) / deviation))
    assert found.regularization in least_squares.RIDGE_STRENGTHS and 0.5 < found.validation_accuracy <= 1


def test_the_strength_is_that_of_the_best_held_out_score():
    features, labels = _blobs(90, width=40)
    kept, held = probes.stratified_split(labels, 0.2)
    mean, deviation = features[kept].mean(axis=0, dtype=np.float64), features[kept].std(axis=0, dtype=np.float64)
    rows = (features - mean) / deviation
    scores = {}
    for strength in (1e-3, 1e-1, 10.0):
        weights, bias = _least_squares(rows[kept], labels[kept], 3, strength)
        guess = rows[held] @ weights + bias
        hits = np.mean(guess.argmax(axis=1) == labels[held])
        scores[strength] = (hits, -np.mean((guess - np.eye(3)[labels[held]]) ** 2), strength)
    found = probes.ridge(features, labels, features, regularizations=tuple(scores))
    assert found.regularization == max(scores.values())[2] and found.validation_accuracy == max(scores.values())[0]


def test_a_constant_feature_takes_no_part_and_parts_of_the_rows_add_up(monkeypatch):
    features, labels = _blobs()
    whole = probes.ridge(features, labels, features, scaling="common")
    monkeypatch.setattr(least_squares, "_SLICE", 50)
    constant = np.full((len(features), 1), 1e4, np.float32)
    found = probes.ridge(np.hstack([features, constant]), labels, np.hstack([features, constant]), scaling="each")
    np.testing.assert_array_equal(found.predictions, probes.ridge(features, labels, features).predictions)
    np.testing.assert_array_equal(
        probes.ridge(features, labels, features, scaling="common").predictions, whole.predictions
    )
    assert probes.ridge(features, labels, features[:0]).predictions.shape == (0,)


def test_mistakes_are_one_line():
    features, labels = _blobs()
    with pytest.raises(base.InputError, match="regularizations must be one or more positive numbers"):
        probes.ridge(features, labels, features, regularizations=(0.0,))
    with pytest.raises(base.InputError, match="one label per training row"):
        probes.ridge(features, labels[:5], features)
    with pytest.raises(base.InputError, match="scaling must be one of each, common"):
        probes.ridge(features, labels, features, scaling="none")
