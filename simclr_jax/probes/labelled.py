"""Which rows carry a label, and whether a score on them can tell anything: asked before a probe or classifier runs.

Everywhere a label of -1 means unlabelled. Reasons and notes are clauses and sentences to show; nothing raises
but the checks of training, because a measurement which cannot be made is left out and never ends a run.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simclr_jax import base
from simclr_jax.probes import logistic, nearest, subsets

# Below this many test images the standard error reaches 9 points and more, so that scores are hints only.
FEW_TEST_IMAGES = 30


def labelled_rows(labels: np.ndarray | None) -> np.ndarray:
    """The rows that have a label (0 or above): sorted int64 indices; none where there are no labels at all (None).

    Example:
        >>> probes.labelled_rows(np.asarray([3, -1, 0])).tolist()
        [0, 2]
    """
    return np.flatnonzero(np.asarray([] if labels is None else labels) >= 0)


def why_no_probe(train_labels: np.ndarray, test_labels: np.ndarray | None, *, class_names: Sequence[str]) -> str | None:
    """Why no probe could tell anything on these labels, as a clause for "No probes: ..."; None where one can.

    A probe needs labelled training images of two classes, and labelled test images of which at least one belongs to
    a class it was taught. With one class alone every score would be 100 %, with no class in common 0 %.

    Args:
        train_labels: int [N], -1 = unlabelled.
        test_labels: int [M], -1 = unlabelled; None or empty where there is no test split.
        class_names: `class_names[label]`; empty for data without classes.

    Example:
        >>> probes.why_no_probe(np.asarray([0, 0]), np.asarray([0]), class_names=["cat"])
        'one class, cat: is the folder one level too high?'
    """
    taught = np.unique(np.asarray(train_labels)[labelled_rows(train_labels)])
    if not class_names:
        return "the images have no labels"
    if len(class_names) == 1:
        return f"one class, {class_names[0]}: is the folder one level too high?"
    if not len(taught):
        return "no training image has a label"
    if len(taught) == 1:
        return f"all labelled training images are of one class, {class_names[taught[0]]}"
    if test_labels is None or not len(test_labels):
        return "the test split has no images"
    tested = np.asarray(test_labels)[labelled_rows(test_labels)]
    if not len(tested):
        return "no test image has a label"
    if not np.isin(tested, taught).any():
        return "the labelled training and test images have no class in common"
    return None


def cautions(train_labels: np.ndarray, test_labels: np.ndarray, *, class_names: Sequence[str]) -> list[str]:
    """Sentences to show beside scores on these labels; empty where nothing is unusual.

    They name what was left out as unlabelled, test images that no probe can get right, a test split of one class, and
    one of fewer than FEW_TEST_IMAGES images.

    Args:
        train_labels: int [N], -1 = unlabelled.
        test_labels: int [M], of which at least one is labelled.
        class_names: `class_names[label]`.

    Example:
        >>> probes.cautions(np.arange(40) % 2, np.arange(40) % 2, class_names=["cat", "dog"])
        []
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    taught, tested = train_labels[labelled_rows(train_labels)], test_labels[labelled_rows(test_labels)]
    said = []
    if len(taught) < len(train_labels) or len(tested) < len(test_labels):
        said.append(
            f"Left out as unlabelled: {len(train_labels) - len(taught)} of {len(train_labels)} training images, "
            f"{len(test_labels) - len(tested)} of {len(test_labels)} test images."
        )
    unknown = tested[~np.isin(tested, taught)]
    if len(unknown):
        names = sorted({class_names[label] for label in unknown})
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        said.append(
            f"{len(unknown)} of {len(tested)} test images count as wrong in any case: no training image of their class "
            f"has a label ({listed})."
        )
    if len(set(tested.tolist())) == 1:
        said.append(
            f"All labelled test images are of one class, {class_names[tested[0]]}: always naming it scores 100 %, so "
            "that these scores show no skill. Hold out images of every class."
        )
    if len(tested) < FEW_TEST_IMAGES:
        images = "1 labelled test image" if len(tested) == 1 else f"{len(tested)} labelled test images"
        said.append(f"Only {images}: one more or less that is right moves a score by {100 / len(tested):.0f} points.")
    return said


