"""Channel attention inside residual blocks: the selective kernels of SimCLRv2, and squeeze-and-excitation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import layers, norms

Array = jax.Array

MIN_SQUEEZED = 32


class SelectiveKernel(nn.Module):
    """Two 3x3 convolutions in parallel, mixed channel by channel with weights that depend on the image.

    features: channels of each stream and of the result.
    strides: of the convolutions.
    ratio: width of the squeezed description relative to `features`; at least 32 channels in any case.

    Reference: Li et al. 2019 as SimCLRv2 (section 3.1, ratio 1/16) uses it; SK_Conv2D in tf2/resnet.py of its code.
    Both streams are plain 3x3 convolutions, where Li et al. dilate the second one.
    """

    features: int
    strides: int
    ratio: float
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, features]; normalisation and ReLU are inside."""
        norm = norms.make_norm(self.dtype, train, self.norm)
        parts = self.norm.num_parts
        both = layers.Conv(2 * self.features, 3, self.strides, self.dtype, num_parts=parts, name="conv")(x)
        both = norm(name="bn")(both, relu=True)
        first, second = jnp.split(both, 2, axis=-1)
        squeezed = jnp.mean(first + second, axis=(1, 2), keepdims=True)
        num_squeezed = max(int(self.features * self.ratio), MIN_SQUEEZED)
        squeezed = layers.Conv(num_squeezed, 1, dtype=self.dtype, name="squeeze_conv")(squeezed)
        squeezed = norm(name="squeeze_bn")(squeezed, relu=True)
        logits = layers.Conv(2 * self.features, 1, dtype=self.dtype, name="expand_conv")(squeezed)
        # A softmax over two streams, in the type of the parameters.
        first_logit, second_logit = jnp.split(logits.astype(layers.state_dtype(self.dtype)), 2, axis=-1)
        share = jax.nn.sigmoid(first_logit - second_logit)
        return first * share.astype(x.dtype) + second * (1 - share).astype(x.dtype)


class SqueezeExcite(nn.Module):
    """Scales every channel by a factor in (0, 1) that depends on the image.

    squeezed: channels of the squeezed description. activate: between the two layers.

    Reference: Hu et al. 2018; SE_Layer in tf2/resnet.py of the SimCLR code. No released SimCLR model has it.
    """

    squeezed: int
    dtype: str = "float32"
    activate: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> the same shape."""
        weights = jnp.mean(x, axis=(1, 2), keepdims=True)
        weights = layers.Conv(self.squeezed, 1, dtype=self.dtype, use_bias=True, name="squeeze_conv")(weights)
        weights = self.activate(weights)
        weights = layers.Conv(x.shape[-1], 1, dtype=self.dtype, use_bias=True, name="expand_conv")(weights)
        return x * jax.nn.sigmoid(weights)
