"""Residual networks as SimCLR uses them: stems, blocks and the encoder that maps images to representations.

What belongs here: Flax modules of the ResNet family. Every submodule has an explicit name, so that the parameter tree
is a stable public format: stem/conv1, block_group{g}/block{b}/conv{i}, bn{i}, proj_conv, proj_bn, counted from 1.

Arrays are channels last, kernels are HWIO. `dtype` is the type of the activations; parameters, BatchNorm statistics
and the returned representation are float32 (float64 if `dtype` is float64).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array

STEMS = ("imagenet", "cifar")


def state_dtype(dtype: str) -> jnp.dtype:
    """The type of parameters, statistics and results when activations have type `dtype`: at least float32."""
    return jnp.dtype("float64" if dtype == "float64" else "float32")


def max_pool_3x3_stride_2(x: Array) -> Array:
    """Maximum over 3x3 windows with stride 2: [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), C].

    The windows are those of TensorFlow's SAME: for even sizes the border of -infinity lies only at the bottom and at
    the right. Written as maxima of strided slices and not as a window reduction because the gradient of the latter is
    a select-and-scatter, which has no deterministic form on GPUs. Deliberate difference: equal maxima share the
    gradient, where TensorFlow gives it to the first; behind a ReLU nearly all ties are zeros, which pass none.
    """
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    for axis in (1, 2):
        size = x.shape[axis]
        outputs = -(-size // 2)
        missing = max(2 * (outputs - 1) + 3 - size, 0)
        borders = [(0, 0, 0)] * x.ndim
        borders[axis] = (missing // 2, missing - missing // 2, 0)
        padded = jax.lax.pad(x, lowest, borders)
        taps = [jax.lax.slice_in_dim(padded, t, t + 2 * outputs - 1, stride=2, axis=axis) for t in range(3)]
        x = functools.reduce(jnp.maximum, taps)
    return x


class Conv(nn.Module):
    """Convolution without bias whose padding depends on the kernel only: (k-1)//2 before and the rest after.

    With stride 1 this is SAME; with stride 2 it is not, and Flax's SAME would shift the windows of even sizes.
    """

    features: int
    kernel_size: int
    strides: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), features] of `dtype`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, state_dtype(self.dtype))
        before = (self.kernel_size - 1) // 2
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.strides, self.strides),
            padding=[(before, self.kernel_size - 1 - before)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm with the reference's constants; it sees the whole (global) batch.

    `momentum` is the share of the old moving average that is kept. Everything inside is computed in the type of the
    parameters, also for bfloat16 activations; the result has the type of the input.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    # Flax would promote to at least float32 by itself, but not under strict promotion; __call__ does it explicitly.
    force_float32_reductions: bool = False

    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None) -> Array:
        """Normalises [..., C] over all axes but the last."""
        wide = x.astype(self.param_dtype)
        return super().__call__(wide, use_running_average=use_running_average, mask=mask).astype(x.dtype)


def make_batch_norm(dtype: str, train: bool) -> Callable[..., BatchNorm]:
    """BatchNorm constructor for activations of `dtype`: batch statistics if `train`, else moving averages."""
    wide = state_dtype(dtype)
    return functools.partial(BatchNorm, use_running_average=not train, dtype=wide, param_dtype=wide)


class Stem(nn.Module):
    """First layers: 7x7/2 convolution and max-pool for large images ("imagenet"), 3x3/1 for small ones ("cifar")."""

    features: int
    kind: str = "imagenet"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """[N, h, w, 3] -> [N, h/4, w/4, features] ("imagenet") or [N, h, w, features] ("cifar")."""
        large = self.kind == "imagenet"
        kernel_size, strides = (7, 2) if large else (3, 1)
        x = Conv(self.features, kernel_size, strides, self.dtype, name="conv1")(images)
        x = nn.relu(make_batch_norm(self.dtype, train)(name="bn1")(x))
        return max_pool_3x3_stride_2(x) if large else x


def _shortcut(x: Array, features: int, *, strides: int, dtype: str, norm: Callable[..., BatchNorm]) -> Array:
    """Projection of a group's first block: 1x1 convolution with the block's stride, BatchNorm, no ReLU.

    To be called inside a block's `__call__`, whose children proj_conv and proj_bn it makes.
    """
    return norm(name="proj_bn")(Conv(features, 1, strides, dtype, name="proj_conv")(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first one with the stride; the last BatchNorm scale starts at zero."""

    features: int
    strides: int = 1
    project: bool = False
    dtype: str = "float32"
    expansion = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, features]."""
        norm = make_batch_norm(self.dtype, train)
        conv = functools.partial(Conv, self.features, dtype=self.dtype)
        residual = _shortcut(x, self.features, strides=self.strides, dtype=self.dtype, norm=norm) if self.project else x
        y = nn.relu(norm(name="bn1")(conv(kernel_size=3, strides=self.strides, name="conv1")(x)))
        y = conv(kernel_size=3, name="conv2")(y)
        y = norm(name="bn2", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + residual)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with the stride on the 3x3 one; the last BatchNorm scale starts at zero."""

    features: int
    strides: int = 1
    project: bool = False
    dtype: str = "float32"
    expansion = 4

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, 4*features]."""
        norm = make_batch_norm(self.dtype, train)
        conv = functools.partial(Conv, dtype=self.dtype)
        wide = self.expansion * self.features
        residual = _shortcut(x, wide, strides=self.strides, dtype=self.dtype, norm=norm) if self.project else x
        y = nn.relu(norm(name="bn1")(conv(self.features, 1, name="conv1")(x)))
        y = nn.relu(norm(name="bn2")(conv(self.features, 3, self.strides, name="conv2")(y)))
        y = conv(wide, 1, name="conv3")(y)
        y = norm(name="bn3", scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + residual)


Block = type[BasicBlock] | type[BottleneckBlock]


class BlockGroup(nn.Module):
    """Blocks of one width. The first has the stride and a projection shortcut, also where the shapes would fit."""

    block: Block
    num_blocks: int
    features: int
    strides: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, expansion*features]."""
        for number in range(1, self.num_blocks + 1):
            first = number == 1
            block = self.block(
                self.features, self.strides if first else 1, project=first, dtype=self.dtype, name=f"block{number}"
            )
            x = block(x, train=train)
        return x


class ResNet(nn.Module):
    """A ResNet encoder without classifier: images -> mean-pooled representation h.

    block: the kind of residual block.
    group_sizes: number of blocks in the four groups.
    width_multiplier: multiplies every number of channels; results are rounded down.
    stem: "imagenet" or "cifar".
    dtype: type of the activations.

    Reference: SimCLR (Chen et al. 2020) and tf2/resnet.py of its code. This is "v1.5": a bottleneck strides in its
    3x3 convolution. Unlike torchvision's networks every group starts with a projection shortcut, strided convolutions
    and the max-pool pad differently, and convolutions start from a fan-in truncated normal. Deliberate differences:
    none in the numbers; selective kernels and squeeze-excitation are not built.
    """

    block: Block
    group_sizes: tuple[int, ...]
    width_multiplier: float = 1.0
    stem: str = "imagenet"
    dtype: str = "float32"

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
        x = Stem(self._width(1), self.stem, self.dtype, name="stem")(images, train=train)
        for group, num_blocks in enumerate(self.group_sizes, start=1):
            strides = 1 if group == 1 else 2
            x = BlockGroup(self.block, num_blocks, self._width(group), strides, self.dtype, name=f"block_group{group}")(
                x, train=train
            )
        return jnp.mean(x, axis=(1, 2), dtype=state_dtype(self.dtype))
