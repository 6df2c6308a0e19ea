"""The ridge probe: least squares on one-hot classes with L2, in closed form, without iterations."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.probes import nearest, subsets

RIDGE_STRENGTHS = tuple(float(f"1e{power}") for power in range(-6, 3))
# Rows of one slice in float64: bounds memory on large sets.
_SLICE = 8192


class RidgeProbe(NamedTuple):
    """What the ridge probe found.

    predictions: int32 [M], class of every test row.
    regularization: the chosen strength, on the scale of the mean squared error.
    validation_accuracy: in [0, 1], of the chosen strength on the held-out training labels; None if there were none.
    """

    predictions: np.ndarray
    regularization: float
    validation_accuracy: float | None


class _Moments(NamedTuple):
    """Means and covariances of the fitted rows: of the scaled features [D, D], with the one-hot classes [D, C]."""

    mean: np.ndarray
    scale: np.ndarray
    shares: np.ndarray
    covariance: np.ndarray
    cross: np.ndarray


def ridge(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    num_classes: int | None = None,
    regularizations: Sequence[float] = RIDGE_STRENGTHS,
    validation_fraction: float = 0.2,
    scaling: str = "each",
    seed: int = 0,
) -> RidgeProbe:
    """Ridge regression on standardised features; the strength of L2 is chosen without looking at the test set.

    Standardisation, split and choice are those of `logistic.linear`, with the squared error in place of the
    cross-entropy. All in float64 on the host: memory D*D, time N*D*D.

    Args:
        train_features: [N, D].
        train_labels: int [N] in [0, C).
        test_features: [M, D].
        num_classes: C; None for one more than the largest training label.
        regularizations: grid of strengths, each above 0, on the scale of `fit_ridge`.
        validation_fraction: part of every class held out to choose the strength, in (0, 1).
        scaling: "each" or "common", see `logistic.linear`.
        seed: of the split into fitted and held-out rows.

    Raises:
        InputError: labels are outside [0, C), shapes do not fit, scaling is unknown, or the grid is empty or not
            positive.

    Reference: Hoerl and Kennard 1970; scikit-learn's RidgeClassifier. Deliberate differences: targets are 0 and 1, not
    -1 and 1 (the same decision in exact arithmetic), and the strength multiplies the mean of the errors.

    Example:
        >>> features, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
        >>> probes.ridge(features, labels, np.eye(2)).predictions.tolist()
        [0, 1]
    """
    base.check_choice(scaling, ("each", "common"), name="scaling", remedy="Use 'each'.")
    num_classes = nearest.count_classes(train_labels) if num_classes is None else num_classes
    labels = nearest.checked_labels(train_labels, rows=len(train_features), num_classes=num_classes)
    grid = sorted((float(value) for value in regularizations), reverse=True)
    if not grid or not grid[-1] > 0:
        raise base.InputError(f"regularizations must be one or more positive numbers; got {regularizations}. Use 1e-3.")
    kept, held = subsets.stratified_split(labels, validation_fraction, seed=seed)
    chosen, score = grid[len(grid) // 2], None
    if len(held) and len(grid) > 1:
        moments = _moments(train_features, labels, kept, num_classes=num_classes, scaling=scaling)
        candidates = []
        for strength, weights in zip(grid, _solutions(moments, grid), strict=True):
            scores = _predict(moments, weights, np.asarray(train_features)[held])
            hits = float(np.mean(scores.argmax(axis=1) == labels[held]))
            error = float(np.mean((scores - np.eye(num_classes)[labels[held]]) ** 2))
            candidates.append((hits, -error, strength))
        score, _, chosen = max(candidates)
    moments = _moments(train_features, labels, np.arange(len(labels)), num_classes=num_classes, scaling=scaling)
    scores = _predict(moments, _solutions(moments, [chosen])[0], np.asarray(test_features))
    return RidgeProbe(scores.argmax(axis=1).astype(np.int32), chosen, score)


def fit_ridge(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int, regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weights float64 [D, C], bias float64 [C]) of the ridge regression of one-hot classes on the features as given.

    Minimises the mean over rows of |features @ weights + bias - one_hot|^2, plus regularization * |weights|^2; the
    bias is free. This is scikit-learn's Ridge with alpha = regularization * number of rows.

    Example:
        >>> weights, bias = probes.fit_ridge(np.eye(2), np.asarray([0, 1]), num_classes=2, regularization=0.5)
        >>> weights.round(6).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    labels = nearest.checked_labels(labels, rows=len(features), num_classes=num_classes)
    moments = _moments(features, labels, np.arange(len(labels)), num_classes=num_classes, scaling=None)
    weights = _solutions(moments, [regularization])[0]
    return weights, moments.shares - moments.mean @ weights


def _moments(
    features: np.ndarray, labels: np.ndarray, rows: np.ndarray, *, num_classes: int, scaling: str | None
) -> _Moments:
    features = np.asarray(features)
    parts = [rows[start : start + _SLICE] for start in range(0, len(rows), _SLICE)]
    mean = np.sum([features[part].sum(axis=0, dtype=np.float64) for part in parts], axis=0) / len(rows)
    width = features.shape[1]
    covariance, cross = np.zeros((width, width)), np.zeros((width, num_classes))
    shares = np.bincount(labels[rows], minlength=num_classes) / len(rows)
    for part in parts:
        centred = features[part].astype(np.float64) - mean
        covariance += centred.T @ centred
        cross += centred.T @ np.eye(num_classes)[labels[part]]
    covariance, cross = covariance / len(rows), cross / len(rows)
    deviations = np.sqrt(np.diag(covariance))
    # A spread at the level of float32 rounding is a constant feature, not information to be blown up.
    varies = deviations > 1e-6 * np.abs(mean)
    if scaling is None:
        scale = np.ones(width)
    elif scaling == "common":
        scale = np.where(varies, np.sqrt(np.mean(np.where(varies, deviations, 0.0) ** 2)), np.inf)
    else:
        scale = np.where(varies, deviations, np.inf)
    return _Moments(mean, scale, shares, covariance / np.outer(scale, scale), cross / scale[:, None])


def _solutions(moments: _Moments, strengths: Sequence[float]) -> list[np.ndarray]:
    """The weights [D, C] of every strength, from one decomposition."""
    values, vectors = np.linalg.eigh(moments.covariance)
    rotated = vectors.T @ moments.cross
    return [vectors @ (rotated / (np.maximum(values, 0.0) + strength)[:, None]) for strength in strengths]


def _predict(moments: _Moments, weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Scores float64 [M, C]."""
    parts = [features[start : start + _SLICE] for start in range(0, len(features), _SLICE)] or [features]
    of_parts = [((part - moments.mean) / moments.scale) @ weights + moments.shares for part in parts]
    return np.concatenate(of_parts)
