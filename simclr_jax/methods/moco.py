"""MoCo v1 and v2: one view is to find the other, by a momentum network, among a long queue of earlier ones."""

import math

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import momentum, network
from simclr_jax.methods import queue as queue_lib
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_moco(
    encoder: nn.Module,
    *,
    num_proj_layers: int = 2,
    proj_hidden_dim: int | None = None,
    proj_out_dim: int = 128,
    temperature: float = 0.2,
    queue_length: int = 65536,
    target_decay: float = 0.999,
    bn_splits: int = 8,
    dtype: str = "float32",
) -> base.Method:
    """MoCo as a Method; `embed` returns {"q", "k"}, float [B, d]: queries of view 1 and keys of view 2.

    Contrastive learning wants many negatives, and a batch has few. MoCo keeps the keys of the last K / B batches in a
    queue. Keys of different age are comparable only if the network that made them changes slowly: the key network g'
    follows the query network by g' <- m g' + (1 - m) g, m = 0.999, and has no gradient. With unit vectors q = u(g(x1)),
    k = u(g'(x2)),

        L = mean of -log exp(q.k / T) / (exp(q.k / T) + sum over the queue of exp(q.n / T)).

    After the loss, the batch's keys take the place of the queue's oldest. v1 has a linear head and T 0.07; v2 a hidden
    layer, T 0.2, blurred views and a cosine schedule. Embeddings that are all equal give ln(1 + K) at last.

    BatchNorm over the whole batch betrays the answer: a query can know its key by the statistics they share. So
    queries are normalised in `bn_splits` groups of neighbouring images, keys in groups of every `bn_splits`-th image,
    which share one image in `bn_splits` with a query's group.

    params are {"encoder", "projection_head"}; method_state has "batch_stats", "target" (see `momentum`) and "queue".
    Metrics: those of `losses.moco`. Exact in chunks: the queue is read and written once an update, with the whole
    batch; the groups of BatchNorm are those of a chunk.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_proj_layers: 1 for v1, 2 for v2; without BatchNorm.
        proj_hidden_dim: of the hidden layer; None for D.
        proj_out_dim: d.
        temperature: T.
        queue_length: K, rows of the queue, a multiple of the batch size.
        target_decay: m, always the same.
        bn_splits: groups of BatchNorm, a divisor of the batch; 1 for one group, which costs points.
        dtype: type of the head's activations.

    Raises:
        InputError: a value is out of range, or the encoder cannot normalise in groups.

    Reference: He et al. 2019 (arXiv 1911.05722), algorithm 1 and section 3.3; Chen et al. 2020 (arXiv 2003.04297);
    builder.py of facebookresearch/moco and its notebook for CIFAR-10. Deliberate differences: they send keys to
    another device at random before the key network and back after it; batches are in random order already, so that the
    fixed groups above do the same and no image moves. The moving averages take the biased variance.

    Example:
        >>> method = methods.make_moco(models.make_encoder("resnet18", stem="cifar"), queue_length=4096)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((8, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'projection_head']
    """
    momentum.check_decay(target_decay, "constant")
    heads.check_num_layers(num_proj_layers, low=1)
    queue_lib.check_length(queue_length)
    base.check_number("temperature", temperature, "Use for example 0.2.")
    hidden = (proj_hidden_dim,) * (num_proj_layers - 1)
    head = heads.make_mlp((*hidden, proj_out_dim), bias=True, norm="none", out_bias=True, dtype=dtype)
    query_net, key_net = (
        network.make_stack(network.with_bn_groups(encoder, bn_splits, grouping), {"projection_head": head})
        for grouping in ("neighbors", "interleaved")
    )

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, (_, z) = query_net.init(key, views)
        start = momentum.start_target(params, batch_stats, ("encoder", "projection_head"))
        queue = queue_lib.init_queue(jax.random.fold_in(key, 2), queue_length, z)
        return params, {"batch_stats": batch_stats, "target": start, "queue": queue}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        if len(views) % bn_splits:
            raise base.InputError(
                f"bn_splits must divide the batch; got {bn_splits} and {len(views)} images. Use 8, or 1."
            )
        (_, q), batch_stats = query_net.apply(params, method_state["batch_stats"], views[:, 0], True)
        k, target = momentum.apply_target(key_net, method_state["target"], views[:, 1:], bn_per="view")
        return {"q": q, "k": k[:, 0]}, {**method_state, "batch_stats": batch_stats, "target": target}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        queue = method_state["queue"]
        value, metrics = losses.moco(outputs["q"], outputs["k"], queue["rows"], temperature=temperature)
        queue = queue_lib.enqueue(queue, losses.l2_normalize(outputs["k"]))
        return value, ({**method_state, "queue": queue}, metrics)

    # At the end of a step, as their move at the beginning of the next one: with the parameters that step begins with.
    update = momentum.make_update(decay=target_decay)
    return base.Method(init=init, embed=embed, loss=loss, update=update, num_views=2)


def uninformed_loss(*, queue_length: int = 65536, **other: object) -> float:
    """ln(1 + K), for settings of `make_moco`."""
    del other
    return math.log(1 + queue_length)
