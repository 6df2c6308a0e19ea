"""EfficientNets: the encoder that maps images to representations, and the table of its sizes.

What belongs here: Flax modules of the EfficientNet family, B0 to B7 and lite0 to lite4. Every submodule has an explicit
name, so that the parameter tree is a stable public format: stem, stage{s}/block{b}/expand, depthwise, se and project,
and head, counted from 1; each but se holds conv and bn.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import layers, norms, selective_kernel

Array = jax.Array


class Scale(NamedTuple):
    """Multipliers of every width and of every stage's number of blocks; whether it is one of the lite networks."""

    width: float
    depth: float
    is_lite: bool = False


SCALES = {
    "efficientnet_b0": Scale(1.0, 1.0),
    "efficientnet_b1": Scale(1.0, 1.1),
    "efficientnet_b2": Scale(1.1, 1.2),
    "efficientnet_b3": Scale(1.2, 1.4),
    "efficientnet_b4": Scale(1.4, 1.8),
    "efficientnet_b5": Scale(1.6, 2.2),
    "efficientnet_b6": Scale(1.8, 2.6),
    "efficientnet_b7": Scale(2.0, 3.1),
    "efficientnet_lite0": Scale(1.0, 1.0, is_lite=True),
    "efficientnet_lite1": Scale(1.0, 1.1, is_lite=True),
    "efficientnet_lite2": Scale(1.1, 1.2, is_lite=True),
    "efficientnet_lite3": Scale(1.2, 1.4, is_lite=True),
    "efficientnet_lite4": Scale(1.4, 1.8, is_lite=True),
}
_STEM, _HEAD = 32, 1280
_SE_RATIO = 0.25
# torchvision's B5 to B7 keep the reference's constants of BatchNorm.
_AS_REFERENCE = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")


class Stage(NamedTuple):
    """Blocks of one width: factor of the inner width, side of the depthwise kernel, stride, channels, number."""

    expansion: int
    kernel_size: int
    strides: int
    features: int
    num_blocks: int


_STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