def largest_error(num_test: int) -> float:
    """The largest standard error, in per cent points, that a share of `num_test` rows can have: 50 / sqrt(M).

    Example:
        >>> probes.largest_error(10000)
        0.5
    """
    return float(50 / np.sqrt(num_test))


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    test_labels: np.ndarray,
    num_classes: int | None = None,
    k: int = 200,
    temperature: float = 0.1,
    weights: str = "similarity",
) -> float | None:
    """Accuracy of `nearest.knn` on the labelled rows of both splits, in [0, 1]; None if one of them has none.

    Ask `why_no_probe` first: it needs no features, and says also when an accuracy would mean nothing.

    Args:
        train_features: [N, D].
        train_labels: int [N], -1 = unlabelled.
        test_features: [M, D].
        test_labels: int [M], -1 = unlabelled.
        num_classes: C; None for one more than the largest training label.
        k: neighbours, capped at the labelled training rows.
        temperature: see `nearest.knn`.
        weights: see `nearest.knn`.

    Example:
        >>> features, labels = np.asarray([[1.0, 0.0], [0.0, 1.0]]), np.asarray([0, 1])
        >>> probes.knn_accuracy(features, labels, features, test_labels=labels, k=1)
        1.0
    """
    how: dict[str, Any] = {"num_classes": num_classes, "k": k, "temperature": temperature, "weights": weights}
    predict = functools.partial(nearest.knn, **how)
    return _accuracy(predict, (train_features, train_labels), (test_features, test_labels))


def linear_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    test_labels: np.ndarray,
    num_classes: int | None = None,
    seed: int = 0,
) -> float | None:
    """Accuracy of `logistic.linear` on the labelled rows of both splits, in [0, 1]; None if one of them has none.

    Args:
        train_features: [N, D].
        train_labels: int [N], -1 = unlabelled.
        test_features: [M, D].
        test_labels: int [M], -1 = unlabelled.
        num_classes: C; None for one more than the largest training label.
        seed: of the split that chooses the strength of L2.

    Example:
        >>> features, labels = np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)
        >>> probes.linear_accuracy(features, labels, features, test_labels=labels)
        1.0
    """

    def predict(*arrays: np.ndarray) -> np.ndarray:
        return logistic.linear(*arrays, num_classes=num_classes, seed=seed).predictions

    return _accuracy(predict, (train_features, train_labels), (test_features, test_labels))


def _accuracy(
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> float | None:
    """The accuracy of `predict` on the labelled rows of both (features, labels); None if one of them has none."""
    (train_h, train_labels), (test_h, test_labels) = ((h, np.asarray(labels)) for h, labels in (train, test))
    fitted, scored = labelled_rows(train_labels), labelled_rows(test_labels)
    if not len(fitted) or not len(scored):
        return None
    predictions = predict(train_h[fitted], train_labels[fitted], test_h[scored])
    return nearest.accuracy(predictions, test_labels[scored])


def rows_to_train(labels: np.ndarray, *, class_names: Sequence[str], fraction: float | None = None) -> np.ndarray:
    """The rows that training with labels uses: all labelled ones, or the published subset of a share of them.

    Args:
        labels: int [N], -1 = unlabelled.
        class_names: `class_names[label]`.
        fraction: share of the labels, see `subsets.label_subset`; None for all.

    Returns:
        Sorted int64 indices.

    Raises:
        base.InputError: the labelled images are not of at least two classes, or the fraction is out of range.

    Example:
        >>> probes.rows_to_train(np.asarray([0, 1, -1]), class_names=["cat", "dog"]).tolist()
        [0, 1]
    """
    present = np.unique(np.asarray(labels)[labelled_rows(labels)])
    if len(present) < 2:
        got = f"one class, {class_names[present[0]]}" if len(present) else f"no label among {len(labels)} images"
        raise base.InputError(
            f"Training with labels needs training images of at least two classes; got {got}. Put the images into one "
            "folder per class, or train without labels (method.name=simclr, split.label_fraction=None)."
        )
    return subsets.label_subset(labels, 1.0 if fraction is None else fraction)
