"""Jigsaw: nine tiles in a wrong order; which of P known orders is it?"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.methods import parts, permutations, tiles
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_jigsaw(
    encoder: nn.Module,
    *,
    num_permutations: int = 64,
    tile_dim: int = 128,
    proj_hidden_dim: int = 1024,
    tile_share: float = 0.85,
    dtype: str = "float32",
) -> base.Method:
    """The jigsaw puzzle as a Method; `embed` returns {"logits": float [B, P], "permutation": float [B]}.

    An image is cut into 3 x 3 tiles with gaps, which are put into one of P orders, drawn for every image anew. Each
    tile passes the encoder and a dense layer by itself; what they gave, side by side in that order, is read by a head
    that says which order it is,

        L = -log softmax(g(v_s(1), ..., v_s(9)))_s.

    All nine tiles are seen at once, so that many a place that is unclear between two of them becomes clear among all.
    Orders that differ in many places ask for all tiles (see `permutations`). Every tile is brought to one mean and one
    deviation: brightness and contrast, which change slowly over an image, would order them without a look at content.

    params are {"encoder", "tile_head", "task_head"}. Metrics: "task_accuracy". Exact in chunks. One view an image is
    used, best larger than usual: tiles of a third of it are what the encoder sees. Equal embeddings give ln P.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_permutations: P, 2 to 504.
        tile_dim: of a tile's vector v in front of the head that reads nine.
        proj_hidden_dim: of that head's hidden layer.
        tile_share: a tile's side as a share of its cell's; 64 of 75 pixels in the paper.
        dtype: type of the heads' activations.

    Raises:
        InputError: a value is out of range.

    Reference: Noroozi and Favaro 2016 (arXiv 1603.09246), sections 3.1 to 3.3. Deliberate differences: any encoder
    ends in its mean over pixels, theirs in a dense layer that knows places; tiles have the mean 0.5 and the deviation
    0.25, near those of the images that the encoder is used on later, theirs 0 and 1; the orders differ more.

    Example:
        >>> method = methods.make_jigsaw(models.make_encoder("resnet18", stem="cifar"))
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 48, 48, 3)))
        >>> params["task_head"]["dense1"]["kernel"].shape
        (1152, 1024)
    """
    tiles.check_share(tile_share)
    orders = permutations.make_permutations(num_permutations)
    tile_head = heads.with_norm_of(heads.MLP((heads.DenseLayer(tile_dim),), dtype), encoder)
    head = heads.make_mlp((proj_hidden_dim, num_permutations), out_bias=True, dtype=dtype)
    net = parts.make_parts(
        encoder,
        {
            "tile_head": parts.Part(tile_head, lambda width: (2, width)),
            "task_head": parts.Part(heads.with_norm_of(head, encoder), lambda width: (2, 9 * tile_dim)),
        },
    )

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        cut_key, order_key = jax.random.split(key)
        shown = tiles.cut(tiles.row_keys(cut_key, batch), views[:, 0], num_side=3, tile_share=tile_share)
        drawn = jax.vmap(lambda k: jax.random.randint(k, (), 0, num_permutations))(tiles.row_keys(order_key, batch))
        h, batch_stats = net.encode((params, method_state["batch_stats"]), _standardized(shown))
        v, batch_stats = net.run("tile_head", (params, batch_stats), h.reshape(-1, h.shape[-1]))
        v = tiles.reorder(v.reshape(-1, 9, tile_dim), jnp.asarray(orders)[drawn])
        logits, batch_stats = net.run("task_head", (params, batch_stats), v.reshape(-1, 9 * tile_dim))
        # A float, as all outputs: chunks differentiate them.
        return {"logits": logits, "permutation": drawn.astype(logits.dtype)}, {"batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        answers = outputs["permutation"].astype(jnp.int32)
        value, metrics = parts.solve(outputs["logits"][:, None], answers[:, None])
        return value, (method_state, metrics)

    init = tiles.make_init(net, num_side=3, tile_share=tile_share)
    return base.Method(init=init, embed=embed, loss=loss, update=base.keep, num_views=1)


def _standardized(shown: Array) -> Array:
    """Tiles [B, n, t, t, 3], each with the mean 0.5 and the deviation 0.25 over its pixels and colours."""
    axes = (2, 3, 4)
    centred = shown - jnp.mean(shown, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    return 0.5 + 0.25 * centred * jax.lax.rsqrt(variance + 1e-4)


def uninformed_loss(*, num_permutations: int = 64, **other: object) -> float:
    """ln P, for settings of `make_jigsaw`."""
    del other
    return math.log(num_permutations)
