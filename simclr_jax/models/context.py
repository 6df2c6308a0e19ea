"""A context network on a grid of vectors, for contrastive predictive coding: what the rows up to here have shown."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import layers

Array = jax.Array


class RowContext(nn.Module):
    """Residual convolutions in which a place of row r sees rows up to r only, of neighbouring columns.

    A block is ReLU, 1 x 1, ReLU, a convolution over two rows (this one and the one above) and three columns, ReLU,
    1 x 1, added to what came in; after n blocks a place has seen n rows above it. No BatchNorm, whose statistics would
    let rows know of those below.

    width: channels of the context. num_blocks: n.
    dtype: type of the activations; parameters and context are float32 (float64 if it is float64).
    """

    width: int
    num_blocks: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[B, G, G, d] -> context [B, G, G, width]."""
        del train
        state_dtype = layers.state_dtype(self.dtype)
        dense = functools.partial(nn.Dense, self.width, dtype=jnp.dtype(self.dtype), param_dtype=state_dtype)
        conv = functools.partial(nn.Conv, self.width, dtype=jnp.dtype(self.dtype), param_dtype=state_dtype)
        x = dense(name="dense_in")(x)
        for block in range(1, self.num_blocks + 1):
            y = dense(name=f"dense{block}a")(nn.relu(x))
            y = conv((2, 3), padding=((1, 0), (1, 1)), name=f"conv{block}")(nn.relu(y))
            x = x + dense(name=f"dense{block}b")(nn.relu(y))
        return x.astype(state_dtype)
