"""InfoNCE: the cross entropy of finding a positive among candidates; CPC's grid and CLIP's pairs are forms of it."""

import math

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import classification, inputs

Array = jax.Array

# CLIP: the logits' scale starts at 1 / 0.07 and never exceeds 100.
CLIP_INITIAL_LOG_SCALE = math.log(1 / 0.07)
CLIP_MAX_LOG_SCALE = math.log(100)


def info_nce(
    anchors: Array, candidates: Array, positives: Array | None = None, *, temperature: float | Array = 0.1
) -> tuple[Array, dict[str, Array]]:
    """InfoNCE: (loss, metrics), scalars of at least float32.

    The mean over anchors of -log softmax(cosines with all candidates / temperature) at the anchor's positive.
    Embeddings that are all equal give ln M.

    Args:
        anchors: [N, d], before normalisation.
        candidates: [M, d], before normalisation.
        positives: int [N], the place of every anchor's positive among the candidates; None for 0, 1, ..., N - 1.
        temperature: above 0.

    Returns:
        The loss, and {"contrastive_accuracy": how often the positive is the most similar candidate}.

    Raises:
        InputError: anchors and candidates are not rows of one width, positives are not integers [N] (or are left out
            with fewer candidates than anchors), or temperature is not above 0.

    Reference: van den Oord et al. 2018 (arXiv 1807.03748), equation 4, with cosines and a temperature as MoCo and its
    successors have them.

    Example:
        >>> rows = jax.random.normal(key, (4, 8))
        >>> loss, metrics = losses.info_nce(rows, rows)
        >>> float(metrics["contrastive_accuracy"])
        1.0
    """
    inputs.check_rows(anchors, candidates, "info_nce")
    inputs.check_positive("temperature of info_nce", temperature, "Use for example 0.1.")
    num_anchors, num_candidates = anchors.shape[0], candidates.shape[0]
    if positives is None and num_candidates < num_anchors:
        raise base.InputError(
            f"info_nce without positives needs a candidate for every anchor; got {num_candidates} candidates and "
            f"{num_anchors} anchors. Give positives, int [N]."
        )
    if positives is None:
        positives = jnp.arange(num_anchors, dtype=jnp.int32)
    if positives.shape != anchors.shape[:1] or not jnp.issubdtype(positives.dtype, jnp.integer):
        raise base.InputError(
            f"positives of info_nce must be integers [{num_anchors}]; got {positives.dtype} {list(positives.shape)}. "
            "Give every anchor the row number of its positive among the candidates."
        )
    rows = (inputs.unit_rows(x) for x in (anchors, candidates))
    return choose(inputs.products(*rows), positives, temperature=temperature)


def choose(scores: Array, positives: Array, *, temperature: float | Array) -> tuple[Array, dict[str, Array]]:
    """(mean cross entropy, {"contrastive_accuracy"}) of scores [N, M] / temperature with positives int [N]."""
    values = classification.cross_entropy(classification.below_top(scores, temperature), positives)
    hits = jnp.argmax(scores, axis=1).astype(positives.dtype) == positives
    return jnp.mean(values), {"contrastive_accuracy": jnp.mean(hits.astype(scores.dtype))}


