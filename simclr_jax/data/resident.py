"""A split which lives on the device as a whole: batches are gathered there from int32 indices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.data import imageset


class SplitArrays(NamedTuple):
    """The arrays of a split: images uint8 [N, H, W, 3], sizes int32 [N, 2], labels int32 [N].

    texts: int32 [N, C, L], see `ImageSet.tokens`; None for data without texts.
    """

    images: jax.Array | np.ndarray
    sizes: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray
    texts: jax.Array | np.ndarray | None = None


def split_arrays(image_set: imageset.ImageSet) -> SplitArrays:
    """The arrays of an image set that a batch needs, still on the host."""
    return SplitArrays(np.asarray(image_set.images), image_set.sizes, image_set.labels, image_set.tokens)


def gather_batch(split: SplitArrays, indices: jax.Array, positions: jax.Array) -> base.Batch:
    """The batch of the given examples; pure, meant to run inside `jit`.

    Args:
        split: the whole split.
        indices: int32 [B], examples; -1 marks a padding row.
        positions: int32 [B], places in the global batch.

    Returns:
        A `base.Batch`, with all texts of an example, [B, C, L], where the split has texts. Padding rows have mask
        False, label -1 and the pixels of example 0. Indices from N on are not checked (a jitted function cannot raise):
        they are clipped to the last example.
    """
    mask = indices >= 0
    rows = jnp.maximum(indices, 0)
    batch = base.Batch(
        image=jnp.take(split.images, rows, axis=0, mode="clip"),
        size=jnp.take(split.sizes, rows, axis=0, mode="clip"),
        label=jnp.where(mask, jnp.take(split.labels, rows, mode="clip"), jnp.int32(-1)),
        index=indices,
        position=positions,
        mask=mask,
    )
    if split.texts is not None:
        batch["text"] = jnp.take(split.texts, rows, axis=0, mode="clip")
    return batch


def resident_bytes(image_set: imageset.ImageSet) -> int:
    """Bytes of device memory which the split occupies."""
    return image_set.images.nbytes + image_set.sizes.nbytes + image_set.labels.nbytes
