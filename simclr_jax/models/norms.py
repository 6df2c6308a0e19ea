"""The choice of normalisation: BatchNorm over the batch or groups of it, BatchNorm that is frozen, or GroupNorm."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import layers

Array = jax.Array

NORMS = ("batch", "group", "frozen")
MAX_CHANNEL_GROUPS = 32
MIN_CHANNELS_PER_GROUP = 16


class Norm(NamedTuple):
    """How a network normalises; the names and parameters of its layers (bn1 ...; scale, bias) are the same in all.

    kind: "batch": BatchNorm, whose statistics are the batch's while training. "group": GroupNorm, image by image.
        "frozen": BatchNorm by its moving averages also while training; they stay, scale and bias are trained.
    num_groups: for "batch", into how many equal groups of rows a batch falls, each with statistics of its own; 1 for
        the whole (global) batch.
    grouping: which rows make a group, see `layers.BatchNorm`.
    num_parts: for "batch", of how many runs of rows, each on a device of its own, a batch consists. It changes the
        order of sums, see `layers.moments`, and nothing else.
    folded: for "batch", whether its bfloat16 forms are those of `models.fused_conv_bn`. They are made for GPUs, where
        they save a quarter of the memory traffic; a TPU's compiler makes more than twice the traffic of them.
    """

    kind: str = "batch"
    num_groups: int = 1
    num_parts: int = 1
    folded: bool = False
    grouping: str = "neighbors"


def num_channel_groups(num_channels: int) -> int:
    """Groups of GroupNorm: the largest divisor of the channels up to 32 that leaves 16 or more channels in a group.

    With fewer than 32 channels that is one group.
    """
    most = min(MAX_CHANNEL_GROUPS, max(num_channels // MIN_CHANNELS_PER_GROUP, 1))
    return max(groups for groups in range(1, most + 1) if num_channels % groups == 0)


class GroupNorm(nn.Module):
    """Normalises every image by itself, over groups of neighbouring channels (`num_channel_groups`) and all places.

    Nothing depends on the batch, so a batch in chunks gives what the whole batch gives. Fields and parameters are those
    of `BatchNorm`; there are no moving averages.

    Reference: Wu and He 2018. Deliberate difference: they take 32 groups at any width, which in a head of 64 channels
    would leave two values to a group, and of those only which one is larger.
    """

    param_dtype: jnp.dtype
    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, relu: bool = False) -> Array:
        """Normalises [N, ..., C] in the type of the parameters; `relu`: takes max(., 0). The result has x's type."""
        shape, dtype = (x.shape[-1],), self.param_dtype
        groups = num_channel_groups(x.shape[-1])
        grouped = x.astype(dtype).reshape(*x.shape[:-1], groups, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        centred = grouped - jnp.mean(grouped, axis=axes, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        if self.use_scale:
            y = y * self.param("scale", self.scale_init, shape, dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, shape, dtype)
        return (nn.relu(y) if relu else y).astype(x.dtype)


def convolve_and_normalize(conv: layers.Conv, norm: nn.Module, x: Array) -> Array:
    """norm(conv(x)), the two as one operation where that moves less memory and rounding hides the difference.

    That is while training, for convolutions of 1x1 to more channels, where `norm` may be folded.
    """
    widens = conv.kernel_size == 1 and conv.features > x.shape[-1]
    if not (widens and isinstance(norm, layers.BatchNorm) and norm.train and norm.folded):
        normalized: Array = norm(conv(x))
        return normalized
    x = x[:, :: conv.strides, :: conv.strides].astype(conv.dtype)
    return norm(x, conv(x, only_kernel=True)[0, 0])


def make_norm(dtype: str, train: bool, norm: Norm) -> Callable[..., nn.Module]:
    """Constructor of the layer that `norm` asks for, for activations of `dtype`; `train` matters to "batch" only."""
    if norm.kind == "group":
        return functools.partial(GroupNorm, param_dtype=layers.state_dtype(dtype))
    batch_norm = layers.make_batch_norm(dtype, train and norm.kind == "batch")
    folded = norm.folded and dtype == "bfloat16" and norm.num_groups == 1
    groups = {"num_groups": norm.num_groups, "grouping": norm.grouping}
    return functools.partial(batch_norm, **groups, num_parts=norm.num_parts, folded=folded)
