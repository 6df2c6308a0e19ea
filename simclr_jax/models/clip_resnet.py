"""CLIP's residual networks: three convolutions first, means in the place of strides, and attention in that of a mean.

What belongs here: what differs from `resnet`. Every submodule has an explicit name, so that the parameter tree is a
stable public format: stem/conv{i}, bn{i}, block_group{g}/block{b} as there, pool/positions, query, key and value.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import layers, norms, resnet, vit

Array = jax.Array
_HEAD_WIDTH = 64


def mean_pool(x: Array, size: int) -> Array:
    """Means over windows of size x size that do not overlap: [N, H, W, C] -> [N, H // size, W // size, C]."""
    if size == 1:
        return x
    height, width = (side // size for side in x.shape[1:3])
    whole = x[:, : height * size, : width * size]
    return jnp.mean(whole.reshape(len(x), height, size, width, size, -1), axis=(2, 4))


class Stem(nn.Module):
    """Three 3x3 convolutions, the first with stride 2, and a mean over windows of 2x2."""

    features: int
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, h, w, 3] -> [N, h/4, w/4, features]."""
        norm = norms.make_norm(self.dtype, train, self.norm)
        rows = ((self.features // 2, 2), (self.features // 2, 1), (self.features, 1))
        for number, (features, strides) in enumerate(rows, start=1):
            parts = self.norm.num_parts
            x = layers.Conv(features, 3, strides, self.dtype, num_parts=parts, name=f"conv{number}")(x)
            x = norm(name=f"bn{number}")(x, relu=True)
        return mean_pool(x, 2)


class Block(nn.Module):
    """A bottleneck whose convolutions have stride 1: means of windows stand before its last one and its shortcut."""

    features: int
    strides: int = 1
    project: bool = False
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    expansion = 4

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, H, W, C] -> [N, H/strides, W/strides, 4*features]."""
        norm = norms.make_norm(self.dtype, train, self.norm)
        conv = functools.partial(layers.Conv, dtype=self.dtype, num_parts=self.norm.num_parts)
        wide, residual = self.expansion * self.features, x
        if self.project:
            residual = norm(name="proj_bn")(conv(wide, 1, name="proj_conv")(mean_pool(x, self.strides)))
        y = norm(name="bn1")(conv(self.features, 1, name="conv1")(x), relu=True)
        y = norm(name="bn2")(conv(self.features, 3, name="conv2")(y), relu=True)
        y = conv(wide, 1, name="conv3")(mean_pool(y, self.strides))
        return nn.relu(norm(name="bn3", scale_init=nn.initializers.zeros)(y) + residual)


class AttentionPool(nn.Module):
    """Attention of the mean of all places to it and to the places, with learned positions.

    grid: places along a side that there are positions for; others are interpolated, as in `vit.ViT`.
    """

    grid: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, D] -> [N, D]."""
        num, height, width, features = x.shape
        own = layers.state_dtype(self.dtype)
        init = nn.initializers.normal(features**-0.5)
        positions = self.param("positions", init, (self.grid**2 + 1, features), own)
        placed = jnp.concatenate([positions[:1], vit.interpolated(positions[1:], (height, width))])
        x = x.reshape(num, -1, features)
        x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1) + placed.astype(x.dtype)

        def heads_of(tokens: Array, name: str) -> Array:
            dense = nn.Dense(features, dtype=jnp.dtype(self.dtype), param_dtype=own, kernel_init=init, name=name)
            projected: Array = dense(tokens)
            return projected.reshape(num, -1, max(features // _HEAD_WIDTH, 1), min(features, _HEAD_WIDTH))

        query, key, value = heads_of(x[:, :1], "query"), heads_of(x, "key"), heads_of(x, "value")
        return jax.nn.dot_product_attention(query, key, value).reshape(num, features)


class ClipResNet(nn.Module):
    """A ResNet of CLIP without its projection: images -> representation h.

    group_sizes: number of blocks in the four groups.
    width_multiplier: multiplies every number of channels; D, the last one, is a multiple of the heads' 64 or one head.
    position_grid: places along a side of the last map for images of the size that it is trained with: 7 for 224.
    dtype, norm, remat, mean, std: as of `resnet.ResNet`.

    Reference: Radford et al. 2021 (arXiv 2103.00020), section 2.4, and ModifiedResNet in modified_resnet.py of
    open_clip. h is what its attention pool has before c_proj, which is CLIP's projection. Deliberate differences:
    initial weights of convolutions as in `resnet`; positions are interpolated for other sizes, which theirs refuses.
    """

    group_sizes: tuple[int, ...]
    width_multiplier: float = 1.0
    position_grid: int = 7
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    remat: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def num_features(self) -> int:
        """D, the size of the representation."""
        return Block.expansion * self._width(len(self.group_sizes))

    def _width(self, group: int) -> int:
        return int(64 * 2 ** (group - 1) * self.width_multiplier)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Maps images [N, h, w, 3], values in [0, 1], to h [N, D] of at least float32; see `resnet.ResNet`.

        Raises:
            InputError: a side of the images is no multiple of 32.
        """
        if any(side % 32 for side in images.shape[1:3]):
            raise base.InputError(
                f"image_size must be a multiple of 32 for CLIP's ResNets; got images of {images.shape[1]} x "
                f"{images.shape[2]}. Use 224."
            )
        stem = Stem(self._width(1), self.dtype, self.norm, name="stem")
        x = stem(layers.normalized(images, self.mean, self.std), train=train)
        block = functools.partial(Block, dtype=self.dtype, norm=self.norm)
        for group, num_blocks in enumerate(self.group_sizes, start=1):
            rest = (self._width(group), 1 if group == 1 else 2, True, self.remat)
            x = resnet.BlockGroup(block, num_blocks, *rest, name=f"block_group{group}")(x, train=train)
        return AttentionPool(self.position_grid, self.dtype, name="pool")(x).astype(layers.state_dtype(self.dtype))
