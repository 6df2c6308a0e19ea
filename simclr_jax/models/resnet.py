"""Residual networks as SimCLR uses them: stems, blocks and the encoder that maps images to representations.

What belongs here: Flax modules of the ResNet family. Every submodule has an explicit name, so that the parameter tree
is a stable public format: stem/conv1, block_group{g}/block{b}/conv{i}, bn{i}, proj_conv, proj_bn, counted from 1; with
selective kernels block{b}/sk/... takes the place of conv2 and bn2.

`dtype` is the type of the activations; parameters, BatchNorm statistics and the returned representation are float32
(float64 if `dtype` is float64).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import fused_conv_bn, layers, norms, selective_kernel

Array = jax.Array

STEMS = ("imagenet", "cifar")
PADDINGS = ("reference", "torchvision")
REMATS = ("none", "blocks")


class Stem(nn.Module):
    """First layers, one convolution or three, and the max-pool of large images.

    kind: "imagenet" (stride 4 in all) or "cifar" (one 3x3 convolution with stride 1, no max-pool).
    deep: for "imagenet", three 3x3 convolutions in place of one of 7x7 (ResNet-D).
    """

    features: int
    kind: str = "imagenet"
    deep: bool = False
    padding: str = "reference"
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """[N, h, w, 3] -> [N, h/4, w/4, features] ("imagenet") or [N, h, w, features] ("cifar")."""
        norm = norms.make_norm(self.dtype, train, self.norm)
        if self.kind == "cifar":
            convolutions = [(self.features, 3, 1)]
        elif self.deep:
            convolutions = [(self.features // 2, 3, 2), (self.features // 2, 3, 1), (self.features, 3, 1)]
        else:
            convolutions = [(self.features, 7, 2)]
        x = images
        for number, (features, kernel_size, strides) in enumerate(convolutions, start=1):
            parts = self.norm.num_parts
            x = layers.Conv(features, kernel_size, strides, self.dtype, num_parts=parts, name=f"conv{number}")(x)
            x = norm(name=f"bn{number}")(x, relu=True)
        if self.kind == "cifar":
            return x
        return layers.max_pool(x, layers.same_padding(x.shape) if self.padding == "reference" else ((1, 1), (1, 1)))


def _shortcut(
    x: Array, features: int, *, strides: int, smooth: bool, dtype: str, norm: Callable[..., nn.Module]
) -> Array:
    """Projection of a group's first block: 1x1 convolution with the block's stride, `norm`, no ReLU.

    `smooth` leaves the stride to a mean over 2x2 windows in front (ResNet-D). To be called inside a block's `__call__`,
    whose children proj_conv and proj_bn it makes.
    """
    x = layers.mean_pool(x, strides) if smooth else x
    project = layers.Conv(features, 1, 1 if smooth else strides, dtype, name="proj_conv")
    return norms.convolve_and_normalize(project, norm(name="proj_bn"), x)


def _join(y: Array, residual: Array, *, squeezed: int, dtype: str, is_folded: bool) -> Array:
    """End of a block: squeeze-and-excitation if `squeezed` channels are asked for, the shortcut added, ReLU."""
    if squeezed:
        y = selective_kernel.SqueezeExcite(squeezed, dtype, name="se")(y)
    return (fused_conv_bn.relu if is_folded else nn.relu)(y + residual)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first one with the stride; the last BatchNorm scale starts at zero.

    Selective kernels change only the shortcut here, as in the TF2 reference (the TF1 reference fails).
    """

    features: int
    strides: int = 1
    project: bool = False
    dtype: str = "float32"
    sk_ratio: float = 0.0
    se_ratio: float = 0.0
    norm: norms.Norm = norms.Norm()
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, features]."""
        norm = norms.make_norm(self.dtype, train, self.norm)
        conv = functools.partial(layers.Conv, self.features, dtype=self.dtype, num_parts=self.norm.num_parts)
        residual = x
        if self.project:
            smooth = self.sk_ratio > 0
            residual = _shortcut(x, self.features, strides=self.strides, smooth=smooth, dtype=self.dtype, norm=norm)
        y = norm(name="bn1")(conv(kernel_size=3, strides=self.strides, name="conv1")(x), relu=True)
        y = conv(kernel_size=3, name="conv2")(y)
        y = norm(name="bn2", scale_init=nn.initializers.zeros)(y)
        squeezed = _num_squeezed(self.features, self.se_ratio)
        return _join(y, residual, squeezed=squeezed, dtype=self.dtype, is_folded=self.norm.folded)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with the stride on the 3x3 one; the last BatchNorm scale starts at zero.

    sk_ratio: above 0, selective kernels in place of the 3x3 convolution.
    se_ratio: above 0, squeeze-and-excitation before the shortcut is added.
    """

    features: int
    strides: int = 1
    project: bool = False
    dtype: str = "float32"
    sk_ratio: float = 0.0
    se_ratio: float = 0.0
    norm: norms.Norm = norms.Norm()
    expansion = 4
    inner_width = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, 4*features]."""
        norm = norms.make_norm(self.dtype, train, self.norm)
        conv = functools.partial(layers.Conv, dtype=self.dtype, num_parts=self.norm.num_parts)
        inner, wide = self.inner_width * self.features, self.expansion * self.features
        residual = x
        if self.project:
            smooth = self.sk_ratio > 0
            residual = _shortcut(x, wide, strides=self.strides, smooth=smooth, dtype=self.dtype, norm=norm)
        y = norm(name="bn1")(conv(inner, 1, name="conv1")(x), relu=True)
        if self.sk_ratio > 0:
            selective = selective_kernel.SelectiveKernel(
                inner, self.strides, self.sk_ratio, self.dtype, self.norm, name="sk"
            )
            y = selective(y, train=train)
        else:
            y = norm(name="bn2")(conv(inner, 3, self.strides, name="conv2")(y), relu=True)
        last = norm(name="bn3", scale_init=nn.initializers.zeros)
        y = norms.convolve_and_normalize(conv(wide, 1, name="conv3"), last, y)
        squeezed = _num_squeezed(self.features, self.se_ratio)
        return _join(y, residual, squeezed=squeezed, dtype=self.dtype, is_folded=self.norm.folded)


class WideBottleneckBlock(BottleneckBlock):
    """The first and the second convolution have twice as many channels, as in torchvision's wide ResNets."""

    inner_width = 2


