"""Scores of a classifier's own logits, as a fine-tuned network is judged by."""

from typing import NamedTuple

import numpy as np

from simclr_jax import base


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """The fraction of rows whose label is among the k classes of highest logit, in [0, 1].

    Rows with label -1 are left out. Of equal logits the lower class comes first, and a logit that is not a number
    comes last: a network that gives every class the same logit is right as often as class 0 is.

    Args:
        logits: [N, C].
        labels: int [N], in [0, C) or -1.
        k: at least 1 and at most C; 1 gives the accuracy of the arg max.

    Raises:
        InputError: shapes do not fit, k or a label is out of range, or no row is labelled.

    Reference: top-1 and top-5 in tf2/metrics.py. Deliberate difference: Keras counts every class that ties with the
    k-th one, by which equal logits are always right.

    Example:
        >>> probes.top_k_accuracy(np.asarray([[0.1, 0.9], [0.8, 0.2]]), np.asarray([1, 1]), k=1)
        0.5
    """
    logits, labels = np.asarray(logits), np.asarray(labels, np.int64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise base.InputError(
            f"top_k_accuracy needs logits [N, C] and labels [N]; got shapes {logits.shape} and {labels.shape}. "
            "Use logits and labels of the same split."
        )
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise base.InputError(f"k must lie in [1, number of classes]; got {k} and {classes}. Use 1 or 5.")
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels) or labels.max() >= classes:
        received = f"{labels.max()} for {classes} classes" if len(labels) else "no labelled row"
        raise base.InputError(
            f"top_k_accuracy needs labelled rows with labels below C; got {received}. Use the classifier's own classes."
        )
    logits = np.where(np.isnan(logits), -np.inf, logits)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = (logits > own) | ((logits == own) & (np.arange(classes) < labels[:, None]))
    return float(np.mean(ahead.sum(axis=1) < k))


class ClassScores(NamedTuple):
    """Scores of every class, float64 [C] in [0, 1], not a number where there is nothing to divide by.

    precision: of the rows called so, the share that are. recall: of those that are, the share called so. f1: their
    harmonic mean. support: int64 [C], how many rows are.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def class_scores(counts: np.ndarray) -> ClassScores:
    """The scores of every class by the confusion matrix of `probes.confusion`, int [C, C], first axis the true class.

    Example:
        >>> probes.class_scores(np.asarray([[1, 1], [0, 2]])).recall.tolist()
        [0.5, 1.0]
    """
    counts = np.asarray(counts, np.float64)
    right, called, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ClassScores(right / called, right / support, 2 * right / (called + support), support.astype(np.int64))
