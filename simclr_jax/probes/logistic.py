"""The linear probe: multinomial logistic regression on frozen features, solved to convergence by L-BFGS."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax import base
from simclr_jax.probes import nearest, subsets

REGULARIZATIONS = tuple(float(f"1e{power}") for power in range(-6, 2))

_Weights = tuple[jax.Array, jax.Array]


class LinearClassifier(NamedTuple):
    """A linear classifier of features: logits ((h - mean) / scale) @ weights + bias.

    weights: float32 [D, C]. bias: [C]. mean, scale: [D], of the rows that were fitted; scale is infinite for a constant
        feature.
    regularization, validation_accuracy: see `LinearProbe`.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    regularization: float
    validation_accuracy: float | None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32 [M, C] of features [M, D]."""
        scaled = (jnp.asarray(np.asarray(features, np.float32)) - self.mean) / self.scale
        return np.asarray(_logits((jnp.asarray(self.weights), jnp.asarray(self.bias)), scaled))

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float32 [M, C], the softmax of the logits: rows sum to 1."""
        return np.asarray(jax.nn.softmax(self.logits(features), axis=1))


class LinearProbe(NamedTuple):
    """What the linear probe found.

    predictions: int32 [M], class of every test row.
    regularization: the chosen strength, on the scale of the mean cross-entropy.
    validation_accuracy: in [0, 1], of the chosen strength on the held-out training labels; None if there were none.
    """

    predictions: np.ndarray
    regularization: float
    validation_accuracy: float | None


def linear(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    num_classes: int | None = None,
    regularizations: tuple[float, ...] = REGULARIZATIONS,
    validation_fraction: float = 0.2,
    scaling: str = "each",
    seed: int = 0,
) -> LinearProbe:
    """Logistic regression on standardised features; the strength of L2 is chosen without looking at the test set.

    Features are standardised by the mean and standard deviation of the rows that are fitted (a constant feature
    becomes 0). The strength is chosen on a stratified part of the TRAINING labels: highest accuracy, then lowest
    cross-entropy, then the strongest; then all training rows are fitted with it. A class with a single label stays in
    the fitted part. Where no class has two labels nothing can be held out, and the middle of the sorted grid is used.

    Args:
        train_features: [N, D], cast to float32.
        train_labels: int [N] in [0, C).
        test_features: [M, D].
        num_classes: C; None for one more than the largest training label.
        regularizations: grid of strengths, each above 0, on the scale of `fit_logistic`.
        validation_fraction: part of every class held out to choose the strength, in (0, 1).
        scaling: "each" divides every feature by its own standard deviation; "common" divides all by the root of their
            mean variance, for principal components, whose sizes carry meaning.
        seed: of the split into fitted and held-out rows.

    Raises:
        InputError: if scaling is unknown, labels are outside [0, C), shapes do not fit, or the grid is empty or not
            positive.

    Reference: SimCLR appendix B.8 (L2-regularised multinomial logistic regression by L-BFGS, strength chosen on a
    validation split, no augmentation). Differences: features are standardised, the strength multiplies the mean
    rather than the sum so that it carries over from the split to all rows, and the grid has 8 values, not 45.

    Example:
        >>> features, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
        >>> probes.linear(features, labels, np.eye(2)).predictions.tolist()
        [0, 1]
    """
    classifier = fit_linear(
        train_features,
        train_labels,
        num_classes=num_classes,
        regularizations=regularizations,
        validation_fraction=validation_fraction,
        scaling=scaling,
        seed=seed,
    )
    predictions = np.argmax(classifier.logits(test_features), axis=1).astype(np.int32)
    return LinearProbe(predictions, classifier.regularization, classifier.validation_accuracy)


