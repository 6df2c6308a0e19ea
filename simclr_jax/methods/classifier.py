"""The linear classifier that methods train: its parameters, its logits, its loss row by row and the reduction.

The classifier is one dense layer with bias, at params["supervised_head"]["dense"].
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses

Array = jax.Array
PyTree = base.PyTree


def check_num_classes(num_classes: int) -> None:
    """Raises InputError unless there are at least two classes."""
    if num_classes < 2:
        raise base.InputError(
            f"a classifier needs num_classes of at least 2; got {num_classes}. Use data with labels of several classes."
        )


def init_classifier(
    key: Array, features: Array | jax.ShapeDtypeStruct, *, num_classes: int, kernel_init: nn.initializers.Initializer
) -> PyTree:
    """{"dense": {"kernel" [D, C], "bias" [C]}} for features [N, D] and of their type; the bias is 0."""
    dense = nn.Dense(num_classes, param_dtype=features.dtype, kernel_init=kernel_init)
    return {"dense": dense.lazy_init(key, features)["params"]}


def classify(params: PyTree, features: Array) -> Array:
    """Logits [N, C] of features [N, D]; `params` is the method's whole tree."""
    dense = params["supervised_head"]["dense"]
    logits = nn.Dense(dense["bias"].shape[-1]).apply({"params": dense}, features)
    assert isinstance(logits, Array)
    return logits


def score_rows(logits: Array, batch: base.Batch, *, label_smoothing: float = 0.0) -> dict[str, Array]:
    """Per image, so that a batch may be embedded in parts and reduced as a whole by `reduce_rows`.

    Args:
        logits: [B, V, C]; the views of an image share its label.
        batch: of which "label" and "mask" are read. Images labelled -1 and padding rows do not count.
        label_smoothing: see `losses.cross_entropy`.

    Returns:
        Float [B] each: "supervised_losses" (mean cross entropy of an image's views), "supervised_hits" (the share of
        its views whose highest logit is at the label), "labelled" (1 where the image counts, else 0).
    """
    labels = jnp.broadcast_to(batch["label"][:, None], logits.shape[:2])
    values = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    hits = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    labelled = (batch["label"] >= 0) & batch["mask"]
    return {
        "supervised_losses": jnp.mean(values, axis=1),
        "supervised_hits": jnp.mean(hits.astype(values.dtype), axis=1),
        "labelled": labelled.astype(values.dtype),
    }


def reduce_rows(outputs: PyTree) -> tuple[Array, dict[str, Array]]:
    """(mean cross entropy, {"supervised_loss", "supervised_accuracy"}) of the labelled images; 0 if there are none."""
    loss, accuracy = (
        losses.weighted_mean(outputs[name], outputs["labelled"]) for name in ("supervised_losses", "supervised_hits")
    )
    return loss, {"supervised_loss": loss, "supervised_accuracy": accuracy}
