"""The text tower: a transformer over tokens, causal as CLIP's or bidirectional.

Rows of tokens end with the highest number of the vocabulary, the end of the text; what follows is padding and is read
by no one. LayerNorm and parameters are float32 (float64 if `dtype` is float64), activations of type `dtype`.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import layers

Array = jax.Array


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x): the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": quick_gelu,
}
ATTENTIONS = ("causal", "bidirectional")


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)) with four times the width.

    out_std: standard deviation of the initial weights of the two layers that write to the residual stream.
    """

    num_heads: int
    activation: str
    out_std: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array, visible: Array) -> Array:
        """x [N, L, W]; `visible` bool [N or 1, L, L]: which columns a row of the attention reads."""
        width, dtype, own = x.shape[-1], jnp.dtype(self.dtype), layers.state_dtype(self.dtype)

        def dense(features: int, std: float, name: str) -> nn.Dense:
            init = nn.initializers.normal(std)
            return nn.Dense(features, dtype=dtype, param_dtype=own, kernel_init=init, name=name)

        y = layers.layer_norm(self.dtype, "norm1")(x)
        qkv = dense(3 * width, width**-0.5, "qkv")(y)
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], 3 * self.num_heads, -1), 3, axis=2)
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k).astype(own) / math.sqrt(width // self.num_heads)
        shares = jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf)).astype(dtype)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", shares, v).reshape(x.shape)
        x = x + dense(width, self.out_std, "out")(mixed)
        y = layers.layer_norm(self.dtype, "norm2")(x)
        y = ACTIVATIONS[self.activation](dense(4 * width, (2 * width) ** -0.5, "mlp1")(y))
        return x + dense(width, self.out_std, "mlp2")(y)


class TextTower(nn.Module):
    """Tokens -> one vector a text; `make_text_tower` checks the fields and says what they are."""

    vocab_size: int
    length: int
    width: int = 512
    num_layers: int = 12
    num_heads: int = 8
    attention: str = "causal"
    activation: str = "gelu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False, at_all_places: bool = False) -> Array:
        """tokens int32 [N, length] -> [N, width], the last layer's output at the end of the text.

        With `at_all_places` [N, length, width]: those at every place, to which the end is one.
        """
        del train  # nothing in it differs
        if tokens.ndim != 2 or tokens.shape[1] != self.length or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise base.InputError(
                f"texts must be whole numbers [B, {self.length}], tokens up to the tower's length; got "
                f"{tokens.dtype} {list(tokens.shape)}. Fill short texts up with 0, or set text_length."
            )
        dtype, own = jnp.dtype(self.dtype), layers.state_dtype(self.dtype)
        table = self.param("token_embedding", nn.initializers.normal(0.02), (self.vocab_size, self.width), own)
        places = self.param("position_embedding", nn.initializers.normal(0.01), (self.length, self.width), own)
        x = (jnp.take(table, tokens, axis=0, mode="clip") + places).astype(dtype)
        end, place = end_of_text(tokens), jnp.arange(self.length, dtype=jnp.int32)
        if self.attention == "causal":
            visible = (place[None] <= place[:, None])[None]
        else:
            visible = jnp.broadcast_to(place <= end[:, None, None], (len(tokens), self.length, self.length))
        out_std = self.width**-0.5 * (2 * self.num_layers) ** -0.5
        for number in range(1, self.num_layers + 1):
            x = Block(self.num_heads, self.activation, out_std, self.dtype, name=f"block{number}")(x, visible)
        if at_all_places:
            return layers.layer_norm(own.name, "norm")(x)
        # Only the end is read: the normalisation of the other places would be for nobody.
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return layers.layer_norm(own.name, "norm")(x)


def end_of_text(tokens: Array) -> Array:
    """int32 [N]: the place of the end in each row [N, L], which has the highest number; the first, of several."""
    return jnp.argmax(tokens, axis=1).astype(jnp.int32)


def make_text_tower(
    *,
    vocab_size: int,
    length: int,
    width: int = 512,
    num_layers: int = 12,
    num_heads: int = 8,
    attention: str = "causal",
    activation: str = "gelu",
    dtype: str = "float32",
) -> TextTower:
    """A transformer over texts: `apply(variables, tokens int32 [N, length])` -> [N, width].

    Args:
        vocab_size: numbers of the tokens are below it; the highest one, vocab_size - 1, ends a text.
        length: tokens of a text, with its end and padding; 77 in CLIP, 64 in SigLIP.
        width: of the residual stream; 512 in CLIP.
        num_layers: blocks; 12 in CLIP.
        num_heads: of the attention; must divide the width. CLIP has one for 64 channels.
        attention: "causal": a token reads what stands before it (CLIP). "bidirectional": the whole text (SigLIP).
        activation: "gelu", or "quick_gelu" for the weights of OpenAI.
        dtype: type of the activations.

    Raises:
        InputError: a number is out of range, or a choice is unknown.

    Reference: Radford et al. 2021 (arXiv 2103.00020), section 2.4, and model.py of openai/CLIP, with its initial
    weights. Deliberate difference: biases of the attention start at 0 as there, those of the other layers too.

    Example:
        >>> tower = models.make_text_tower(vocab_size=100, length=8, width=16, num_layers=2, num_heads=2)
        >>> tokens = jnp.zeros((3, 8), jnp.int32).at[:, 4].set(99)
        >>> tower.init_with_output(key, tokens)[0].shape
        (3, 16)
    """
    for name, value in {"vocab_size": vocab_size, "length": length}.items():
        if value < 3:
            raise base.InputError(f"{name} must be at least 3: a text has a begin and an end; got {value}. Use 64.")
    for name, value in {"width": width, "num_layers": num_layers, "num_heads": num_heads}.items():
        if value < 1:
            raise base.InputError(f"text_{name} must be at least 1; got {value}. CLIP has 512, 12 and 8.")
    if width % num_heads:
        raise base.InputError(
            f"text_num_heads must divide text_width; got {num_heads} and {width}. Use a head for 64 channels."
        )
    base.check_choice(attention, ATTENTIONS, name="text_attention")
    base.check_choice(activation, ACTIVATIONS, name="text_activation")
    return TextTower(vocab_size, length, width, num_layers, num_heads, attention, activation, dtype)
