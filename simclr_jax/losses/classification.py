"""Losses of classifiers: cross entropy with label smoothing, and the mean over the examples that count.

Computation is in float32 (float64 stays float64). Natural logarithms: losses are in nats.
"""

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import inputs

Array = jax.Array


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """-sum_c t_c log p_c of every example, p = softmax(logits): [...] of at least float32.

    The target t has 1 - S + S/C at the label and S/C at the other classes. An example labelled -1 (unlabelled) has
    the value 0 and no gradient.

    Args:
        logits: [..., C].
        labels: int [...], in [0, C) or -1.
        label_smoothing: S, in [0, 1).

    Raises:
        InputError: labels are not integers of the logits' shape without its last axis, or label_smoothing is out of
            range.

    Reference: add_supervised_loss in objective.py (TF1, which smooths) and tf2/objective.py (which does not).

    Example:
        >>> losses.cross_entropy(jnp.asarray([[2.0, 0.0]]), jnp.asarray([0])).round(3).tolist()
        [0.12700000405311584]
    """
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise base.InputError(
            f"logits [..., C] need integer labels [...]; got {list(logits.shape)} and {labels.dtype} "
            f"{list(labels.shape)}. Use one class number per example."
        )
    if not 0 <= label_smoothing < 1:
        raise base.InputError(f"label_smoothing must be at least 0 and below 1; got {label_smoothing}. Use 0.0 or 0.1.")
    log_p = jax.nn.log_softmax(inputs.wide(logits))
    # Comparing instead of indexing: -1 picks nothing, and the gradient needs no scatter.
    own = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    losses = -(1 - label_smoothing) * jnp.sum(jnp.where(own, log_p, 0), axis=-1)
    if label_smoothing:
        losses = losses - label_smoothing * jnp.mean(log_p, axis=-1)
    return jnp.where(labels >= 0, losses, 0)


def below_top(scores: Array, temperature: float | Array) -> Array:
    """(scores - their maximum) / temperature along the last axis: of the same softmax as scores / temperature.

    Scores that are divided first are rounded at the size of the largest logit, and a compiler may round the maximum
    and then not the entry it came from; the difference of two scores is rounded at its own size.
    """
    return (scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))) / temperature


def weighted_mean(values: Array, weights: Array) -> Array:
    """sum(values * weights) / (number of values whose weight is not 0): a scalar; 0 if all weights are 0.

    The divisor is a count and not the sum of the weights: weights of 0 and 1 choose the values that count, any other
    weight scales the share of its value.

    Args:
        values: float, any shape.
        weights: float, of a shape that broadcasts to that of `values`.

    Reference: tf.losses with its default reduction SUM_BY_NONZERO_WEIGHTS, used by objective.py (TF1).

    Example:
        >>> float(losses.weighted_mean(jnp.asarray([1.0, 3.0, 9.0]), jnp.asarray([1.0, 1.0, 0.0])))
        2.0
    """
    weights = jnp.broadcast_to(weights, values.shape).astype(values.dtype)
    count = jnp.count_nonzero(weights).astype(values.dtype)
    return jnp.sum(values * weights) / jnp.maximum(count, 1)