def _num_squeezed(features: int, se_ratio: float) -> int:
    return max(1, int(features * se_ratio)) if se_ratio > 0 else 0


def _run_block(block: Callable[..., Array], x: Array, *, train: bool) -> Array:
    return block(x, train=train)


class BlockGroup(nn.Module):
    """Blocks of one width; the first has the stride and, with `project`, a projection shortcut.

    remat: with "blocks", the backward pass keeps the blocks' inputs only and runs each block once more.
    """

    block: Callable[..., nn.Module]
    num_blocks: int
    features: int
    strides: int
    project: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, expansion*features]."""
        for number in range(1, self.num_blocks + 1):
            first = number == 1
            block = self.block(
                self.features, self.strides if first else 1, project=first and self.project, name=f"block{number}"
            )
            run = functools.partial(_run_block, train=train)
            x = (nn.remat(run) if self.remat == "blocks" else run)(block, x)
        return x


class ResNet(nn.Module):
    """A ResNet encoder without classifier: images -> mean-pooled representation h.

    block: the kind of residual block.
    group_sizes: number of blocks in each group; the published networks have four.
    width_multiplier: multiplies every number of channels; results are rounded down.
    stem: "imagenet" or "cifar".
    dtype: type of the activations.
    sk_ratio: above 0, selective kernels, the deep stem and averaging shortcuts (SimCLRv2: 0.0625).
    se_ratio: above 0, squeeze-and-excitation.
    padding: "reference" or "torchvision".
    norm: what stands in the place of BatchNorm, see `norms.Norm`.
    remat: "none" or "blocks", see `BlockGroup`.
    mean, std: of every channel, subtracted from the images and divided by; empty for neither.

    Reference: SimCLR (Chen et al. 2020), SimCLRv2 (Chen et al. 2020b) and tf2/resnet.py of their code. This is "v1.5":
    a bottleneck strides in its 3x3 convolution. With padding="reference" there is no deliberate difference. With
    padding="torchvision" the network is that of torchvision: the max-pool pads all four sides, and the first group has
    a projection shortcut only where the number of channels changes. Convolutions start from a fan-in truncated normal
    in both.
    """

    block: type[BasicBlock] | type[BottleneckBlock]
    group_sizes: tuple[int, ...]
    width_multiplier: float = 1.0
    stem: str = "imagenet"
    dtype: str = "float32"
    sk_ratio: float = 0.0
    se_ratio: float = 0.0
    padding: str = "reference"
    norm: norms.Norm = norms.Norm()
    remat: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def last_map(self) -> str:
        """The module whose result [N, g, g, D] has h for its mean over places."""
        return f"block_group{len(self.group_sizes)}"

    @property
    def num_features(self) -> int:
        """D, the size of the representation."""
        return self.block.expansion * self._width(len(self.group_sizes))

    def _width(self, group: int) -> int:
        return int(64 * 2 ** (group - 1) * self.width_multiplier)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Maps images [N, h, w, 3], values in [0, 1], to h [N, D] of at least float32.

        With `train` the batch's own BatchNorm statistics are used and the collection `batch_stats` is updated
        (make it mutable); without, the moving averages are used.
        """
        block = functools.partial(
            self.block, dtype=self.dtype, sk_ratio=self.sk_ratio, se_ratio=self.se_ratio, norm=self.norm
        )
        stem = Stem(self._width(1), self.stem, self.sk_ratio > 0, self.padding, self.dtype, self.norm, name="stem")
        x = stem(layers.normalized(images, self.mean, self.std), train=train)
        for group, num_blocks in enumerate(self.group_sizes, start=1):
            features, strides = self._width(group), 1 if group == 1 else 2
            fits = strides == 1 and x.shape[-1] == self.block.expansion * features
            project = self.padding == "reference" or not fits
            blocks = BlockGroup(block, num_blocks, features, strides, project, self.remat, name=f"block_group{group}")
            x = blocks(x, train=train)
        return jnp.mean(x, axis=(1, 2), dtype=layers.state_dtype(self.dtype))
