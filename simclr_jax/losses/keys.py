"""Contrastive losses whose candidates are no part of the gradient, or of the other view alone: MoCo, MoCo v3, NNCLR.

Inputs are outputs of the GLOBAL batch, before normalisation; computation is in float32 (float64 stays float64). Keys,
queues and neighbours are constants: no gradient reaches them.
"""

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import inputs

Array = jax.Array


def _choose(own: Array, others: Array, temperature: float) -> tuple[Array, Array]:
    """(mean cross entropy of finding one's own score [N, 1] among it and others [N, M], how often it is the highest).

    Entries of -inf in `others` are no candidates. The differences of scores are divided, and the probability of the
    own candidate is never subtracted from 1: where it is near 1 value and gradient keep their digits.
    """
    gaps = (others - own) / temperature
    top = jnp.max(gaps, axis=1, keepdims=True)
    shift = jax.lax.stop_gradient(jnp.maximum(top, 0))
    losses = shift[:, 0] + jnp.log1p(jnp.sum(jnp.exp(gaps - shift), axis=1) + jnp.expm1(-shift[:, 0]))
    return jnp.mean(losses), jnp.mean((top < 0).astype(own.dtype))


def moco(queries: Array, keys: Array, queue: Array, *, temperature: float = 0.07) -> tuple[Array, dict[str, Array]]:
    """MoCo's loss: (loss, metrics), scalars of at least float32.

    The mean over images of the cross entropy of finding the own key among it and the K rows of the queue, by cosines
    divided by the temperature. The other keys of the batch are no candidates.

    Args:
        queries: [B, d], of view 1.
        keys: [B, d], of view 2, by the momentum network.
        queue: [K, d], unit vectors.
        temperature: above 0; 0.07 in MoCo v1, 0.2 in v2.

    Returns:
        The loss, and {"contrastive_accuracy": how often the own key is more similar than the whole queue}.

    Raises:
        InputError: the arrays are not rows of one width, or temperature is not above 0.

    Reference: He et al. 2019 (arXiv 1911.05722), equation 1; builder.MoCo.forward of facebookresearch/moco.

    Example:
        >>> rows = jax.random.normal(key, (4, 8))
        >>> loss, metrics = losses.moco(rows, rows, losses.l2_normalize(rows[::-1] + 1))
        >>> float(metrics["contrastive_accuracy"])
        1.0
    """
    if queries.ndim != 2 or queries.shape != keys.shape or queue.ndim != 2 or queue.shape[1] != queries.shape[1]:
        raise base.InputError(
            f"moco needs queries and keys [B, d] and a queue [K, d]; got {list(queries.shape)}, {list(keys.shape)} and "
            f"{list(queue.shape)}. Give one view of each."
        )
    inputs.check_positive("temperature of moco", temperature, "Use for example 0.2.")
    q, k = inputs.unit_rows(queries), jax.lax.stop_gradient(inputs.unit_rows(keys))
    positive = jnp.sum(q * k, axis=1, keepdims=True)
    negatives = inputs.products(q, jax.lax.stop_gradient(queue).astype(q.dtype))
    loss, accuracy = _choose(positive, negatives, temperature)
    return loss, {"contrastive_accuracy": accuracy}


def moco_v3(queries: Array, keys: Array, *, temperature: float = 1.0) -> tuple[Array, dict[str, Array]]:
    """The loss of MoCo v3: (loss, metrics), scalars of at least float32.

    2 T (c(q1, k2) + c(q2, k1)), where c is the mean cross entropy of finding a view's key among the B keys of that
    view. Embeddings that are all equal give 4 T ln B.

    Args:
        queries: [B, 2, d], predictions of the online network.
        keys: [B, 2, d], projections of the momentum network.
        temperature: T, above 0; 1.0 for ResNets, 0.2 for transformers.

    Returns:
        The loss, and {"contrastive_accuracy": how often the own candidate is more similar than all others}, over both
        directions.

    Raises:
        InputError: the arrays are not [B, 2, d], or temperature is not above 0.

    Reference: Chen et al. 2021 (arXiv 2104.02057), algorithm 1; builder.contrastive_loss of facebookresearch/moco-v3.

    Example:
        >>> loss, _ = losses.moco_v3(jnp.ones((4, 2, 8)), jnp.ones((4, 2, 8)), temperature=0.5)
        >>> round(float(loss), 3)  # 2 ln 4
        2.773
    """
    inputs.check_pair(queries, keys, "moco_v3")
    inputs.check_positive("temperature of moco_v3", temperature, "Use for example 0.2.")
    q, k = inputs.unit_rows(queries), jax.lax.stop_gradient(inputs.unit_rows(keys))
    loss, metrics = _both_directions(q, k, temperature)
    return 4 * temperature * loss, metrics