def _scaled_width(width: int, multiplier: float) -> int:
    """The nearest multiple of 8, at least 8 and never below nine tenths of what was asked for."""
    scaled = width * multiplier
    nearest = max(8, int(scaled + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * scaled else nearest


def stages(name: str) -> tuple[Stage, ...]:
    """The stages of a network of SCALES, scaled in width and depth; lite networks keep the depth of the ends.

    Example:
        >>> efficientnet.stages("efficientnet_b1")[1]
        Stage(expansion=6, kernel_size=3, strides=2, features=24, num_blocks=3)
    """
    scale = SCALES[name]
    last = len(_STAGES) - 1
    return tuple(
        stage._replace(
            features=_scaled_width(stage.features, scale.width),
            num_blocks=stage.num_blocks
            if scale.is_lite and place in (0, last)
            else math.ceil(stage.num_blocks * scale.depth),
        )
        for place, stage in enumerate(_STAGES)
    )


class Kind(NamedTuple):
    """What all layers of a network have in common.

    dtype: of the activations. norm: see `norms.Norm`. padding: "reference" or "torchvision". epsilon, momentum: of
    BatchNorm, see `layers.BatchNorm`. is_lite: ReLU6 in place of swish, no squeeze-and-excitation.
    """

    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    padding: str = "reference"
    epsilon: float = 1e-3
    momentum: float = 0.99
    is_lite: bool = False

    def activate(self, x: Array) -> Array:
        """ReLU6 or swish, x sigmoid(x)."""
        return nn.relu6(x) if self.is_lite else nn.swish(x)


class GroupedConv(nn.Module):
    """A convolution of few input channels each: the stem's, or a depthwise one with `num_groups` = C.

    padding: with stride 2 and even sides, "reference" pads one row less in front than behind (TensorFlow's SAME),
        "torchvision" pads on all sides alike.
    """

    features: int
    kernel_size: int
    strides: int
    num_groups: int = 1
    padding: str = "reference"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.num_groups, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, layers.state_dtype(self.dtype))
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.strides, self.strides),
            [self._edges(side) for side in x.shape[1:3]],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.num_groups,
        )

    def _edges(self, side: int) -> tuple[int, int]:
        half = (self.kernel_size - 1) // 2
        if self.padding == "torchvision":
            return half, half
        total = max((-(-side // self.strides) - 1) * self.strides + self.kernel_size - side, 0)
        return total // 2, total - total // 2


class ConvNorm(nn.Module):
    """A convolution, BatchNorm and, with `activate`, the network's activation; `depthwise` is of each channel alone."""

    features: int
    kind: Kind
    kernel_size: int = 1
    strides: int = 1
    depthwise: bool = False
    activate: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), features]."""
        kind = self.kind
        if self.kernel_size == 1:
            x = layers.Conv(self.features, 1, dtype=kind.dtype, num_parts=kind.norm.num_parts, name="conv")(x)
        else:
            groups = self.features if self.depthwise else 1
            conv = GroupedConv(
                self.features, self.kernel_size, self.strides, groups, kind.padding, kind.dtype, name="conv"
            )
            x = conv(x)
        constants = {"epsilon": kind.epsilon}
        if kind.norm.kind != "group":
            constants["momentum"] = kind.momentum
        x = norms.make_norm(kind.dtype, train, kind.norm)(name="bn", **constants)(x)
        return kind.activate(x) if self.activate else x


class MBConv(nn.Module):
    """Inverted residual: widened, filtered channel by channel, weighted, narrowed; added to its input where it fits."""

    features: int
    expansion: int
    kernel_size: int
    strides: int
    kind: Kind

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), features]."""
        channels, kind = x.shape[-1], self.kind
        wide, y = channels * self.expansion, x
        if self.expansion > 1:
            y = ConvNorm(wide, kind, name="expand")(y, train=train)
        filtered = ConvNorm(wide, kind, self.kernel_size, self.strides, depthwise=True, name="depthwise")
        y = filtered(y, train=train)
        if not kind.is_lite:
            squeezed = max(1, int(channels * _SE_RATIO))
            y = selective_kernel.SqueezeExcite(squeezed, kind.dtype, nn.swish, name="se")(y)
        y = ConvNorm(self.features, kind, activate=False, name="project")(y, train=train)
        return x + y if self.strides == 1 and channels == self.features else y


def _run_block(block: Callable[..., Array], x: Array, *, train: bool) -> Array:
    return block(x, train=train)


class BlockRow(nn.Module):
    """The blocks of one stage; the first has the stride.

    remat: with "blocks", the backward pass keeps the blocks' inputs only and runs each block once more.
    """

    stage: Stage
    kind: Kind
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), features]."""
        stage = self.stage
        run = functools.partial(_run_block, train=train)
        run = nn.remat(run) if self.remat == "blocks" else run
        for number in range(1, stage.num_blocks + 1):
            strides = stage.strides if number == 1 else 1
            block = MBConv(
                stage.features, stage.expansion, stage.kernel_size, strides, self.kind, name=f"block{number}"
            )
            x = run(block, x)
        return x


class EfficientNet(nn.Module):
    """An EfficientNet encoder without classifier: images -> mean-pooled representation h of 1280 numbers and more.

    name_of_scale: a key of SCALES.
    padding: "reference": TensorFlow's, with BatchNorm's epsilon 1e-3 and momentum 0.99 (timm's tf_efficientnet_*).
        "torchvision": on all sides alike, epsilon 1e-5 and momentum 0.9 but in B5 to B7, as in torchvision's classes
        and, for B0 to B4 and lite, timm's efficientnet_*.
    dtype, norm, remat, mean, std: as in `resnet.ResNet`.

    Reference: Tan and Le 2019; models/official/efficientnet of tensorflow/tpu; torchvision/models/efficientnet.py.
    Deliberate differences: no stochastic depth and no dropout, which pretraining with SimCLR does without too; kernels
    start from a fan-in truncated normal, there from a fan-out normal.
    """

    name_of_scale: str
    padding: str = "reference"
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    remat: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def last_map(self) -> str:
        """The module whose result [N, g, g, D] has h for its mean over places."""
        return "head"

    @property
    def num_features(self) -> int:
        """D, the size of the representation."""
        scale = SCALES[self.name_of_scale]
        return _HEAD if scale.is_lite else _scaled_width(_HEAD, scale.width)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Maps images [N, h, w, 3], values in [0, 1], to h [N, D] of at least float32.

        With `train` the batch's own BatchNorm statistics are used and the collection `batch_stats` is updated
        (make it mutable); without, the moving averages are used.
        """
        scale = SCALES[self.name_of_scale]
        as_reference = self.padding == "reference" or self.name_of_scale in _AS_REFERENCE
        constants = (1e-3, 0.99) if as_reference else (1e-5, 0.9)
        kind = Kind(self.dtype, self.norm, self.padding, *constants, is_lite=scale.is_lite)
        stem = _STEM if scale.is_lite else _scaled_width(_STEM, scale.width)
        x = layers.normalized(images, self.mean, self.std)
        x = ConvNorm(stem, kind, kernel_size=3, strides=2, name="stem")(x, train=train)
        for number, stage in enumerate(stages(self.name_of_scale), start=1):
            x = BlockRow(stage, kind, self.remat, name=f"stage{number}")(x, train=train)
        x = ConvNorm(self.num_features, kind, name="head")(x, train=train)
        return jnp.mean(x, axis=(1, 2), dtype=layers.state_dtype(self.dtype))
