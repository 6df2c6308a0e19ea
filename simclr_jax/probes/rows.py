"""The table of probe results: every kind of features, every share of the labels, every probe; one row each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.probes import baselines, least_squares, logistic, nearest, protocols, subsets

_PCA_COMPONENTS = 100


class _Features(NamedTuple):
    """One kind of features, with those that a linear fit sees: the same, or principal components under one scale."""

    train: np.ndarray
    test: np.ndarray
    fitted_train: np.ndarray
    fitted_test: np.ndarray
    description: str
    scaling: str


def probe_rows(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    k: int = 200,
    more_k: Sequence[int] = (),
    temperature: float = 0.1,
    weights: str = "similarity",
    seed: int = 0,
    pca_features: Sequence[str] = ("pixels",),
) -> list[dict[str, Any]]:
    """kNN, linear and ridge probe of every kind of features at every share of the labels, as rows of results.json.

    A row holds features (its name), labels ("1%", "10%", "100%"), probe ("knn", "linear", "ridge", or "knn10" for 10
    out of `more_k`), accuracy in [0, 1], standard_error of the accuracy over the test rows (never 0, also at an
    accuracy of 0 or 1), mean_class_accuracy (the mean over the classes of the test set), protocol (a name of
    `PROTOCOLS`), num_labels, num_test, k (kNN only), regularization (linear and ridge) and chance (always naming the
    most frequent class of the test set). Rows with label -1 take no part; without labelled rows in both splits the
    table is empty.

    Args:
        features: name -> (train [N, D], test [M, D]); the kinds may differ in D.
        train_labels: int [N], -1 = unlabelled.
        test_labels: int [M], -1 = unlabelled.
        num_classes: C.
        fractions: shares of the training labels, each in (0, 1]; the rows of a share are `label_subset(..., seed)`.
        k: neighbours of kNN, capped at the number of labelled rows.
        more_k: further numbers of neighbours; left out where, so capped, they are one that is there already.
        temperature: of the kNN vote.
        weights: of kNN, see `nearest.knn`.
        seed: of the label subsets and of the split that chooses the strength of L2.
        pca_features: names whose linear and ridge probes see 100 principal components (fitted on all training rows,
            labelled or not) instead of the features; these share one scale, and the protocol says "pca100".

    Raises:
        InputError: if the features do not have one row per label.

    Reference: for the standard error Agresti and Coull 1998, with one added success and failure in place of two.

    Example:
        >>> features, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
        >>> rows = probes.probe_rows({"h": (features, features)}, labels, labels, num_classes=2, fractions=(1.0,))
        >>> [(row["probe"], row["accuracy"]) for row in rows]
        [('knn', 1.0), ('linear', 1.0), ('ridge', 1.0)]
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    _check_rows(features, len(train_labels), len(test_labels))
    tested = np.flatnonzero(test_labels >= 0)
    if not len(tested) or not (train_labels >= 0).any():
        return []
    truth = test_labels[tested]
    chance = float(np.bincount(truth).max() / len(truth))
    how: dict[str, Any] = {"temperature": temperature, "weights": weights}
    rows: list[dict[str, Any]] = []
    for name, (train, test) in features.items():
        kind = _prepared(train, test[tested], reduces=name in pca_features)
        for fraction in fractions:
            chosen = subsets.label_subset(train_labels, fraction, seed=seed)
            common = {"features": name, "labels": f"{100 * fraction:g}%"}
            counts = {"num_labels": len(chosen), "num_test": len(tested), "chance": chance}
            fit = (chosen, train_labels[chosen], num_classes)
            for found, predictions in [*_knn(kind, fit, [k, *more_k], **how), *_fitted(kind, fit, seed=seed)]:
                scores = _scores(predictions, truth)
                rows.append({**common, "probe": found.pop("probe"), **scores, **counts, **found})
    return rows


_Found = list[tuple[dict[str, Any], np.ndarray]]


def _knn(
    kind: _Features, fit: tuple[np.ndarray, np.ndarray, int], ks: Sequence[int], *, temperature: float, weights: str
) -> _Found:
    """(what to say, predictions) of kNN with every k, from one search."""
    chosen, labels, num_classes = fit
    labels = nearest.checked_labels(labels, rows=len(chosen), num_classes=num_classes)
    nearest.check_vote(k=min(ks), temperature=temperature, weights=weights)
    similarities, indices = nearest.neighbors(kind.train[chosen], kind.test, k=min(max(ks), len(chosen)))
    found: dict[int, tuple[dict[str, Any], np.ndarray]] = {}
    for k in ks:
        used = min(k, len(chosen))
        if used not in found:
            how: dict[str, Any] = {"num_classes": num_classes, "temperature": temperature, "weights": weights}
            predictions = nearest.vote(similarities[:, :used], indices[:, :used], labels, **how)
            protocol = nearest.knn_protocol(k, temperature, len(chosen), weights=weights)
            name = "knn" if not found else f"knn{k}"
            found[used] = ({"probe": name, "protocol": protocol, "k": used}, predictions)
    return list(found.values())


def _fitted(kind: _Features, fit: tuple[np.ndarray, np.ndarray, int], *, seed: int) -> _Found:
    """(what to say, predictions) of the probes that fit a linear map."""
    chosen, labels, num_classes = fit
    found: _Found = []
    for name, probe in (("linear", logistic.linear), ("ridge", least_squares.ridge)):
        result: Any = probe(
            kind.fitted_train[chosen],
            labels,
            kind.fitted_test,
            num_classes=num_classes,
            scaling=kind.scaling,
            seed=seed,
        )
        protocol = protocols.protocol_name(name, features=kind.description)
        said = {"probe": name, "protocol": protocol, "regularization": result.regularization}
        found.append((said, result.predictions))
    return found


def _prepared(train: np.ndarray, test: np.ndarray, *, reduces: bool) -> _Features:
    """The features of one kind, reduced by PCA if asked and if there are enough for it to matter."""
    if not reduces or train.shape[1] <= _PCA_COMPONENTS:
        return _Features(train, test, train, test, "standardized", "each")
    reduced = baselines.reduce_by_pca(train, test, num_components=_PCA_COMPONENTS)
    return _Features(train, test, *reduced, f"pca{reduced[0].shape[1]}", "common")


def _scores(predictions: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    accuracy, count = nearest.accuracy(predictions, truth), len(truth)
    # With one row more that is right and one that is wrong: three hits of three are no proof, their error is not 0.
    share = (count * accuracy + 1) / (count + 2)
    of_classes = [float(np.mean(predictions[truth == label] == label)) for label in np.unique(truth)]
    return {
        "accuracy": accuracy,
        "standard_error": float(np.sqrt(share * (1 - share) / (count + 2))),
        "mean_class_accuracy": float(np.mean(of_classes)),
    }


def _check_rows(features: Mapping[str, tuple[np.ndarray, np.ndarray]], num_train: int, num_test: int) -> None:
    for name, (train, test) in features.items():
        if len(train) != num_train or len(test) != num_test:
            raise base.InputError(
                f"features need one row per label; {name!r} has {len(train)} and {len(test)} rows for {num_train} and"
                f" {num_test} labels. Use features and labels of the same splits."
            )