def nnclr(neighbors: Array, predictions: Array, *, temperature: float = 0.1) -> tuple[Array, dict[str, Array]]:
    """NNCLR's loss: (loss, metrics), scalars of at least float32.

    The mean over both directions of the cross entropy with which the neighbour of a view finds the prediction of the
    other view of its image among the B predictions of that view. Embeddings that are all equal give ln B.

    Args:
        neighbors: [B, 2, d], what lies nearest to the projections of views 1 and 2 in the queue.
        predictions: [B, 2, d].
        temperature: above 0.

    Returns:
        The loss, and {"contrastive_accuracy": how often the own candidate is more similar than all others}, over both
        directions.

    Raises:
        InputError: the arrays are not [B, 2, d], or temperature is not above 0.

    Reference: Dwibedi et al. 2021 (arXiv 2104.14548), equation 3; nnclr_loss_func of solo-learn. Deliberate difference
    from the paper's appendix: no second term with the softmax over the other axis.

    Example:
        >>> round(float(losses.nnclr(jnp.ones((4, 2, 8)), jnp.ones((4, 2, 8)))[0]), 3)  # ln 4
        1.386
    """
    inputs.check_pair(neighbors, predictions, "nnclr")
    inputs.check_positive("temperature of nnclr", temperature, "Use for example 0.2.")
    n, p = jax.lax.stop_gradient(inputs.unit_rows(neighbors)), inputs.unit_rows(predictions)
    return _both_directions(n, p, temperature)


def _both_directions(anchors: Array, candidates: Array, temperature: float) -> tuple[Array, dict[str, Array]]:
    """Every anchor finds its image among the candidates of the other view; unit vectors [B, 2, d] both."""
    diagonal = jnp.eye(len(anchors), dtype=bool)
    values = []
    for view in (0, 1):
        scores = inputs.products(anchors[:, view], candidates[:, 1 - view])
        own = jnp.sum(jnp.where(diagonal, scores, 0), axis=1, keepdims=True)
        values.append(_choose(own, jnp.where(diagonal, -jnp.inf, scores), temperature))
    loss, accuracy = ((first + second) / 2 for first, second in zip(*values, strict=True))
    return loss, {"contrastive_accuracy": accuracy}


def nt_xent_with_memory(z: Array, memory: Array, *, temperature: float = 0.1) -> tuple[Array, dict[str, Array]]:
    """`losses.nt_xent` with the rows of a memory as further negatives: (loss, metrics), scalars of at least float32.

    Embeddings that are all equal give ln(2B - 1 + K). With an empty memory it is `nt_xent`.

    Args:
        z: [B, 2, d], projections of the global batch with the views on axis 1.
        memory: [K, d], unit vectors, constants.
        temperature: above 0.

    Returns:
        The loss, and {"contrastive_accuracy": how often the other view is more similar to a view than the other images
        of the batch and the memory}.

    Raises:
        InputError: the arrays do not fit together, or temperature is not above 0.

    Reference: Chen et al. 2020 (arXiv 2006.10029), section 2, in words only.

    Example:
        >>> z = jax.random.normal(key, (4, 2, 8))
        >>> loss, _ = losses.nt_xent_with_memory(z, jnp.zeros((0, 8)), temperature=0.5)
        >>> bool(jnp.allclose(loss, losses.nt_xent(z, temperature=0.5)[0], rtol=1e-5))
        True
    """
    inputs.check_views(z, "nt_xent_with_memory")
    inputs.check_rows(z[:, 0], memory, "nt_xent_with_memory")
    inputs.check_positive("temperature of nt_xent_with_memory", temperature, "Use for example 0.1.")
    u, rows = inputs.unit_rows(z), jax.lax.stop_gradient(inputs.wide(memory))
    diagonal = jnp.eye(len(u), dtype=bool)
    values = []
    for view in (0, 1):
        anchors = u[:, view]
        across, within = inputs.products(anchors, u[:, 1 - view]), inputs.products(anchors, anchors)
        own = jnp.sum(jnp.where(diagonal, across, 0), axis=1, keepdims=True)
        in_batch = [jnp.where(diagonal, -jnp.inf, scores) for scores in (across, within)]
        others = jnp.concatenate([*in_batch, inputs.products(anchors, rows.astype(u.dtype))], axis=1)
        values.append(_choose(own, others, temperature))
    loss, accuracy = ((first + second) / 2 for first, second in zip(*values, strict=True))
    return loss, {"contrastive_accuracy": accuracy}