def cpc_grid(
    predictions: Array, targets: Array, *, step: int, scale: float | Array = 0.1
) -> tuple[Array, dict[str, Array]]:
    """CPC on a grid of patches, for one prediction step: (loss, metrics), scalars of at least float32.

    Row r of the predictions foretells row r + step + 1 of the targets in the same column of the same image, among ALL
    B H W targets; the logits are scale * dot products, nothing is normalised. The loss of a network is the sum over
    its steps, each with predictions of its own.

    Args:
        predictions: [B, H, W, d], made from a context that has seen rows up to r.
        targets: [B, H, W, d].
        step: 0 predicts the next row; below H - 1.
        scale: of the logits, above 0.

    Returns:
        The mean over predicting cells, and {"contrastive_accuracy"} as of `info_nce`.

    Raises:
        InputError: the shapes are not one [B, H, W, d], step leaves no row to predict, or scale is not above 0.

    Reference: van den Oord et al. 2018 (arXiv 1807.03748), section 3.2; Hénaff et al. 2020 (arXiv 1905.09272), section
    3.1, and CPCTask of lightning-bolts, which has this scale and these candidates. CPC v1 has a bilinear form in place
    of predictions: give predictions = W c.

    Example:
        >>> targets = jnp.eye(24).reshape(2, 4, 3, 24)
        >>> loss, _ = losses.cpc_grid(jnp.roll(targets, -1, axis=1), targets, step=0, scale=10.0)
        >>> bool(loss < 0.01)
        True
    """
    if predictions.ndim != 4 or predictions.shape != targets.shape:
        raise base.InputError(
            f"cpc_grid needs predictions and targets of one shape [B, H, W, d]; got {list(predictions.shape)} and "
            f"{list(targets.shape)}. Give one vector a patch of the grid."
        )
    num_images, height, width, depth = targets.shape
    if not 0 <= step < height - 1:
        raise base.InputError(
            f"step of cpc_grid must be 0 to {height - 2} for a grid of {height} rows; got {step}. Use fewer steps."
        )
    inputs.check_positive("scale of cpc_grid", scale, "Use 0.1.")
    places = jnp.arange(num_images * height * width, dtype=jnp.int32).reshape(num_images, height, width)
    predictions, targets = inputs.wide(predictions), inputs.wide(targets)
    rows = predictions[:, : height - step - 1].reshape(-1, depth)
    return choose(
        inputs.products(rows, targets.reshape(-1, depth)), places[:, step + 1 :].reshape(-1), temperature=1 / scale
    )


def clip(image: Array, text: Array, *, log_scale: Array | float) -> tuple[Array, dict[str, Array]]:
    """CLIP's loss between images and their texts: (loss, metrics), scalars of at least float32.

    The logits are exp(log_scale) times the cosines of all images with all texts; the loss is the mean of the cross
    entropies of finding a row's text among all and a text's image among all. The gradient of log_scale, a parameter of
    the network, is part of the gradient. Embeddings that are all equal give ln B.

    Args:
        image: [B, d], before normalisation.
        text: [B, d], likewise; row i belongs to image i.
        log_scale: scalar. It starts at CLIP_INITIAL_LOG_SCALE; see `clamp_log_scale`.

    Returns:
        The loss, and {"image_to_text_accuracy", "text_to_image_accuracy"}.

    Raises:
        InputError: image and text are not of one shape [B, d].

    Reference: Radford et al. 2021 (arXiv 2103.00020), figure 3; ClipLoss of open_clip, whose default of several
    processes has the gradient of both encoders divided by their number; this is that of the global batch.

    Example:
        >>> rows = jax.random.normal(key, (4, 8))
        >>> loss, _ = losses.clip(rows, rows, log_scale=jnp.asarray(4.6))
        >>> bool(loss < 0.1)
        True
    """
    if image.ndim != 2 or image.shape != text.shape:
        raise base.InputError(
            f"clip needs image and text of one shape [B, d]; got {list(image.shape)} and {list(text.shape)}. "
            "Give one text an image, from heads of one width."
        )
    image, text = (inputs.unit_rows(x) for x in (image, text))
    # exp(-s) as the temperature: differences of cosines are taken before the scale multiplies them.
    temperature = jnp.exp(-jnp.asarray(log_scale, image.dtype))
    own = jnp.arange(image.shape[0], dtype=jnp.int32)
    of_images, found_text = choose(inputs.products(image, text), own, temperature=temperature)
    of_texts, found_image = choose(inputs.products(text, image), own, temperature=temperature)
    return (of_images + of_texts) / 2, {
        "image_to_text_accuracy": found_text["contrastive_accuracy"],
        "text_to_image_accuracy": found_image["contrastive_accuracy"],
    }


def clamp_log_scale(log_scale: Array) -> Array:
    """CLIP's log_scale inside [0, ln 100]: to be done after every update of the parameters.

    Reference: Radford et al. 2021, section 2.5, and train_one_epoch of open_clip.

    Example:
        >>> losses.clamp_log_scale(jnp.asarray([-1.0, 2.0, 9.0])).round(3).tolist()
        [0.0, 2.0, 4.605000019073486]
    """
    return jnp.clip(log_scale, 0.0, CLIP_MAX_LOG_SCALE)
