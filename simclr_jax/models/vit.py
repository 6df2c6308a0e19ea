"""Vision transformers: patches of an image as tokens, and the encoder that maps images to representations.

What belongs here: Flax modules of the ViT family. Every submodule has an explicit name, so that the parameter tree is a
stable public format: patch_projection, class_token, positions, block{b}/norm1, qkv, proj, norm2, mlp1, mlp2, and norm,
blocks counted from 1; of the designs of CLIP also norm_pre.

`dtype` is the type of the activations; parameters and the returned representation are float32 (float64 if `dtype` is
float64), and so are softmax and LayerNorm inside. Letters: T tokens, D the width of each, p the side of a patch.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from simclr_jax import base
from simclr_jax.models import layers, norms, text

Array = jax.Array

PATCH_SIZES = (4, 8, 14, 16, 32)
POOLS = ("token", "mean")
POSITIONS = ("learned", "sincos")
DESIGNS = ("timm", "clip", "openai")
_EPSILONS = {"timm": 1e-6, "clip": 1e-5, "openai": 1e-5}  # of LayerNorm
_TEMPERATURE = 10_000.0


def _uniform(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    """Glorot's uniform initialiser with fans of one's own; Flax would take the three parts of qkv for one layer."""
    limit = math.sqrt(6.0 / (fan_in + fan_out))

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


class PatchProjection(nn.Module):
    """Patches of p x p pixels, which do not overlap, each times one matrix: a convolution of kernel and stride p.

    is_frozen: whether no gradient reaches the matrix and its bias, see `ViT`. use_bias: whether there is a bias.
    kernel_init: of the matrix; None for the uniform distribution by Glorot's rule.
    """

    features: int
    patch_size: int
    dtype: str = "float32"
    is_frozen: bool = False
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[N, h, w, C] -> [N, h/p, w/p, features]."""
        (num, *sides, channels), size = images.shape, self.patch_size
        state_dtype = layers.state_dtype(self.dtype)
        fan_in = size * size * channels
        shape = (size, size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init or _uniform(fan_in, self.features), shape, state_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), state_dtype) if self.use_bias else None
        if self.is_frozen:
            kernel, bias = jax.lax.stop_gradient((kernel, bias))
        height, width = (side // size for side in sides)
        patches = images.astype(self.dtype).reshape(num, height, size, width, size, channels)
        y = jnp.einsum("nhpwqc,pqcd->nhwd", patches, kernel.astype(self.dtype))
        return y if bias is None else y + bias.astype(y.dtype)


class Attention(nn.Module):
    """Softmax attention of every token to all tokens of its image; queries, keys and values come in one array."""

    num_heads: int

    def __call__(self, qkv: Array) -> Array:
        """[N, T, 3D] -> [N, T, D]."""
        num, tokens, width = qkv.shape
        q, k, v = jnp.split(qkv.reshape(num, tokens, 3 * self.num_heads, -1), 3, axis=2)
        with jax.numpy_dtype_promotion("standard"):  # JAX's function mixes types in bfloat16
            return jax.nn.dot_product_attention(q, k, v).reshape(num, tokens, width // 3)


class Gelu(nn.Module):
    """The Gaussian error linear unit, by the error function or, with "openai", as x sigmoid(1.702 x)."""

    design: str = "timm"

    def __call__(self, x: Array) -> Array:
        """[...] -> the same shape."""
        return text.ACTIVATIONS["quick_gelu" if self.design == "openai" else "gelu"](x)


class TransformerBlock(nn.Module):
    """Attention, then two dense layers, each on normalised tokens and added to them ("pre-norm").

    num_heads: of the attention; divides D. design: see `ViT`.
    """

    num_heads: int
    dtype: str = "float32"
    design: str = "timm"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, T, D] -> [N, T, D]."""
        width = x.shape[-1]
        norm = functools.partial(layers.layer_norm, self.dtype, epsilon=_EPSILONS[self.design])
        dense = functools.partial(nn.Dense, dtype=jnp.dtype(self.dtype), param_dtype=layers.state_dtype(self.dtype))
        y = dense(3 * width, kernel_init=_uniform(width, width), name="qkv")(norm("norm1")(x))
        y = Attention(self.num_heads, name="attention")(y)
        x = x + dense(width, kernel_init=_uniform(width, width), name="proj")(y)
        y = dense(4 * width, kernel_init=_uniform(width, 4 * width), name="mlp1")(norm("norm2")(x))
        y = dense(width, kernel_init=_uniform(4 * width, width), name="mlp2")(Gelu(self.design, name="gelu")(y))
        return x + y


def _run_block(block: TransformerBlock, x: Array) -> Array:
    y: Array = block(x)
    return y


def sincos_positions(grid: tuple[int, int], width: int, *, trained_grid: int) -> np.ndarray:
    """Fixed positions of the patches, row by row: float64 [grid[0] * grid[1], width], values in [-1, 1].

    Of the width, a quarter each is sin(y w), cos(y w), sin(x w) and cos(x w), with y the row and x the column, both
    counted from 0, and w = 10000^(-4 i / width) for i in 0 ... width/4 - 1.

    Args:
        grid: rows and columns.
        width: D, a multiple of 4.
        trained_grid: G, rows and columns that the network is trained with. On another grid the patches lie where they
            would lie on that image: row i of R at (i + 1/2) G/R - 1/2.

    Reference: build_2d_sincos_position_embedding in vits.py of facebookresearch/moco-v3, to the same order. Other codes
    differ: MAE and big_vision put the column before the row, and big_vision divides i by width/4 - 1. Deliberate
    difference: on images that are not square their code counts in a wrong order; here a row is a row.

    Example:
        >>> vit.sincos_positions((14, 14), 384, trained_grid=14).shape
        (196, 384)
    """
    omega = _TEMPERATURE ** (-np.arange(width // 4) / (width // 4))
    angles = [np.outer((np.arange(side) + 0.5) * trained_grid / side - 0.5, omega) for side in grid]
    rows, columns = angles[0][:, None], angles[1][None, :]
    parts = [function(angle) for angle in (rows, columns) for function in (np.sin, np.cos)]
    whole = np.concatenate([np.broadcast_to(part, (*grid, part.shape[-1])) for part in parts], axis=-1)
    return whole.reshape(-1, width)


class ViT(nn.Module):
    """A vision transformer without classifier: images -> representation h.

    width: D, also of h. depth: number of blocks.
    patch_size: p; the sides of images must be multiples of it.
    num_heads: of every attention; 0 for D / 64.
    pool: "token": a class token goes through the network with the patches and becomes h. "mean": there is none, and h
        is the mean over patches, which is then normalised.
    positions: "learned": one vector for every patch of `position_grid`, interpolated for images of another size.
        "sincos": fixed, see `sincos_positions`.
    position_grid: patches along a side of the images that it is trained with: 14 for 224 pixels and p = 16.
    design: "timm". "clip": as in CLIP, tokens are normalised once more in front of the first block, the patch
        projection has no bias, and LayerNorm has the epsilon 1e-5. "openai": the same with x sigmoid(1.702 x) in the
        place of GELU, which the weights of OpenAI were trained with.
    freeze_patches: the patch projection stays what it was drawn as: no gradient reaches it. Who trains the network has
        to keep an optimizer from decaying it; `train` does so, see `still_modules`.
    dtype: type of the activations.
    norm: of the heads on top, see `norms.Norm`; the encoder itself has LayerNorm only.
    remat: "none" or "blocks": the backward pass keeps the inputs of blocks only and runs each block again.
    mean, std: of every channel, subtracted from the images and divided by; empty for neither.

    Reference: Dosovitskiy et al. 2021 as timm has it (vision_transformer.py: pre-norm, exact GELU, LayerNorm with
    epsilon 1e-6, mean pooling in front of the last norm); weights start as in vits.py of facebookresearch/moco-v3:
    uniform by Glorot's rule with q, k and v as layers of their own, biases at 0, the class token from a normal
    distribution of 1e-6, learned positions from one of 0.02. Frozen patches: MoCo v3, section 4.2. CLIP's designs:
    VisionTransformer in transformer.py of open_clip, without its projection. Deliberate differences: no
    dropout and no stochastic depth, which MoCo v3 does not use either; with "mean" there is no class token, which timm
    keeps unless told not to.
    """

    width: int
    depth: int
    patch_size: int = 16
    num_heads: int = 0
    pool: str = "token"
    positions: str = "learned"
    position_grid: int = 14
    design: str = "timm"
    freeze_patches: bool = False
    dtype: str = "float32"
    norm: norms.Norm = norms.Norm()
    remat: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def num_features(self) -> int:
        """D, the size of the representation."""
        return self.width

    @property
    def still_modules(self) -> tuple[str, ...]:
        """Modules that no update may move, not by weight decay either."""
        return ("patch_projection",) if self.freeze_patches else ()

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Maps images [N, h, w, 3], values in [0, 1], to h [N, D] of at least float32; `train` makes no difference.

        Raises:
            InputError: a side of the images is no multiple of patch_size.
        """
        del train
        _check_sides(images.shape[1:3], self.patch_size)
        images = layers.normalized(images, self.mean, self.std)
        is_timms = self.design == "timm"
        project = PatchProjection(
            self.width, self.patch_size, self.dtype, self.freeze_patches, is_timms, name="patch_projection"
        )
        x = self._with_positions(project(images))
        x = x if is_timms else layers.layer_norm(self.dtype, "norm_pre", epsilon=_EPSILONS[self.design])(x)
        heads = self.num_heads or self.width // 64
        for number in range(1, self.depth + 1):
            run = nn.remat(_run_block) if self.remat == "blocks" else _run_block
            x = run(TransformerBlock(heads, self.dtype, self.design, name=f"block{number}"), x)
        state_dtype = layers.state_dtype(self.dtype)
        pooled = x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1, dtype=state_dtype)
        return layers.layer_norm(state_dtype.name, "norm", epsilon=_EPSILONS[self.design])(pooled)

    def _with_positions(self, patches: Array) -> Array:
        """[N, H, W, D] -> the tokens [N, T, D], the class token first, with their positions added."""
        num, height, width, features = patches.shape
        state_dtype = layers.state_dtype(self.dtype)
        has_token = self.pool == "token"
        if self.positions == "learned":
            shape = (self.position_grid**2 + has_token, features)
            learned = self.param("positions", nn.initializers.truncated_normal(0.02), shape, state_dtype)
            of_token, of_patches = learned[:has_token], interpolated(learned[has_token:], (height, width))
        else:
            table = sincos_positions((height, width), features, trained_grid=self.position_grid)
            of_token, of_patches = jnp.zeros((has_token, features), state_dtype), jnp.asarray(table, state_dtype)
        x = patches.reshape(num, -1, features) + of_patches.astype(patches.dtype)
        if not has_token:
            return x
        token = self.param("class_token", nn.initializers.normal(1e-6), (features,), state_dtype)
        first = jnp.broadcast_to((token + of_token).astype(x.dtype), (num, 1, features))
        return jnp.concatenate([first, x], axis=1)


def interpolated(positions: Array, grid: tuple[int, int]) -> Array:
    """Learned positions [G*G, D] for another grid [H*W, D], bicubic with antialiasing, as timm does it."""
    side = math.isqrt(len(positions))
    if grid == (side, side):
        return positions
    square = positions.reshape(side, side, -1)
    resized = jax.image.resize(square, (*grid, square.shape[-1]), "cubic", antialias=True)
    return resized.reshape(-1, square.shape[-1])


def _check_sides(sides: tuple[int, ...], patch_size: int) -> None:
    if any(side % patch_size for side in sides):
        raise base.InputError(
            f"image_size must be a multiple of the encoder's patch_size; got images of {sides[0]} x {sides[1]} and "
            f"patch_size {patch_size}. Use for example {max(round(sides[0] / patch_size), 1) * patch_size}."
        )
