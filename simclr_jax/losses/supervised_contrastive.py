"""SupCon: the contrastive loss whose positives are all views of all images of the same class."""

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import inputs

Array = jax.Array


def sup_con(
    z: Array, labels: Array, *, temperature: float | Array = 0.1, base_temperature: float | Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """The supervised contrastive loss: (loss, metrics), scalars of at least float32.

    Every one of the N = B V rows is an anchor. Its positives are the other rows of its label, its candidates all other
    rows; its value is the mean over positives of -log softmax(s / T). The loss is the mean over ALL anchors: one
    without a positive adds 0 and is counted. With a label for each image it is `nt_xent`. Embeddings that are all
    equal give ln(N-1). All [N, N] similarities are held at once.

    Args:
        z: [B, V, d] with at least two rows, the projections of the global batch before normalisation; V may be 1.
        labels: [B], whole numbers in an integer or float type. Rows below 0 are unlabelled: their only positives are
            the image's own views.
        temperature: the logits are cosines divided by it; above 0.
        base_temperature: the loss is multiplied by temperature / base_temperature; None for the paper's loss, without a
            factor. The released code has 0.07.

    Returns:
        The loss, and {"contrastive_accuracy": how often an anchor with positives is most similar to one of them}.

    Raises:
        InputError: z is not [B, V, d] of at least two rows, labels are not [B], or a temperature is not above 0.

    Reference: Khosla et al. 2020 (arXiv 2004.11362), equation 2; SupConLoss of losses.py in their code. Deliberate
    differences: no factor unless it is asked for; unlabelled images.

    Example:
        >>> z = jax.random.normal(key, (8, 2, 16))
        >>> loss, _ = losses.sup_con(z, jnp.arange(8), temperature=0.5)
        >>> bool(jnp.allclose(loss, losses.nt_xent(z, temperature=0.5)[0], rtol=1e-5))
        True
    """
    if z.ndim != 3 or z.shape[0] * z.shape[1] < 2 or labels.shape != z.shape[:1]:
        raise base.InputError(
            "sup_con needs z [B, V, d] of at least two rows and labels [B]; "
            f"got {list(z.shape)} and {list(labels.shape)}. Put the views on axis 1 and give one label an image."
        )
    inputs.check_positive("temperature of sup_con", temperature, "The paper uses 0.1.")
    if base_temperature is not None:
        inputs.check_positive("base_temperature of sup_con", base_temperature, "The released code has 0.07.")
    num_images, num_views, width = z.shape
    rows = inputs.unit_rows(z).reshape(-1, width)
    image = jnp.repeat(jnp.arange(num_images, dtype=jnp.int32), num_views)
    label = jnp.repeat(labels, num_views)
    other = ~jnp.eye(len(image), dtype=bool)
    alike = (label[:, None] == label[None]) & (label >= 0)[:, None]
    positive = (alike | (image[:, None] == image[None])) & other
    similarities = inputs.products(rows, rows)
    logits = jnp.where(other, similarities, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True))
    log_sums = jnp.log(jnp.sum(jnp.exp((logits - top) / temperature), axis=1))
    count = jnp.sum(positive, axis=1).astype(rows.dtype)
    mean_of_positives = jnp.sum(jnp.where(positive, similarities - top, 0.0), axis=1) / jnp.maximum(count, 1)
    values = jnp.where(count > 0, log_sums - mean_of_positives / temperature, 0.0)
    loss = jnp.mean(values)
    if base_temperature is not None:
        loss = loss * (temperature / base_temperature)
    return loss, {"contrastive_accuracy": _accuracy(logits, positive)}


def _accuracy(logits: Array, positive: Array) -> Array:
    has_positive = jnp.any(positive, axis=1)
    nearest = jnp.argmax(jax.lax.stop_gradient(logits), axis=1)
    hits = jnp.take_along_axis(positive, nearest[:, None], axis=1)[:, 0]
    return jnp.sum((hits & has_positive).astype(logits.dtype)) / jnp.maximum(jnp.sum(has_positive), 1).astype(
        logits.dtype
    )
