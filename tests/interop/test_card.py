"""The words of the card: what weights load into, which accuracies are theirs, and the rules of the input."""

import pytest

from simclr_jax import base
from simclr_jax.interop import card

PLAIN = {
    "name": "resnet18",
    "width_multiplier": 1.0,
    "stem": "imagenet",
    "sk_ratio": 0.0,
    "se_ratio": 0.0,
    "padding": "torchvision",
}
LOADER = "load_encoder of docs/weights.md"
CIFAR = " with conv1 3x3 of stride 1 and no maxpool"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "torchvision.models.resnet18"),
        ({"padding": "reference"}, LOADER),
        ({"stem": "cifar"}, "torchvision.models.resnet18" + CIFAR),
        # Nothing is padded differently there: no max-pool, and a bottleneck's first group has its projection anyway.
        ({"name": "resnet50", "stem": "cifar", "padding": "reference"}, "torchvision.models.resnet50" + CIFAR),
        ({"name": "resnet50", "padding": "reference"}, LOADER),
        ({"stem": "cifar", "padding": "reference"}, LOADER),
        ({"width_multiplier": 2.0}, LOADER),
        ({"name": "resnet200"}, LOADER),
        ({"sk_ratio": 0.0625, "padding": "reference"}, None),
        ({"se_ratio": 0.25, "padding": "reference"}, None),
    ],
)
def test_the_torch_class_is_torchvisions_only_where_the_features_are(changes, expected):
    assert card.torch_class({**PLAIN, **changes}) == expected


def test_accuracies_are_those_of_these_very_weights():
    rows = [{"probe": "knn", "accuracy": 0.5}]
    measured = {"probes": rows, "evaluated_step": 7, "classifier": {"top_1": 0.25}}
    assert card.accuracy(measured, step=7)["rows"] == rows
    assert card.accuracy(measured, step=7)["classifier"] == {"top_1": 0.25}
    other = card.accuracy(measured, step=8)
    assert other["rows"] == [] and other["classifier"] is None and "step 7" in other["note"]
    assert "No accuracy" in card.accuracy({}, step=7)["note"]


def test_both_bicubics_have_words_and_another_one_is_refused():
    rules = {card.preprocessing(size=32, center_crop=1.0, resize=name)["resize_rule"] for name in ("tf1", "tf2")}
    assert len(rules) == 2
    with pytest.raises(base.InputError, match="one of tf2, tf1; got 'lanczos'"):
        card.preprocessing(size=32, center_crop=1.0, resize="lanczos")
