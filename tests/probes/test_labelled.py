"""Which rows carry labels, and when a score on them can tell anything."""

import numpy as np
import pytest

from simclr_jax import base, probes

NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("train", "test", "names", "reason"),
    [
        ([-1, -1], [-1], (), "no labels"),
        ([0, 0], [0], ("PetImages",), "one class, PetImages: is the folder one level too high?"),
        ([-1, 0], [-1], ("me",), "one class, me"),
        ([-1, -1], [0, 1], NAMES, "no training image has a label"),
        ([0, 0, -1], [0, 1], NAMES, "labelled training images are of one class, ant"),
        ([0, 1], None, NAMES, "test split has no images"),
        ([0, 1], [], NAMES, "test split has no images"),
        ([0, 1], [-1, -1], NAMES, "no test image has a label"),
        ([0, 1, -1], [2, 2, -1], NAMES, "no class in common"),
        ([0, 1, -1], [-1, 1], NAMES, None),
        ([0, 1], [0, 0], NAMES, None),
    ],
)
def test_a_probe_that_could_tell_nothing_is_known_from_the_labels(train, test, names, reason):
    found = probes.why_no_probe(np.array(train), None if test is None else np.array(test, int), class_names=names)
    assert found is None if reason is None else reason in found


def test_cautions_name_what_scores_do_not_tell():
    def said(train, test):
        return " ".join(probes.cautions(np.array(train), np.array(test), class_names=NAMES))

    assert said([0, 1] * 10, [0, 1] * 15) == ""
    assert "unlabelled: 1 of 3 training images, 0 of 30 test images" in said([0, 1, -1], [0, 1] * 15)
    assert "10 of 40 test images count as wrong in any case" in said([0, 1], [0, 1, 0, 2] * 10)
    assert "all labelled test images are of one class, bee" in said([0, 1], [1] * 30).lower()
    assert "Only 4 labelled test images: one more or less that is right moves a score by 25 points" in said(
        [0, 1], [0, 1, 0, 1, -1]
    )
    assert "Only 1 labelled test image:" in said([0, 1], [1])


def test_largest_error_is_that_of_a_coin_thrown_as_often():
    tosses = np.random.default_rng(0).integers(0, 2, (20_000, 25))
    assert probes.largest_error(25) == pytest.approx(100 * tosses.mean(axis=1).std(), rel=0.03)


def test_knn_accuracy_is_that_of_the_labelled_rows_and_none_without_them():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 5)), rng.normal(size=(20, 5))
    train_labels, test_labels = rng.integers(-1, 3, 40), rng.integers(-1, 3, 20)
    found = probes.knn_accuracy(train, train_labels, test, test_labels=test_labels, num_classes=3, k=1)
    # By hand: the label of the labelled training row of largest cosine.
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test)]
    hits = []
    for row, label in zip(unit[1], test_labels, strict=True):
        best = max((float(row @ other), int(own)) for other, own in zip(unit[0], train_labels, strict=True) if own >= 0)
        hits += [best[1] == label] if label >= 0 else []
    assert found == pytest.approx(sum(hits) / len(hits))
    none = np.full(40, -1)
    assert probes.knn_accuracy(train, none, test, test_labels=test_labels, num_classes=3) is None
    assert probes.knn_accuracy(train, train_labels, test, test_labels=none[:20], num_classes=3) is None


def test_rows_to_train_are_the_labelled_ones_of_at_least_two_classes():
    labels = np.array([-1, 0, 1, -1, 1])
    np.testing.assert_array_equal(probes.rows_to_train(labels, class_names=NAMES), [1, 2, 4])
    assert len(probes.rows_to_train(np.repeat([0, 1, -1], 20), class_names=NAMES, fraction=0.1)) == 4
    with pytest.raises(base.InputError, match="at least two classes; got one class, bee"):
        probes.rows_to_train(np.array([-1, 1]), class_names=NAMES)
    with pytest.raises(base.InputError, match="got no label among 2 images"):
        probes.rows_to_train(np.array([-1, -1]), class_names=(), fraction=0.1)
