"""Top-k accuracy against the reference's recorded metrics and a loop."""

import numpy as np
import pytest

from simclr_jax import base, probes
from tests import golden, parity

GOLDEN = golden.load("losses_other")


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_accuracy_equals_the_reference(k, compare):
    ours = probes.top_k_accuracy(GOLDEN["eval_metrics/logits"], GOLDEN["eval_metrics/labels"], k=k)
    # The recorded mean is float32.
    compare("top-1 and top-5 accuracy", ours, GOLDEN[f"eval_metrics/top{k}"], limit=1e-6, of=parity.EACH)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_equals_the_loop_over_rows(k):
    rng = np.random.default_rng(0)
    # Few distinct values: nearly every row has ties.
    logits, labels = rng.integers(0, 3, (200, 5)).astype(np.float32), rng.integers(-1, 5, 200)
    hits = []
    for row, label in zip(logits, labels, strict=True):
        if label >= 0:
            hits.append(label in sorted(range(5), key=lambda c: (-row[c], c))[:k])
    assert probes.top_k_accuracy(logits, labels, k=k) == np.mean(hits)


def test_equal_logits_are_right_as_often_as_the_first_classes_are():
    assert probes.top_k_accuracy(np.zeros((4, 4)), np.arange(4), k=1) == 0.25
    assert probes.top_k_accuracy(np.full((4, 4), np.nan), np.arange(4), k=2) == 0.5


def test_a_logit_that_is_not_a_number_comes_last():
    logits = np.array([[np.nan, 1.0, 0.0], [5.0, np.nan, 1.0]])
    assert probes.top_k_accuracy(logits, [0, 0], k=1) == 0.5
    assert probes.top_k_accuracy(logits, [0, 0], k=2) == 0.5


def test_unlabelled_rows_are_left_out():
    assert probes.top_k_accuracy(np.eye(3), np.array([0, -1, 2]), k=1) == 1.0
    assert probes.top_k_accuracy(np.eye(3), np.array([0, -1, 1]), k=1) == 0.5


@pytest.mark.parametrize(
    ("logits", "labels", "k", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3), 1, "logits .N, C. and labels .N.; got shapes"),
        (np.zeros((2, 3)), np.zeros(2), 0, r"k must lie in \[1, number of classes\]; got 0 and 3"),
        (np.zeros((2, 3)), np.zeros(2), 4, "got 4 and 3"),
        (np.zeros((2, 3)), np.array([0, 3]), 1, "got 3 for 3 classes"),
        (np.zeros((2, 3)), np.array([-1, -1]), 1, "got no labelled row"),
    ],
)
def test_top_k_accuracy_refuses_what_it_cannot_count(logits, labels, k, message):
    with pytest.raises(base.InputError, match=message):
        probes.top_k_accuracy(logits, labels, k=k)
