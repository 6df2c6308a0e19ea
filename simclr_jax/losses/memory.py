"""PIRL: an image and its shuffled patches against a memory with one row per training image.

The scores of an image are cosines with its own row of the memory (column 0) and with K other rows. The memory is a
constant of the gradient.
"""

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import candidates, inputs

Array = jax.Array

# Inside the denominators of the noise-contrastive loss: the reference's, which is that of float32.
_EPSILON = 2.0**-23


def _scores(rows: Array, memory: Array, index: Array) -> Array:
    """[B, 1 + K]: cosines of rows [B, d] with the rows `index` of the memory."""
    if rows.ndim != 2 or memory.ndim != 2 or rows.shape[1] != memory.shape[1] or index.shape[:-1] != rows.shape[:1]:
        raise base.InputError(
            "PIRL needs patches and image [B, d], memory [n, d] and index int [B, 1 + K]; got "
            f"{list(rows.shape)}, {list(memory.shape)} and {list(index.shape)}. Give each image its own row first."
        )
    rows = inputs.unit_rows(rows)
    drawn = jax.lax.stop_gradient(inputs.wide(memory))[index]
    return jnp.einsum("bd,bkd->bk", rows, drawn, precision=jax.lax.Precision.HIGHEST)


def pirl_nce(
    patches: Array,
    image: Array,
    *,
    memory: Array,
    index: Array,
    partition: Array | float,
    temperature: float | Array = 0.07,
    patches_weight: float = 0.5,
) -> tuple[Array, dict[str, Array]]:
    """PIRL by noise-contrastive estimation: (loss, metrics), scalars of at least float32.

    weight * L(patches) + (1 - weight) * L(image). With P = exp(s / T) / partition the probability of a row and K / n
    that of being drawn as noise, L is the mean over images of -log(P / (P + K/n)) at the own row less the sum over
    the K others of log((K/n) / (P + K/n)).

    Args:
        patches: [B, d], embeddings of the shuffled patches, before normalisation.
        image: [B, d], of the images.
        memory: [n, d] unit rows, one per training image.
        index: int [B, 1 + K], every image's own row and the rows of its noise.
        partition: see `pirl_partition`; fixed by the first batch of a run.
        temperature: above 0.
        patches_weight: in [0, 1].

    Returns:
        The loss, and {"patches_loss", "image_loss"}.

    Raises:
        InputError: the shapes do not fit, or temperature is not above 0.

    Reference: Misra and van der Maaten 2020 (arXiv 1912.01991), equations 3 to 5; NCELossWithMemory of VISSL, with its
    epsilon inside the denominators.

    Example:
        >>> memory = jnp.eye(4, 8)
        >>> index = jnp.asarray([[0, 1], [2, 3]])
        >>> loss, _ = losses.pirl_nce(memory[::2], memory[::2], memory=memory, index=index, partition=4.0)
        >>> loss.shape
        ()
    """
    inputs.check_positive("temperature of pirl_nce", temperature, "PIRL uses 0.07.")

    def noise_contrastive(rows: Array) -> Array:
        scores = _scores(rows, memory, index)
        noise = (index.shape[1] - 1) / memory.shape[0]
        log_p = scores / temperature - jnp.log(jnp.asarray(partition, scores.dtype))
        # log(P + K/n + epsilon) without P, which a low temperature would make infinite.
        log_both = jnp.logaddexp(log_p, jnp.log(jnp.asarray(noise + _EPSILON, scores.dtype)))
        of_noise = jnp.log(jnp.asarray(noise, scores.dtype)) - log_both[:, 1:]
        return -jnp.mean(log_p[:, 0] - log_both[:, 0] + jnp.sum(of_noise, axis=1))

    return _weigh(noise_contrastive(patches), noise_contrastive(image), patches_weight)


def pirl_cross_entropy(
    patches: Array,
    image: Array,
    *,
    memory: Array,
    index: Array,
    temperature: float | Array = 0.1,
    patches_weight: float = 0.5,
) -> tuple[Array, dict[str, Array]]:
    """PIRL with the cross entropy over the 1 + K scores in place of `pirl_nce`, whose arguments it has.

    Raises:
        InputError: the shapes do not fit, or temperature is not above 0.

    Reference: the PIRL recipe of VISSL with an MLP head (cross entropy, temperature 0.1).

    Example:
        >>> memory = jnp.eye(4, 8)
        >>> index = jnp.asarray([[0, 1], [2, 3]])
        >>> loss, _ = losses.pirl_cross_entropy(memory[::2], memory[::2], memory=memory, index=index)
        >>> bool(loss < 1e-4)
        True
    """
    inputs.check_positive("temperature of pirl_cross_entropy", temperature, "The recipe with an MLP head uses 0.1.")
    own = jnp.zeros(index.shape[:1], jnp.int32)
    of_patches, of_image = (
        candidates.choose(_scores(rows, memory, index), own, temperature=temperature)[0] for rows in (patches, image)
    )
    return _weigh(of_patches, of_image, patches_weight)


def _weigh(of_patches: Array, of_image: Array, patches_weight: float) -> tuple[Array, dict[str, Array]]:
    if not 0 <= patches_weight <= 1:
        raise base.InputError(f"patches_weight must be 0 to 1; got {patches_weight}. PIRL uses 0.5.")
    loss = patches_weight * of_patches + (1 - patches_weight) * of_image
    return loss, {"patches_loss": of_patches, "image_loss": of_image}


def pirl_partition(patches: Array, *, memory: Array, index: Array, temperature: float | Array = 0.07) -> Array:
    """The constant Z of `pirl_nce`: n times the mean of exp(s / T) over the scores of the patches of a first batch.

    Raises:
        InputError: the shapes do not fit, or temperature is not above 0.

    Reference: NCELossWithMemory of VISSL.

    Example:
        >>> float(losses.pirl_partition(jnp.zeros((2, 8)), memory=jnp.eye(4, 8), index=jnp.asarray([[0, 1], [2, 3]])))
        4.0
    """
    inputs.check_positive("temperature of pirl_partition", temperature, "PIRL uses 0.07.")
    scores = jax.lax.stop_gradient(_scores(patches, memory, index))
    return memory.shape[0] * jnp.mean(jnp.exp(scores / temperature))


def pirl_remember(memory: Array, image: Array, target: Array, *, momentum: float = 0.5) -> Array:
    """The memory [n, d] after a batch: row target_i becomes the unit vector of m row + (1 - m) unit(image_i).

    Args:
        memory: [n, d], unit rows.
        image: [B, d], embeddings of the images.
        target: int [B], the row of every image; no row twice.
        momentum: m, in [0, 1).

    Reference: Misra and van der Maaten 2020, section 3.2; NCELossWithMemory of VISSL.

    Example:
        >>> losses.pirl_remember(jnp.eye(2), jnp.asarray([[0.0, 2.0]]), jnp.asarray([1])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    unit = inputs.l2_normalize(jax.lax.stop_gradient(image).astype(memory.dtype))
    rows = momentum * memory[target] + (1 - momentum) * unit
    return memory.at[target].set(inputs.l2_normalize(rows))
