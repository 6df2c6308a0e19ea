"""Retrieval and classes by their names, beside loops."""

import numpy as np
import pytest

from simclr_jax import base, probes


def loop(image, text, owners, k):
    """(image to text, text to image), by sorting all cosines."""
    cosine = np.asarray([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in text] for a in image])
    of_images = [any(owners[j] == i for j in np.argsort(-row, kind="stable")[:k]) for i, row in enumerate(cosine)]
    of_texts = [owners[j] in np.argsort(-column, kind="stable")[:k] for j, column in enumerate(cosine.T)]
    return np.mean(of_images), np.mean(of_texts)


def test_recall_equals_its_loop_with_several_texts_an_image():
    rng = np.random.default_rng(0)
    owners = np.asarray([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])
    image = rng.normal(size=(6, 4))
    text = image[owners] + rng.normal(size=(10, 4))
    found = probes.retrieval_recall(image, text, owners, ks=(1, 3))
    for k in (1, 3):
        expected = loop(image, text, owners, k)
        assert (min(expected) > 0 and max(expected) < 1) or k == 3
        assert (found[f"image_to_text_recall_{k}"], found[f"text_to_image_recall_{k}"]) == pytest.approx(expected)


def test_chance_is_the_mean_over_projections_without_meaning():
    rng = np.random.default_rng(1)
    owners = np.asarray([0, 0, 0, 1, 2, 2])
    shapes = (3, 5), (6, 5)
    runs = [probes.retrieval_recall(*(rng.normal(size=x) for x in shapes), owners, ks=(1, 2)) for _ in range(2000)]
    for name, value in probes.chance_recall(owners, ks=(1, 2)).items():
        # Standard error of at most 0.5 / sqrt(2000), over all answers of a run together.
        assert np.mean([run[name] for run in runs]) == pytest.approx(value, abs=0.045)


def test_classes_are_the_mean_of_their_templates():
    rng = np.random.default_rng(2)
    text, image, labels = rng.normal(size=(7, 3, 4)), rng.normal(size=(9, 4)), rng.integers(-1, 7, 9)
    unit = [np.mean([row / np.linalg.norm(row) for row in own], axis=0) for own in text]
    nearest = [np.argsort([-(a @ b) / np.linalg.norm(b) for b in unit]) for a in image]
    known = [i for i in range(9) if labels[i] >= 0]
    expected = {f"top_{k}": np.mean([labels[i] in nearest[i][:k] for i in known]) for k in (1, 5)}
    assert probes.zero_shot_accuracy(image, labels, probes.class_vectors(text)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probes.retrieval_recall(np.eye(2), np.eye(3), np.arange(3)), "needs images"),
        (lambda: probes.retrieval_recall(np.eye(2), np.eye(2), np.zeros(2, int)), "a text for every image"),
        (lambda: probes.zero_shot_accuracy(np.eye(2), np.asarray([-1, -1]), np.eye(2)), "needs labelled images"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(call, message):
    with pytest.raises(base.InputError, match=message):
        call()


def test_projections_that_are_not_finite_find_nothing():
    found = probes.retrieval_recall(np.full((2, 3), np.nan), np.eye(3)[:2], np.arange(2), ks=(1, 5))
    assert set(found.values()) == {0.0}
