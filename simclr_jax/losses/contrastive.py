"""Contrastive losses over pairs of views: NT-Xent and what is said about it while training.

Inputs are the projections of the GLOBAL batch, one row per image and one column per view; computation is in float32
(float64 stays float64). Natural logarithms: losses and entropies are in nats.
"""

import math

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import classification, inputs

Array = jax.Array


def _cross_entropies(cross: Array, within: Array, temperature: float | Array) -> Array:
    """Per row of the first view, -log p(positive) among its 2B-1 candidates.

    Args:
        cross: [B, B] similarities to the other view; the diagonal holds the positives.
        within: [B, B] similarities to the same view; the diagonal is the row itself and is left out.
        temperature: as in `nt_xent`.
    """
    own = jnp.eye(cross.shape[0], dtype=bool)
    top = jnp.maximum(jnp.max(cross, axis=1), jnp.max(jnp.where(own, -jnp.inf, within), axis=1))
    # As in `classification.below_top`, with one maximum for both matrices.
    cross, within = ((s - jax.lax.stop_gradient(top)[:, None]) / temperature for s in (cross, within))
    candidates = jnp.exp(cross).sum(axis=1) + jnp.exp(jnp.where(own, -jnp.inf, within)).sum(axis=1)
    return jnp.log(candidates) - jnp.sum(jnp.where(own, cross, 0.0), axis=1)


def contrastive_metrics(cross: Array, temperature: float | Array) -> dict[str, Array]:
    """Accuracy and entropy of choosing a row's positive among the B rows of the other view."""
    cross, temperature = jax.lax.stop_gradient((cross, temperature))
    correct = jnp.argmax(cross, axis=1) == jnp.arange(cross.shape[0])
    shares = jnp.exp(classification.below_top(cross, temperature))
    probabilities = shares / jnp.sum(shares, axis=1, keepdims=True)
    entropies = -jnp.sum(probabilities * jnp.log(probabilities + 1e-8), axis=1)
    return {
        "contrastive_accuracy": jnp.mean(correct.astype(cross.dtype)),
        "contrastive_entropy": jnp.mean(entropies),
    }


def nt_xent(
    z: Array, *, temperature: float | Array = 0.1, normalize: bool = True, weights: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """The normalised temperature-scaled cross entropy of SimCLR: (loss, metrics), all scalars of at least float32.

    Every projection is an anchor: its positive is the image's other view, its negatives are both views of the 2(B-1)
    other images. The loss is the mean over the 2B anchors; embeddings that are all equal give `collapse_value(B)`.

    Args:
        z: [B, 2, d], projections of the global batch with the views on axis 1.
        temperature: the logits are similarities divided by it; above 0. SimCLR uses 0.1 to 0.5. An array of z's type
            may be given, for instance from a schedule; its value is not checked.
        normalize: divide each projection by its L2 norm first, which makes similarities cosines.
        weights: float [B] or scalar, of an image's two anchors; None weighs all alike. The weighted losses are divided
            by the number of weights that are not 0 and not by their sum (see `weighted_mean`). An image of weight 0 is
            still a candidate of the others, and the metrics count every image.

    Returns:
        The loss, and {"contrastive_accuracy", "contrastive_entropy"}: how often and with which entropy (at most
        ln B) view 1 of an image finds its view 2 among the view 2 of all images; same-view candidates do not count.

    Raises:
        InputError: z is not [B, 2, d], temperature is not above 0, or weights are neither [B] nor a scalar.

    Reference: SimCLR equation 1 and algorithm 1; add_contrastive_loss in tf2/objective.py and in objective.py (TF1,
    which has the weights), update_pretrain_metrics_train in tf2/metrics.py. Deliberate differences: this is the
    paper's mean over 2B anchors, the code adds the means of both views (twice this value); the code subtracts 1e9 from
    the logit of the row itself, here it is left out exactly; the batch is one global array, where the code gathers
    from replicas.

    Example:
        >>> z = jax.random.normal(key, (8, 2, 16))
        >>> loss, metrics = losses.nt_xent(z, temperature=0.5)
        >>> loss.shape, sorted(metrics)
        ((), ['contrastive_accuracy', 'contrastive_entropy'])
    """
    inputs.check_views(z, "nt_xent")
    inputs.check_positive("temperature", temperature, "SimCLR uses 0.1 to 0.5.")
    if weights is not None and jnp.shape(weights) not in ((), z.shape[:1]):
        raise base.InputError(
            f"weights of nt_xent must be a scalar or one per image; got shape {list(jnp.shape(weights))} "
            f"for {z.shape[0]} images."
        )
    z = inputs.unit_rows(z) if normalize else inputs.wide(z)
    first, second = z[:, 0], z[:, 1]
    cross = inputs.products(first, second)
    anchors_first = _cross_entropies(cross, inputs.products(first, first), temperature)
    # Not cross.T: with rows spread over devices, turning the matrix round is an all-to-all of all its values on TPUs.
    across = inputs.products(second, first)
    anchors_second = _cross_entropies(across, inputs.products(second, second), temperature)
    if weights is None:
        loss = (jnp.mean(anchors_first) + jnp.mean(anchors_second)) / 2
    else:
        # Both views of an image have its weight, so the mean of their losses has it too.
        loss = classification.weighted_mean((anchors_first + anchors_second) / 2, weights)
    return loss, contrastive_metrics(cross, temperature)


def collapse_value(batch_size: int) -> float:
    """ln(2B-1), the value of `nt_xent` when all embeddings are equal; a run that stays there has learnt nothing.

    Example:
        >>> round(losses.collapse_value(256), 3)
        6.236
    """
    return math.log(2 * batch_size - 1)
