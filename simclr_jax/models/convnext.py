"""ConvNeXts: convolutions of 7 x 7 channel by channel between dense layers, as the encoder of images.

What belongs here: Flax modules of the ConvNeXt family. Every submodule has an explicit name, so that the parameter tree
is a stable public format: stem/conv and norm; stage{s}/downsample/norm and conv, from the second stage on;
stage{s}/block{b}/depthwise, norm, mlp1, mlp2 and layer_scale; norm. Stages and blocks are counted from 1.

`dtype` is the type of the activations; parameters and the returned representation are float32 (float64 if `dtype` is
float64), and so is LayerNorm inside.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import depthwise, layers, norms, vit

Array = jax.Array

MIN_SIDE = 32  # the stem divides sides by 4, every later stage by 2
_KERNEL_SIZE = 7
_LAYER_SCALE = 1e-6
_norm = functools.partial(layers.layer_norm, epsilon=1e-6)  # over channels, place by place
_INIT = nn.initializers.normal(0.02)


def _patches(features: int, patch_size: int, dtype: str) -> Callable[[Array], Array]:
    """A convolution whose stride is the size of its kernel; rows and columns that fill no window are left out."""
    project = vit.PatchProjection(features, patch_size, dtype, kernel_init=_INIT, name="conv")

    def run(x: Array) -> Array:
        height, width = (side // patch_size * patch_size for side in x.shape[1:3])
        y: Array = project(x[:, :height, :width])
        return y

    return run


class Stem(nn.Module):
    """Patches of 4 x 4 pixels times one matrix, normalised."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[N, h, w, 3] -> [N, h/4, w/4, features]."""
        return _norm(self.dtype, "norm")(_patches(self.features, 4, self.dtype)(images))


class Downsample(nn.Module):
    """Normalised, then windows of 2 x 2 times one matrix."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> [N, H/2, W/2, features]."""
        return _patches(self.features, 2, self.dtype)(_norm(self.dtype, "norm")(x))


class ConvNeXtBlock(nn.Module):
    """Filtered channel by channel, normalised, widened four times and narrowed, scaled; added to its input.

    num_parts: of how many runs of rows, each on a device of its own, a batch consists.
    """

    dtype: str = "float32"
    num_parts: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> the same shape."""
        width, state_dtype = x.shape[-1], layers.state_dtype(self.dtype)
        dense = functools.partial(nn.Dense, dtype=jnp.dtype(self.dtype), param_dtype=state_dtype, kernel_init=_INIT)
        y = depthwise.DepthwiseConv(_KERNEL_SIZE, self.dtype, _INIT, self.num_parts, name="depthwise")(x)
        y = dense(4 * width, name="mlp1")(_norm(self.dtype, "norm")(y))
        y = dense(width, name="mlp2")(vit.Gelu(name="gelu")(y))
        scale = self.param("layer_scale", nn.initializers.constant(_LAYER_SCALE), (width,), state_dtype)
        return x + scale.astype(y.dtype) * y


def _run_block(block: ConvNeXtBlock, x: Array) -> Array:
    y: Array = block(x)
    return y


class Stage(nn.Module):
    """Blocks of one width, behind a smaller map of that width where it is not the first stage.

    remat: with "blocks", the backward pass keeps the blocks' inputs only and runs each block once more.
    """

    features: int
    num_blocks: int
    dtype: str = "float32"
    num_parts: int = 1
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> [N, H, W, features], or [N, H/2, W/2, features] where C is another width."""
        if x.shape[-1] != self.features:
            x = Downsample(self.features, self.dtype, name="downsample")(x)
        run = nn.remat(_run_block) if self.remat == "blocks" else _run_block
        for number in range(1, self.num_blocks + 1):
            x = run(ConvNeXtBlock(self.dtype, self.num_parts, name=f"block{number}"), x)
        return x


class ConvNeXt(nn.Module):
    """A ConvNeXt encoder without classifier: images -> representation h, the normalised mean over places.

    widths: channels of the stages, all different; the last is D. num_blocks: of the stages.
    dtype: type of the activations.
    norm: of the heads on top, see `norms.Norm`; the encoder itself has LayerNorm only, so that a batch in chunks gives
        what the whole batch gives.
    remat, mean, std: as in `resnet.ResNet`.

    Reference: Liu et al. 2022; torchvision/models/convnext.py and timm's convnext.py, which have the LayerNorm behind
    the pooling too. Layer scales start at 1e-6 and kernels from a normal distribution of 0.02, as there. Deliberate
    difference: no stochastic depth. Its draws would have to come from a key of every row, as those of views do, for
    chunks and devices to leave them alone, and every method would have to hand such keys through to its encoder.
    """

    widths: tuple[int, ...]
    num_blocks: tuple[int, ...]
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    remat: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def num_features(self) -> int:
        """D, the size of the representation."""
        return self.widths[-1]

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Maps images [N, h, w, 3], values in [0, 1], to h [N, D] of at least float32; `train` makes no difference.

        Of sides that are no multiple of 32, the last rows and columns may not be seen, as in torch.

        Raises:
            InputError: a side of the images is below MIN_SIDE.
        """
        del train
        if min(images.shape[1:3]) < MIN_SIDE:
            raise base.InputError(
                f"image_size must be at least {MIN_SIDE} for a ConvNeXt; got images of {images.shape[1]} x "
                f"{images.shape[2]}. Use {MIN_SIDE} or more, or a ResNet."
            )
        x = layers.normalized(images, self.mean, self.std)
        x = Stem(self.widths[0], self.dtype, name="stem")(x)
        for number, (width, num_blocks) in enumerate(zip(self.widths, self.num_blocks, strict=True), start=1):
            x = Stage(width, num_blocks, self.dtype, self.norm.num_parts, self.remat, name=f"stage{number}")(x)
        state_dtype = layers.state_dtype(self.dtype)
        pooled = jnp.mean(x, axis=(1, 2), dtype=state_dtype)
        return _norm("float64" if state_dtype == jnp.float64 else "float32", "norm")(pooled)