def fit_linear(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    *,
    num_classes: int | None = None,
    regularizations: tuple[float, ...] = REGULARIZATIONS,
    validation_fraction: float = 0.2,
    scaling: str = "each",
    seed: int = 0,
) -> LinearClassifier:
    """The classifier of the linear probe, to be kept and applied. Arguments and choices are those of `linear`.

    Raises:
        InputError: as for `linear`.

    Example:
        >>> features, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
        >>> probes.fit_linear(features, labels).probabilities(np.eye(2)).argmax(axis=1).tolist()
        [0, 1]
    """
    base.check_choice(scaling, _SCALINGS, name="scaling", remedy="Use 'each'.")
    scales = _SCALINGS[scaling]
    num_classes = nearest.count_classes(train_labels) if num_classes is None else num_classes
    labels = nearest.checked_labels(train_labels, rows=len(train_features), num_classes=num_classes)
    grid = checked_grid(regularizations, validation_fraction)
    rows = _padded_count(len(labels))
    features = jnp.asarray(_padded(np.asarray(train_features, np.float32), rows))
    targets = jnp.asarray(_padded(labels.astype(np.int32), rows))
    kept, held = subsets.stratified_split(labels, validation_fraction, seed=seed)
    start = _zeros(features.shape[1], num_classes)
    if len(held) and len(grid) > 1:
        chosen, score, start = _choose(features, targets, (kept, held), grid=grid, start=start, scales=scales)
    else:
        chosen, score = grid[len(grid) // 2], None
    fitted = jnp.asarray(_indicator(np.arange(len(labels)), rows))
    mean, deviations = _standardization(features, fitted)
    scale = scales(deviations)
    weights = _solve((features - mean) / scale, targets, fitted, jnp.float32(chosen), start)
    solved, bias = (np.asarray(array) for array in weights)
    return LinearClassifier(solved, bias, np.asarray(mean), np.asarray(scale), chosen, score)


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int, regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weights float32 [D, C], bias float32 [C]) of the multinomial logistic regression on the features as given.

    Minimises mean cross-entropy + regularization / 2 * |weights|^2; the bias is free. This is the objective of
    scikit-learn's LogisticRegression with C = 1 / (regularization * number of rows).

    Example:
        >>> features, labels = np.asarray([[-1.0], [1.0]]), np.asarray([0, 1])
        >>> weights, bias = probes.fit_logistic(features, labels, num_classes=2, regularization=0.1)
        >>> weights.shape, bias.shape
        ((1, 2), (2,))
    """
    labels = nearest.checked_labels(labels, rows=len(features), num_classes=num_classes)
    rows = _padded_count(len(labels))
    weights, bias = _solve(
        jnp.asarray(_padded(np.asarray(features, np.float32), rows)),
        jnp.asarray(_padded(labels.astype(np.int32), rows)),
        jnp.asarray(_indicator(np.arange(len(labels)), rows)),
        jnp.float32(regularization),
        _zeros(features.shape[1], num_classes),
    )
    return np.asarray(weights), np.asarray(bias)


def _choose(
    features: jax.Array,
    targets: jax.Array,
    split: tuple[np.ndarray, np.ndarray],
    *,
    grid: list[float],
    start: _Weights,
    scales: Callable[[jax.Array], jax.Array],
) -> tuple[float, float, _Weights]:
    """(strength, validation accuracy, weights) of the best value of the grid on the held-out rows."""
    fitted, held = (jnp.asarray(_indicator(rows, len(features))) for rows in split)
    mean, deviations = _standardization(features, fitted)
    standardized = (features - mean) / scales(deviations)
    best = None
    # From strong to weak: the strong problems are quick, and each solution starts the next one.
    for strength in grid:
        start = _solve(standardized, targets, fitted, jnp.float32(strength), start)
        correct, loss = _score(start, standardized, targets, held)
        candidate = (float(correct), -float(loss))
        if best is None or candidate > best[0]:
            best = (candidate, strength, start)
    assert best is not None
    return best[1], best[0][0], best[2]


def checked_grid(regularizations: tuple[float, ...], validation_fraction: float) -> list[float]:
    """The strengths from strong to weak. Raises InputError unless they are positive and the fraction is in (0, 1)."""
    grid = sorted((float(value) for value in regularizations), reverse=True)
    if not grid or not grid[-1] > 0:
        raise base.InputError(f"regularizations must be one or more positive numbers; got {regularizations}. Use 1e-3.")
    if not 0 < validation_fraction < 1:
        raise base.InputError(f"validation_fraction must lie in (0, 1); got {validation_fraction}. Use 0.2.")
    return grid


def _padded_count(rows: int) -> int:
    """Rows after padding: few distinct counts, so that label subsets share compiled programs."""
    return 1 << max(6, (rows - 1).bit_length()) if rows <= 4096 else -(-rows // 2048) * 2048


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1))


def _indicator(rows: np.ndarray, count: int) -> np.ndarray:
    """float32 [count]: 1 / len(rows) on the given rows, 0 elsewhere; a weighted sum with it is a mean."""
    weights = np.zeros(count, np.float32)
    weights[rows] = 1.0 / len(rows)
    return weights


def _zeros(num_features: int, num_classes: int) -> _Weights:
    return jnp.zeros((num_features, num_classes), jnp.float32), jnp.zeros((num_classes,), jnp.float32)


def _logits(weights: _Weights, features: jax.Array) -> jax.Array:
    return jnp.matmul(features, weights[0], precision=jax.lax.Precision.HIGHEST) + weights[1]


@jax.jit
def _standardization(features: jax.Array, row_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Measured from the first row, so that a constant feature has exactly no spread.
    shifted = features - features[0]
    offset = jnp.einsum("n,nd->d", row_weights, shifted, precision=jax.lax.Precision.HIGHEST)
    variance = jnp.einsum("n,nd->d", row_weights, (shifted - offset) ** 2, precision=jax.lax.Precision.HIGHEST)
    scale = jnp.sqrt(variance)
    mean = features[0] + offset
    # A spread at the level of float32 rounding is a constant feature too, not information to be blown up.
    return mean, jnp.where(scale > 1e-6 * jnp.abs(mean), scale, jnp.full_like(scale, jnp.inf))


def _common_scale(deviations: jax.Array) -> jax.Array:
    """The root of the mean variance of all features that are not constant (a constant one has deviation infinity)."""
    finite = jnp.isfinite(deviations)
    mean_square = jnp.mean(jnp.where(finite, deviations, jnp.zeros_like(deviations)) ** 2)
    return jnp.where(finite, jnp.sqrt(mean_square), deviations)


_SCALINGS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "each": lambda deviations: deviations,
    "common": _common_scale,
}


@jax.jit
def _score(weights: _Weights, features: jax.Array, targets: jax.Array, row_weights: jax.Array) -> _Weights:
    logits = _logits(weights, features)
    correct = (jnp.argmax(logits, axis=1) == targets).astype(jnp.float32)
    return jnp.sum(row_weights * correct), jnp.sum(row_weights * _losses(logits, targets))


def _losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    # The maximum is taken off target and sum alike: beside a large logit, a small loss keeps its digits.
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames=("max_iterations", "tolerance"))
def _solve(
    features: jax.Array,
    targets: jax.Array,
    row_weights: jax.Array,
    regularization: jax.Array,
    start: _Weights,
    *,
    max_iterations: int = 300,
    tolerance: float = 1e-5,
) -> _Weights:
    """L-BFGS until no entry of the gradient exceeds `tolerance`, or `max_iterations`."""

    def objective(weights: _Weights) -> jax.Array:
        losses = _losses(_logits(weights, features), targets)
        return jnp.sum(row_weights * losses) + 0.5 * regularization * jnp.sum(weights[0] ** 2)

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def proceed(carry: tuple[_Weights, optax.OptState]) -> jax.Array:
        count, gradient = optax.tree.get(carry[1], "count"), optax.tree.get(carry[1], "grad")
        steep = jnp.maximum(*(jnp.max(jnp.abs(leaf)) for leaf in gradient)) > tolerance
        return (count == 0) | ((count < max_iterations) & steep)

    def step(carry: tuple[_Weights, optax.OptState]) -> tuple[_Weights, optax.OptState]:
        weights, state = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = solver.update(gradient, state, weights, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(weights, updates), state

    return jax.lax.while_loop(proceed, step, (start, solver.init(start)))[0]
