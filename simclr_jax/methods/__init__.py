"""Training methods, each a NamedTuple of four pure functions (`base.Method`).

METHODS maps a name to `make_method(encoder, **section_of_the_config) -> base.Method`. `make_classify` gives the logits
of a network that was trained with a classifier.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from simclr_jax import base, losses
from simclr_jax.methods import simclr, supervised
from simclr_jax.methods.supervised import make_classify

__all__ = ["METHODS", "make_classify", "uninformed_loss"]

METHODS: dict[str, Callable[..., base.Method]] = {
    "simclr": simclr.make_simclr,
    "supervised": supervised.make_supervised,
}


def uninformed_loss(section: Mapping[str, Any], *, batch_size: int, num_classes: int) -> float:
    """The loss of a network whose embeddings are all the same, for the config's section of a method with its name.

    A run that stays at it learns nothing.
    """
    if section["name"] == "supervised":
        return math.log(num_classes)
    contrastive = section.get("loss_scale", 1.0) * losses.collapse_value(batch_size)
    weight = section.get("supervised_weight", 0.0)
    return contrastive + (weight * math.log(num_classes) if weight else 0.0)
