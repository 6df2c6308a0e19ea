"""What the doctor says, and that it is silent about healthy runs."""

import pytest

from simclr_jax import probes

HEALTHY = {
    "scores": {"feature_deviation": 0.6, "effective_rank": 40.0, "rankme": 60.0, "uniformity": -2.5},
    "num_features": 512,
    "loss": 2.0,
    "uninformed_loss": 6.2,
    "temperature": 0.1,
    "knn": 0.8,
    "untrained_knn": 0.4,
    "knn_error": 0.01,
}


def said(**changes):
    return probes.diagnose(probes.Signs(**{**HEALTHY, **changes}))


def test_nothing_is_said_of_a_healthy_run_nor_of_one_that_was_not_measured():
    assert said() == [] == probes.diagnose(probes.Signs())
    # Below by less than the error of the difference.
    assert said(knn=0.39) == []
    # The loss may be there by chance, while neighbours have become better.
    assert said(loss=6.19) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"finite_share": 0.9, "dtype": "bfloat16"}, ["10 % of the features are NaN", "encoder.dtype=float32"]),
        ({"finite_share": 0.0}, ["100 % of the features", "computed in float32", "base_learning_rate"]),
        ({"scores": {"feature_deviation": 0.001, "effective_rank": 30}}, ["nearly the same features", "collapsed"]),
        ({"scores": {"feature_deviation": 0.4, "effective_rank": 1.01}}, ["one direction of 512", "1.01"]),
        ({"loss": 6.19, "knn": 0.41}, ["6.190", "all the same (6.200)", "nothing has been learned"]),
        ({"loss": 6.19, "knn": None}, ["nothing has been learned"]),
        ({"loss": 6.19, "temperature": 5.0}, ["temperature of 5", "hardly count", "between 0.05 and 0.5"]),
        ({"loss": 6.19, "temperature": 0.001}, ["only the single most similar"]),
        ({"knn": 0.3}, ["30.0 % on the trained features and 40.0 % on those of the same network untrained"]),
        ({"target": "still"}, ["has not moved", "method.target_decay below 1"]),
        ({"target": "same"}, ["the trained one itself", "above 0"]),
    ],
)
def test_one_plain_sentence_names_the_fault_and_the_remedy(changes, words):
    (sentence,) = said(**changes)
    assert all(word in sentence for word in words), sentence
    assert len(sentence) < 300 and sentence.endswith(".") and "\n" not in sentence


def test_the_gravest_fault_comes_first():
    sentences = said(finite_share=0.5, loss=6.2, knn=0.1, temperature=0.1)
    assert len(sentences) == 3 and "NaN" in sentences[0]
