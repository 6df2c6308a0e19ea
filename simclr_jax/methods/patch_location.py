"""Relative patch location: in which of eight directions from the middle tile does another one lie?"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.methods import parts, tiles
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree

_MIDDLE, _AROUND = 4, (0, 1, 2, 3, 5, 6, 7, 8)


def make_patch_location(
    encoder: nn.Module, *, proj_hidden_dim: int = 512, tile_share: float = 2 / 3, dtype: str = "float32"
) -> base.Method:
    """Context prediction as a Method; `embed` returns {"logits"}, float [B, 8, 8]: of eight pairs, eight answers each.

    A 3 x 3 grid of tiles, with gaps, is cut out of an image; every tile passes the encoder by itself, and a head reads
    the middle one's representation beside that of a neighbour k and says which neighbour it is,

        L = -1/8 sum over k of log softmax(g(h_middle, h_k))_k.

    To know that one tile lies above another one has to know what both show. The gaps, and that tiles lie in their cell
    at random, keep the network from following a line over the edge instead.

    params are {"encoder", "task_head"}. Metrics: "task_accuracy". Exact in chunks. One view an image is used, best
    larger than usual: tiles of a third of it are what the encoder sees. Equal embeddings give ln 8.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        proj_hidden_dim: of the head's hidden layer.
        tile_share: a tile's side as a share of its cell's; 2/3 leaves gaps of half a tile.
        dtype: type of the head's activations.

    Raises:
        InputError: a value is out of range.

    Reference: Doersch et al. 2015 (arXiv 1505.05192), sections 3 and 3.1: tiles of 96 pixels, gaps of 48, moved by up
    to 7. Deliberate differences: all eight pairs of a grid are used, not one, as its tiles are encoded anyway; a tile's
    place is free within its cell; nothing is done here against the colour fringes of lenses that their network learnt
    to read: `augment.grayscale_probability` takes colours away, of whole images.

    Example:
        >>> method = methods.make_patch_location(models.make_encoder("resnet18", stem="cifar"))
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 48, 48, 3)))
        >>> params["task_head"]["dense1"]["kernel"].shape
        (1024, 512)
    """
    tiles.check_share(tile_share)
    head = heads.with_norm_of(heads.make_mlp((proj_hidden_dim, 8), out_bias=True, dtype=dtype), encoder)
    net = parts.make_parts(encoder, {"task_head": parts.Part(head, lambda width: (2, 2 * width))})

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        shown = tiles.cut(tiles.row_keys(key, batch), views[:, 0], num_side=3, tile_share=tile_share)
        h, batch_stats = net.encode((params, method_state["batch_stats"]), shown)
        pairs = jnp.stack([jnp.concatenate([h[:, _MIDDLE], h[:, k]], axis=-1) for k in _AROUND], axis=1)
        logits, batch_stats = net.run("task_head", (params, batch_stats), pairs.reshape(-1, pairs.shape[-1]))
        return {"logits": logits.reshape(-1, 8, 8)}, {"batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        logits = outputs["logits"]
        value, metrics = parts.solve(logits, jnp.broadcast_to(jnp.arange(8, dtype=jnp.int32), logits.shape[:2]))
        return value, (method_state, metrics)

    init = tiles.make_init(net, num_side=3, tile_share=tile_share)
    return base.Method(init=init, embed=embed, loss=loss, update=base.keep, num_views=1)


def uninformed_loss(**other: object) -> float:
    """ln 8."""
    del other
    return math.log(8)
