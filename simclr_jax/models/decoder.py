"""From a vector back to an image: the decoder of autoencoders."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import layers

Array = jax.Array


class Decoder(nn.Module):
    """Dense, then as often as `widths` says: every pixel made 2 x 2, a 3 x 3 convolution, ReLU; at last colours.

    No BatchNorm: an image depends on its own vector alone. Pixels are repeated and then filtered, which does what a
    transposed convolution does without its chequered patterns (Odena et al. 2016).

    size: pixels a side. widths: channels of the convolutions, the first one at the lowest resolution.
    dtype: type of the activations; parameters and images are float32 (float64 if it is float64).
    num_parts: see `layers.Conv`.
    """

    size: int
    widths: tuple[int, ...]
    dtype: str = "float32"
    num_parts: int = 1

    @nn.compact
    def __call__(self, z: Array, *, train: bool) -> Array:
        """[N, D] -> images [N, size, size, 3] in (0, 1)."""
        del train
        state_dtype = layers.state_dtype(self.dtype)
        start = -(-self.size // 2 ** len(self.widths))
        x = nn.Dense(start**2 * self.widths[0], dtype=self.dtype, param_dtype=state_dtype, name="dense")(z)
        x = nn.relu(x).reshape(-1, start, start, self.widths[0])
        conv = functools.partial(layers.Conv, kernel_size=3, dtype=self.dtype, use_bias=True, num_parts=self.num_parts)
        for number, width in enumerate(self.widths, start=1):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = nn.relu(conv(width, name=f"conv{number}")(x))
        x = conv(3, name="colors")(x[:, : self.size, : self.size])
        return nn.sigmoid(x.astype(state_dtype))
