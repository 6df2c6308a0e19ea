"""NNCLR: the nearest neighbour of one view, out of a queue of earlier images, is the positive of the other."""

import math

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import network
from simclr_jax.methods import queue as queue_lib
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_nnclr(
    encoder: nn.Module,
    *,
    num_proj_layers: int = 3,
    proj_hidden_dim: int = 2048,
    proj_out_dim: int = 256,
    pred_hidden_dim: int = 4096,
    temperature: float = 0.1,
    queue_length: int = 98304,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """NNCLR as a Method; `embed` returns {"p", "z"}, float [B, 2, d]: predictions and projections.

    SimCLR's positives are two views of one image: they differ by what the augmentation can do and no more. Here the
    first view is replaced by the most similar embedding of an earlier image, n1 = the row of a queue nearest to u(z1),
    which brings in other poses, objects and backgrounds of, mostly, the same class. It is to find the prediction p2 of
    its image's second view among those of the batch,

        L = [CE(u(n1) u(p2)^T / T) + CE(u(n2) u(p1)^T / T)] / 2,

    with neighbours as rows and predictions as columns; the gradient reaches p only. After the loss the batch's u(z1)
    take the place of the queue's oldest rows. Embeddings that are all equal give ln B.

    params are {"encoder", "projection_head", "predictor"}; method_state has "batch_stats" and "queue". Metrics: those
    of `losses.nnclr`. Exact in chunks: the queue is read and written once an update, with the whole batch.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_proj_layers: 3 for ImageNet, 2 for CIFAR.
        proj_hidden_dim, pred_hidden_dim: of the hidden layers of projection head and predictor.
        proj_out_dim: d.
        temperature: T.
        queue_length: K, rows of the queue, a multiple of the batch size.
        bn_per: see `network.apply_to_views`.
        dtype: type of the heads' activations.

    Raises:
        InputError: a value is out of range.

    Reference: Dwibedi et al. 2021 (arXiv 2104.14548), section 3 and appendix; the pieces of solo-learn, as there is no
    official code.

    Example:
        >>> method = methods.make_nnclr(models.make_encoder("resnet18", stem="cifar"), queue_length=4096)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'predictor', 'projection_head']
    """
    network.check_bn_per(bn_per)
    heads.check_num_layers(num_proj_layers, low=1)
    queue_lib.check_length(queue_length)
    base.check_number("temperature", temperature, "Use for example 0.2.")
    hidden = (proj_hidden_dim,) * (num_proj_layers - 1)
    projector = heads.make_mlp((*hidden, proj_out_dim), bias=True, out_bias=True, out_norm="affine", dtype=dtype)
    predictor = heads.make_mlp((pred_hidden_dim, proj_out_dim), bias=True, out_bias=True, dtype=dtype)
    net = network.make_stack(encoder, {"projection_head": projector, "predictor": predictor})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, (_, z, _) = net.init(key, views)
        queue = queue_lib.init_queue(jax.random.fold_in(key, 2), queue_length, z)
        return params, {"batch_stats": batch_stats, "queue": queue}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        trees = params, method_state["batch_stats"]
        (_, z, p), batch_stats = network.apply_to_views(net, trees, views, bn_per=bn_per)
        return {"p": p, "z": jax.lax.stop_gradient(z)}, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        units = jax.lax.stop_gradient(losses.l2_normalize(outputs["z"]))
        neighbors = queue_lib.nearest(method_state["queue"], units)
        value, metrics = losses.nnclr(neighbors, outputs["p"], temperature=temperature)
        queue = queue_lib.enqueue(method_state["queue"], units[:, 0])
        return value, ({**method_state, "queue": queue}, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep)


def uninformed_loss(*, batch_size: int, **other: object) -> float:
    """ln B, for settings of `make_nnclr`."""
    del other
    return math.log(batch_size)
