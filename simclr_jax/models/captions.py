"""A decoder that writes texts about images, and the search for the likeliest text.

What belongs here: the Flax module of CoCa's decoder, and decoding, greedy and with beams, for any function that gives
the scores of next tokens. Every submodule has an explicit name: memory, block{b}, cross{b}, norm, scores.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import layers, text

Array = jax.Array


class CrossBlock(nn.Module):
    """As `text.Block`, but tokens attend to a memory: x + attention(norm(x), memory), then x + mlp(norm(x))."""

    num_heads: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: Array, memory: Array) -> Array:
        """x [N, L, W], memory [N, M, W] -> [N, L, W]."""
        width, dtype, own = x.shape[-1], jnp.dtype(self.dtype), layers.state_dtype(self.dtype)

        def dense(features: int, name: str, y: Array) -> Array:
            init = nn.initializers.normal(width**-0.5)
            made: Array = nn.Dense(features, dtype=dtype, param_dtype=own, kernel_init=init, name=name)(y)
            return made

        def heads_of(y: Array) -> Array:
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        y = layers.layer_norm(self.dtype, "norm1")(x)
        key, value = jnp.split(dense(2 * width, "kv", memory), 2, axis=2)
        scores = jnp.einsum("nqhd,nkhd->nhqk", heads_of(dense(width, "q", y)), heads_of(key)).astype(own)
        shares = jax.nn.softmax(scores / math.sqrt(width // self.num_heads)).astype(dtype)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", shares, heads_of(value)).reshape(x.shape)
        x = x + dense(width, "out", mixed)
        y = layers.layer_norm(self.dtype, "norm2")(x)
        return x + dense(width, "mlp2", text.ACTIVATIONS[self.activation](dense(4 * width, "mlp1", y)))


class Captioner(nn.Module):
    """What stands before each place of a text, and an image -> the scores of the token at that place.

    memory_length: M, tokens that the image is given to the texts as.
    """

    vocab_size: int
    memory_length: int
    num_layers: int
    num_heads: int
    activation: str = "gelu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, h: Array, places: Array) -> Array:
        """h [N, D], places [N, L, W] of a causal text tower -> scores of the next token [N, L, vocab_size]."""
        num, length, width = places.shape
        dtype, own = jnp.dtype(self.dtype), layers.state_dtype(self.dtype)
        init = nn.initializers.normal(h.shape[1] ** -0.5)
        memory = nn.Dense(self.memory_length * width, dtype=dtype, param_dtype=own, kernel_init=init, name="memory")(
            h
        ).reshape(num, self.memory_length, width)
        visible = jnp.tril(jnp.ones((1, length, length), bool))
        out_std = width**-0.5 * (2 * self.num_layers) ** -0.5
        x = places.astype(dtype)
        for number in range(1, self.num_layers + 1):
            x = text.Block(self.num_heads, self.activation, out_std, self.dtype, name=f"block{number}")(x, visible)
            x = CrossBlock(self.num_heads, self.activation, self.dtype, name=f"cross{number}")(x, memory)
        x = layers.layer_norm(own.name, "norm")(x)
        scores = nn.Dense(self.vocab_size, use_bias=False, dtype=own, param_dtype=own, name="scores")
        found: Array = scores(x)
        return found


def decode(
    score_next: Callable[[Array], Array], *, num_texts: int, length: int, vocab_size: int, num_beams: int = 1
) -> tuple[Array, Array]:
    """Likely texts by beam search; one beam is greedy decoding.

    A text begins with vocab_size - 2 and ends with vocab_size - 1, behind which there are zeros. One that has no room
    for its end is cut off. Every step runs the whole network again: there is no cache of keys and values.

    Args:
        score_next: tokens int32 [num_texts, num_beams, length] -> scores [num_texts, num_beams, length, vocab_size], at
            each place those of the token behind it.
        num_texts: how many images.
        length, vocab_size: of the tokens.
        num_beams: K, texts that are kept at each step.

    Returns:
        tokens int32 [num_texts, length], and the logarithms of their probabilities [num_texts].

    Raises:
        InputError: num_beams is below 1.

    Reference: Yu et al. 2022 (CoCa); beam search without a penalty of the length, which favours short texts.

    Example:
        >>> always_ends = lambda tokens: jnp.zeros((*tokens.shape, 5)).at[..., 4].set(9.0)
        >>> captions.decode(always_ends, num_texts=1, length=4, vocab_size=5)[0].tolist()
        [[3, 4, 0, 0]]
    """
    if num_beams < 1:
        raise base.InputError(f"num_beams must be at least 1; got {num_beams}. 1 is greedy decoding.")
    tokens = jnp.zeros((num_texts, num_beams, length), jnp.int32).at[:, :, 0].set(vocab_size - 2)
    # All beams are one at first: the others must not be taken.
    total = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf) * jnp.ones((num_texts, 1))
    # A text that has ended goes on with 0, at no cost.
    rest = jnp.where(jnp.arange(vocab_size) == 0, 0.0, -jnp.inf)

    def extend(place: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tokens, total = carry
        logits = jnp.take(score_next(tokens), place - 1, axis=2).astype(jnp.float32)
        ended = jnp.any(tokens == vocab_size - 1, axis=2)
        gained = jnp.where(ended[..., None], rest, jax.nn.log_softmax(logits))
        total, chosen = jax.lax.top_k((total[..., None] + gained).reshape(num_texts, -1), num_beams)
        tokens = jnp.take_along_axis(tokens, (chosen // vocab_size)[..., None], axis=1)
        return tokens.at[:, :, place].set((chosen % vocab_size).astype(jnp.int32)), total

    tokens, total = jax.lax.fori_loop(1, length, extend, (tokens, total))
    return tokens[:, 0], total[:, 0]
