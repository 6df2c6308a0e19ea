"""The ridge classifier and the scores of classes, against scikit-learn."""

import numpy as np
import pytest
from sklearn import linear_model, metrics

from simclr_jax import base, probes

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (15, 30)])
def test_ridge_solves_least_squares_on_standardized_features(rows, width):
    labels = np.arange(rows) % 3
    features = RNG.normal(2, 3, (rows, width)) + labels[:, None]
    features[:, 2] = 7  # without information
    fitted = probes.fit_ridge(features, labels, regularizations=(0.3,))
    scaled = np.delete((features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12), 2, axis=1)
    # scikit-learn's strength multiplies the sum over the rows.
    theirs = linear_model.Ridge(alpha=0.3 * rows, solver="svd").fit(scaled, 2.0 * np.eye(3)[labels] - 1)
    np.testing.assert_allclose(fitted.logits(features), theirs.predict(scaled), atol=2e-5)
    assert fitted.regularization == 0.3


def test_the_strength_is_chosen_on_held_out_training_rows_and_errors_are_said():
    labels = np.arange(60) % 2
    features = RNG.normal(size=(60, 80)) + 0.5 * labels[:, None]
    fitted = probes.fit_ridge(features, labels)
    kept, held = probes.stratified_split(labels, 0.2)
    scores = {
        strength: np.mean(
            probes.fit_ridge(features[kept], labels[kept], regularizations=(strength,))
            .logits(features[held])
            .argmax(axis=1)
            == labels[held]
        )
        for strength in (1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    }
    assert fitted.regularization == max(scores, key=scores.get) and fitted.validation_accuracy == max(scores.values())
    with pytest.raises(base.InputError, match="positive numbers"):
        probes.fit_ridge(features, labels, regularizations=(0.0,))


def test_the_kept_linear_classifier_decides_as_the_linear_probe_does():
    labels = np.arange(50) % 3
    features, test = (RNG.normal(size=(50, 5)) + 2 * np.eye(3, 5)[labels] for _ in range(2))
    kept, probe = probes.fit_linear(features, labels), probes.linear(features, labels, test)
    assert kept.regularization == probe.regularization
    np.testing.assert_array_equal(kept.probabilities(test).argmax(axis=1), probe.predictions)
    scores = np.exp(kept.logits(test).astype(np.float64))
    np.testing.assert_allclose(kept.probabilities(test), scores / scores.sum(axis=1, keepdims=True), atol=1e-6)


def test_class_scores_are_those_of_scikit_learn():
    labels, called = RNG.integers(0, 4, 80), RNG.integers(0, 4, 80)
    scores = probes.class_scores(probes.confusion(called, labels, num_classes=4))
    theirs = metrics.precision_recall_fscore_support(labels, called)
    np.testing.assert_allclose(scores, theirs)
    assert np.isnan(probes.class_scores(np.asarray([[2, 0], [0, 0]])).recall[1])
