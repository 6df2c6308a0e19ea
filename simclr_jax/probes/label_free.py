"""Scores of a representation that need no labels: how many directions it uses, how evenly, and what views share.

All are computed in float64 from features of one data set. They compare checkpoints of one run well, networks of other
widths or data badly, and none of them says what the features are good for.
"""

import numpy as np

from simclr_jax import base

# Beyond so many rows, evenly spaced ones are taken: pairs grow with their square.
MAX_ROWS = 16384
MAX_PAIRED_ROWS = 4096
_RANKME_EPSILON = 1e-7


def rankme(features: np.ndarray) -> float:
    """How many directions the features use, from 1 (all rows are multiples of one) to min(N, D).

    The exponential of the entropy of the singular values of the feature matrix, which is not centred, divided by their
    sum. Of more than 16,384 rows evenly spaced ones are taken.

    Args:
        features: [N, D], finite.

    Raises:
        InputError: another shape, no row, or a value that is not finite.

    Reference: Garrido et al. 2023 (RankMe), equations 1 and 2, with their epsilon of 1e-7; they use 25,600 rows.

    Example:
        >>> round(probes.rankme(np.eye(4)), 3)
        4.0
    """
    values = np.sqrt(_spectrum(_checked(features, limit=MAX_ROWS)))
    return _spread(values, epsilon=_RANKME_EPSILON)


def effective_rank(features: np.ndarray) -> float:
    """Over how many directions the variance of the features is spread, from 1 to min(N - 1, D).

    The exponential of the entropy of the eigenvalues of their covariance, divided by their sum. What all rows have in
    common, which rules `rankme` after a ReLU, does not count; large directions count more, as variances are squares.
    Features without any variance have rank 1.

    Args:
        features: [N, D], finite; of more than 16,384 rows evenly spaced ones are taken.

    Raises:
        InputError: as `rankme`.

    Reference: Roy and Vetterli 2007, effective rank, of the covariance matrix.

    Example:
        >>> round(probes.effective_rank(np.asarray([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 3)
        2.0
    """
    rows = _checked(features, limit=MAX_ROWS)
    return _spread(_spectrum(rows - rows.mean(axis=0)), epsilon=0.0)


def feature_deviation(features: np.ndarray) -> float:
    """How far the directions of the features are spread, from 0 (all alike) to about 1 (evenly over the sphere).

    The standard deviation of every component of the rows divided by their length, averaged over components, times
    sqrt(D). After a ReLU all components are positive and even a good representation stays below 1.

    Args:
        features: [N, D], finite.

    Raises:
        InputError: as `rankme`.

    Reference: Chen and He 2021 (SimSiam), section 4.1 and figure 2, where the ideal is 1 / sqrt(D).

    Example:
        >>> probes.feature_deviation(np.ones((5, 3)))
        0.0
    """
    units = _units(_checked(features, limit=MAX_ROWS))
    return float(np.mean(units.std(axis=0)) * np.sqrt(units.shape[1]))


def alignment(features: np.ndarray, others: np.ndarray) -> float:
    """How far two views of an image lie from each other, from 0 (no view matters) to 4 (opposite); 2 is unrelated.

    The mean squared distance of both features divided by their lengths.

    Args:
        features: [N, D], of one view of every image.
        others: [N, D], of another view of the same images.

    Raises:
        InputError: as `rankme`, or the shapes differ.

    Reference: Wang and Isola 2020, equation 1 with alpha = 2.

    Example:
        >>> probes.alignment(np.eye(2), np.eye(2)[::-1])
        2.0
    """
    if np.shape(features) != np.shape(others):
        raise base.InputError(
            f"alignment needs two views of the same images; got {np.shape(features)} and {np.shape(others)}."
            " Use one row per image in both."
        )
    one, other = (_units(_checked(views, limit=MAX_ROWS)) for views in (features, others))
    return float(np.mean(np.sum((one - other) ** 2, axis=1)))


def uniformity(features: np.ndarray) -> float:
    """How evenly the directions of the features cover the sphere: 0 if all are equal, towards -4 if evenly spread.

    The logarithm of the mean over all pairs of rows of exp(-2 * squared distance), rows divided by their lengths.

    Args:
        features: [N, D], at least two rows; of more than 4,096 evenly spaced ones are taken.

    Raises:
        InputError: as `rankme`, or a single row.

    Reference: Wang and Isola 2020, equation 2 with t = 2.

    Example:
        >>> probes.uniformity(np.ones((5, 3)))
        0.0
    """
    units = _units(_checked(features, limit=MAX_PAIRED_ROWS))
    count = len(units)
    if count < 2:
        raise base.InputError("uniformity is about pairs of rows; got one row. Use at least two images.")
    squares = np.maximum(2 - 2 * units @ units.T, 0.0)
    # Every pair stands twice in the matrix; a row and itself, at distance 0, are no pair.
    total = np.sum(np.exp(-2 * squares)) - np.sum(np.exp(-2 * np.diag(squares)))
    return float(np.log(total / (count * (count - 1))))


def label_free_scores(features: np.ndarray, pairs: np.ndarray | None = None) -> dict[str, float]:
    """All scores of this page by name; empty if a feature is not finite or there are fewer than two rows.

    Args:
        features: [N, D].
        pairs: [M, 2, D], of two views of images, for "alignment"; None leaves it out.

    Example:
        >>> sorted(probes.label_free_scores(np.eye(3)))
        ['effective_rank', 'feature_deviation', 'rankme', 'uniformity']
    """
    if len(features) < 2 or not np.isfinite(features).all():
        return {}
    functions = (rankme, effective_rank, feature_deviation, uniformity)
    scores = {function.__name__: function(features) for function in functions}
    if pairs is not None and len(pairs) and np.isfinite(pairs).all():
        scores["alignment"] = alignment(pairs[:, 0], pairs[:, 1])
    return scores


def _checked(features: np.ndarray, *, limit: int) -> np.ndarray:
    """At most `limit` evenly spaced rows as float64."""
    features = np.asarray(features)
    if features.ndim != 2 or not features.size:
        raise base.InputError(
            f"features must be an array [rows, D]; got shape {features.shape}. Use one row per image."
        )
    rows = np.unique(np.linspace(0, len(features) - 1, min(limit, len(features))).astype(np.int64))
    chosen = features[rows].astype(np.float64)
    if not np.isfinite(chosen).all():
        raise base.InputError("features must be finite; got NaN or infinity. Look at the training's loss and dtype.")
    return chosen


def _spectrum(rows: np.ndarray) -> np.ndarray:
    """The squared singular values of a matrix, min(N, D) of them."""
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    return np.maximum(np.linalg.eigvalsh(gram), 0.0)


def _spread(values: np.ndarray, *, epsilon: float) -> float:
    """exp(entropy) of values that are divided by their sum; 1 if all are 0."""
    total = values.sum()
    if not total > 0:
        return 1.0
    shares = values / total + epsilon
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _units(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
