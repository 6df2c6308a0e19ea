"""The linear classifier that is kept, and the scores of classes against scikit-learn."""

import numpy as np
from sklearn import metrics

from simclr_jax import probes

RNG = np.random.default_rng(0)


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
