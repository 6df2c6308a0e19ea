"""The table of probe results: every kind of features, every share of the labels, every probe; one row each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simclr_jax import base
from simclr_jax.probes import baselines, logistic, nearest, subsets

_PCA_COMPONENTS = 100


def probe_rows(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    k: int = 200,
    temperature: float = 0.1,
    weights: str = "similarity",
    seed: int = 0,
    pca_features: Sequence[str] = ("pixels",),
) -> list[dict[str, Any]]:
    """kNN and linear probe of every kind of features at every share of the labels, as rows of results.json.

    A row holds features (its name), labels ("1%", "10%", "100%"), probe ("knn" or "linear"), accuracy in [0, 1],
    standard_error of the accuracy over the test rows (never 0, also at an accuracy of 0 or 1), protocol, num_labels,
    num_test, k (kNN only), regularization (linear only) and chance (always naming the most frequent class of the test
    set). Rows with label -1 take no part; without labelled rows in both splits the table is empty.

    Args:
        features: name -> (train [N, D], test [M, D]); the kinds may differ in D.
        train_labels: int [N], -1 = unlabelled.
        test_labels: int [M], -1 = unlabelled.
        num_classes: C.
        fractions: shares of the training labels, each in (0, 1]; the rows of a share are `label_subset(..., seed)`.
        k: neighbours of kNN, capped at the number of labelled rows.
        temperature: of the kNN vote.
        weights: of kNN, see `nearest.knn`.
        seed: of the label subsets and of the split that chooses the strength of L2.
        pca_features: names whose linear probe sees 100 principal components (fitted on all training rows, labelled or
            not) instead of the features; these share one scale, and the protocol reads "linear.lbfgs.pca100.v1".

    Raises:
        InputError: if the features do not have one row per label.

    Reference: for the standard error Agresti and Coull 1998, with one added success and failure in place of two.

    Example:
        >>> features, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
        >>> rows = probes.probe_rows({"h": (features, features)}, labels, labels, num_classes=2, fractions=(1.0,))
        >>> [(row["probe"], row["accuracy"]) for row in rows]
        [('knn', 1.0), ('linear', 1.0)]
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check_rows(features, len(train_labels), len(test_labels))
    tested = np.flatnonzero(test_labels >= 0)
    if not len(tested) or not (train_labels >= 0).any():
        return []
    truth = test_labels[tested]
    chance = float(np.bincount(truth).max() / len(truth))
    rows: list[dict[str, Any]] = []
    for name, (train, test) in features.items():
        reduced = _reduced(train, test) if name in pca_features else None
        for fraction in fractions:
            chosen = subsets.label_subset(train_labels, fraction, seed=seed)
            labels = train_labels[chosen]
            common = {"features": name, "labels": f"{100 * fraction:g}%"}
            counts = {"num_labels": len(chosen), "num_test": len(tested), "chance": chance}
            how: dict[str, Any] = {"k": k, "temperature": temperature, "weights": weights}
            predictions = nearest.knn(train[chosen], labels, test[tested], num_classes=num_classes, **how)
            protocol = nearest.knn_protocol(k, temperature, len(chosen), weights=weights)
            extra = {"protocol": protocol, **counts, "k": min(k, len(chosen))}
            rows.append({**common, "probe": "knn", **_scores(predictions, truth), **extra})
            fit_train, fit_test, protocol, scaling = reduced or (train, test, logistic.LINEAR_PROTOCOL, "each")
            probe = logistic.linear(
                fit_train[chosen], labels, fit_test[tested], num_classes=num_classes, scaling=scaling, seed=seed
            )
            extra = {"protocol": protocol, **counts, "regularization": probe.regularization}
            rows.append({**common, "probe": "linear", **_scores(probe.predictions, truth), **extra})
    return rows


def _reduced(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, str, str] | None:
    """(train, test, protocol, scaling) after PCA; None if there are too few features for it to matter."""
    if train.shape[1] <= _PCA_COMPONENTS:
        return None
    train, test = baselines.reduce_by_pca(train, test, num_components=_PCA_COMPONENTS)
    return train, test, logistic.LINEAR_PROTOCOL.replace("standardized", f"pca{train.shape[1]}"), "common"


def _scores(predictions: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    accuracy, count = nearest.accuracy(predictions, truth), len(truth)
    # With one row more that is right and one that is wrong: three hits of three are no proof, their error is not 0.
    share = (count * accuracy + 1) / (count + 2)
    return {"accuracy": accuracy, "standard_error": float(np.sqrt(share * (1 - share) / (count + 2)))}


def _check_rows(features: Mapping[str, tuple[np.ndarray, np.ndarray]], num_train: int, num_test: int) -> None:
    for name, (train, test) in features.items():
        if len(train) != num_train or len(test) != num_test:
            raise base.InputError(
                f"features need one row per label; {name!r} has {len(train)} and {len(test)} rows for {num_train} and"
                f" {num_test} labels. Use features and labels of the same splits."
            )
