"""The linear probe against scikit-learn."""

import numpy as np
import pytest
from sklearn import linear_model

from simclr_jax import base, probes
from simclr_jax.probes import logistic
from tests import parity


def _data(num_train=300, num_test=200, width=12, num_classes=4, spread=1.0):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, num_classes, num_train + num_test)
    features = rng.normal(size=(num_classes, width))[labels] + spread * rng.normal(size=(len(labels), width))
    features = (features * np.logspace(-2, 2, width) + np.arange(width)).astype(np.float32)
    return features[:num_train], labels[:num_train], features[num_train:], labels[num_train:]


def _standardized(train, test):
    train, test = train.astype(np.float64), test.astype(np.float64)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / scale, (test - mean) / scale


def _objective(features, labels, weights, bias, *, regularization):
    """Mean cross entropy and the penalty on the weights, in float64."""
    logits = features @ weights.astype(np.float64) + bias
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean() + regularization / 2 * np.sum(weights.astype(np.float64) ** 2)


@pytest.mark.few(2)
@pytest.mark.parametrize("regularization", [1.0, 1e-1, 1e-2, 1e-4])
def test_fit_logistic_finds_the_weights_of_scikit_learn(regularization, compare):
    train, labels, test, _ = _data(spread=2.0)
    train, _ = _standardized(train, test)
    reference = linear_model.LogisticRegression(C=1 / (regularization * len(train)), tol=1e-10, max_iter=5000)
    reference.fit(train, labels)
    weights, bias = probes.fit_logistic(train, labels, num_classes=4, regularization=regularization)
    # Stopped at a gradient of 1e-5; the curvature is at least the regularization, hence the wider last case.
    scale = max(1.0, 5e-3 / regularization)
    tolerance = {"limit": 2e-4, "of": "of max(1, 0.005 / strength)", "scale": scale, "source": "scikit-learn"}
    compare("logistic regression, weights", weights, reference.coef_.T, **tolerance)
    offsets = reference.intercept_ - reference.intercept_.mean()
    compare("logistic regression, weights", bias - bias.mean(), offsets, **tolerance)
    theirs = {"weights": reference.coef_.T, "bias": reference.intercept_}
    values = [
        _objective(train, labels, **fitted, regularization=regularization)
        for fitted in ({"weights": weights, "bias": bias}, theirs)
    ]
    compare("logistic regression, objective", *values, limit=1e-5, of=parity.EACH, source="scikit-learn")


def test_linear_predicts_as_scikit_learn_at_the_chosen_strength():
    train, labels, test, _ = _data(spread=2.0)
    probe = probes.linear(train, labels, test, num_classes=4, regularizations=(0.01, 1.0))
    scaled, scaled_test = _standardized(train, test)
    reference = linear_model.LogisticRegression(C=1 / (probe.regularization * len(train)), tol=1e-10, max_iter=5000)
    agreement = np.mean(reference.fit(scaled, labels).predict(scaled_test) == probe.predictions)
    # One of 200 rows may lie on a border within float32 rounding.
    assert agreement >= 0.995
    assert probe.predictions.dtype == np.int32


@pytest.mark.slow
def test_linear_chooses_the_strength_that_is_best_on_held_out_training_rows():
    train, labels, test, _ = _data(num_train=120, width=60, spread=3.0)
    probe = probes.linear(train, labels, test, num_classes=4)
    kept, held = probes.stratified_split(labels, 0.2)
    scaled, scaled_held = _standardized(train[kept], train[held])
    scores = {}
    for strength in logistic.REGULARIZATIONS:
        reference = linear_model.LogisticRegression(C=1 / (strength * len(kept)), tol=1e-8, max_iter=5000)
        reference.fit(scaled, labels[kept])
        loss = -np.mean(np.log(reference.predict_proba(scaled_held)[np.arange(len(held)), labels[held]]))
        scores[strength] = (reference.score(scaled_held, labels[held]), -loss)
    assert probe.regularization == max(scores, key=lambda strength: scores[strength])
    assert probe.validation_accuracy == pytest.approx(scores[probe.regularization][0], abs=1e-6)


def test_linear_never_looks_at_the_test_rows_when_fitting():
    train, labels, test, _ = _data()
    together = probes.linear(train, labels, test, num_classes=4)
    alone = probes.linear(train, labels, test[:5], num_classes=4)
    assert np.array_equal(together.predictions[:5], alone.predictions)
    assert together.regularization == alone.regularization


def test_linear_does_not_depend_on_the_scale_of_features():
    train, labels, test, _ = _data()
    moved = probes.linear(train * 64 + 3, labels, test * 64 + 3, num_classes=4)
    assert np.mean(moved.predictions == probes.linear(train, labels, test, num_classes=4).predictions) >= 0.99


def test_linear_ignores_constant_features():
    train, labels, test, _ = _data()
    plain = probes.linear(train, labels, test, num_classes=4).predictions
    dead, dead_test = np.full((len(train), 3), 0.1, np.float32), np.full((len(test), 3), 7.0, np.float32)
    wide = probes.linear(np.hstack([train, dead]), labels, np.hstack([test, dead_test]), num_classes=4).predictions
    assert np.mean(plain == wide) >= 0.99


@pytest.mark.slow
def test_linear_uses_the_middle_of_the_grid_when_nothing_can_be_held_out():
    train, _, test, _ = _data()
    probe = probes.linear(train[:4], np.arange(4), test, num_classes=4, regularizations=(1e-3, 1.0, 1e-1))
    assert probe.regularization == 0.1
    assert probe.validation_accuracy is None
    assert np.all(np.isfinite(probe.predictions))


def test_linear_separates_what_is_separable():
    train, labels, test, truth = _data(spread=0.05)
    assert probes.accuracy(probes.linear(train, labels, test, num_classes=4).predictions, truth) == 1.0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"regularizations": ()}, "one or more positive numbers"),
        ({"regularizations": (0.0, 1.0)}, "one or more positive numbers"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie"),
        ({"num_classes": 3}, "labels of a probe must lie"),
    ],
)
def test_linear_states_the_rule_that_was_broken(change, rule):
    train, labels, test, _ = _data()
    with pytest.raises(base.InputError, match=rule):
        probes.linear(train, labels, test, **({"num_classes": 4} | change))


@pytest.mark.slow
def test_common_scaling_is_the_probe_on_features_divided_by_one_number():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), 40)
    features = (rng.normal(size=(120, 5)) + labels[:, None]) * np.array([9.0, 3.0, 1.0, 0.3, 0.1])
    features = features.astype(np.float32)
    grid = (0.1,)
    found = probes.linear(features, labels, features, num_classes=3, regularizations=grid, scaling="common").predictions
    centered = features - features.mean(axis=0)
    scaled = centered / np.sqrt(np.mean(features.astype(np.float64).var(axis=0)))
    weights, bias = probes.fit_logistic(scaled.astype(np.float32), labels, num_classes=3, regularization=0.1)
    np.testing.assert_array_equal(found, np.argmax(scaled @ weights + bias, axis=1))


def test_an_unknown_scaling_is_refused():
    with pytest.raises(base.InputError, match="scaling must be one of each, common"):
        probes.linear(np.eye(4), np.array([0, 1, 0, 1]), np.eye(4), num_classes=2, scaling="none")
