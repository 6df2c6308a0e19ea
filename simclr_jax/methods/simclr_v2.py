"""SimCLRv2's pretraining: SimCLR with a memory of what a momentum network made of earlier images."""

import math

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import momentum, network
from simclr_jax.methods import queue as queue_lib
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_simclr_v2(
    encoder: nn.Module,
    *,
    num_proj_layers: int = 3,
    proj_out_dim: int = 128,
    proj_hidden_dim: int | None = None,
    temperature: float = 0.1,
    loss_scale: float = 2.0,
    queue_length: int = 65536,
    target_decay: float = 0.999,
    dtype: str = "float32",
) -> base.Method:
    """SimCLRv2 as a Method; `embed` returns {"z": float [B, 2, d], "k": float [B, d]}, projections and memory keys.

    SimCLR's loss has 2(B - 1) negatives for every view, all of this batch. SimCLRv2 adds those of a memory, as MoCo
    has it: a momentum network, which follows the trained one by v <- m v + (1 - m) w, embeds a view of every image, and
    its last K outputs are kept. For an anchor i with its other view j

        l_i = -log exp(s_ij / T) / (sum of exp(s_in / T) over views n != i of the batch and rows n of the memory),

    s the cosine; the loss is the mean over all 2B anchors, times loss_scale. Only the views of the batch have a
    gradient. The momentum network keeps old embeddings comparable with new ones. With a large batch the memory adds
    little: about a point of linear accuracy in the paper. Equal embeddings have the loss ln(2B - 1 + K) at last.

    params are {"encoder", "projection_head"}, as in `make_simclr`; method_state has "batch_stats", "target" (see
    `momentum`) and "queue". Metrics: "contrastive_loss" (without loss_scale), "contrastive_accuracy". Exact in chunks:
    the memory is read and written once an update, with the whole batch.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_proj_layers, proj_out_dim, proj_hidden_dim, temperature, loss_scale, dtype: see `make_simclr`.
        queue_length: K, rows of the memory, a multiple of the batch size.
        target_decay: m, always the same.

    Raises:
        InputError: a value is out of range.

    Reference: Chen et al. 2020 (arXiv 2006.10029), section 2: "a memory network (with a moving average of weights)
    whose output will be buffered as negative examples"; 64K rows and m = 0.999. The released code has neither, so these
    are choices of ours: the momentum network embeds view 1 only, the batch's own candidates stay those of SimCLR, and
    a batch is written after its loss.

    Example:
        >>> method = methods.make_simclr_v2(models.make_encoder("resnet18", stem="cifar"), queue_length=4096)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'projection_head']
    """
    head = heads.ProjectionHead(num_proj_layers, proj_out_dim, dtype, width=proj_hidden_dim)
    momentum.check_decay(target_decay, "constant")
    queue_lib.check_length(queue_length)
    base.check_number("temperature", temperature, "SimCLR uses 0.1 to 0.5.")
    base.check_number("loss_scale", loss_scale, "Use 2.0, or 1.0 for the mean.")
    net = network.make_network(encoder, head, num_layers=num_proj_layers)

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, activations = net.init(key, views)
        start = momentum.start_target(params, batch_stats, ("encoder", "projection_head"))
        queue = queue_lib.init_queue(jax.random.fold_in(key, 2), queue_length, activations[-1])
        return params, {"batch_stats": batch_stats, "target": start, "queue": queue}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        trees = params, method_state["batch_stats"]
        activations, batch_stats = network.apply_to_views(net, trees, views, bn_per="batch")
        k, target = momentum.apply_target(net, method_state["target"], views[:, :1], bn_per="view")
        outputs = {"z": activations[-1], "k": k[:, 0]}
        return outputs, {**method_state, "batch_stats": batch_stats, "target": target}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        queue = method_state["queue"]
        mean, metrics = losses.nt_xent_with_memory(outputs["z"], queue["rows"], temperature=temperature)
        queue = queue_lib.enqueue(queue, losses.l2_normalize(outputs["k"]))
        return loss_scale * mean, ({**method_state, "queue": queue}, {"contrastive_loss": mean, **metrics})

    return base.Method(init=init, embed=embed, loss=loss, update=momentum.make_update(decay=target_decay))


def uninformed_loss(*, batch_size: int, queue_length: int = 65536, loss_scale: float = 2.0, **other: object) -> float:
    """loss_scale ln(2B - 1 + K), for settings of `make_simclr_v2`."""
    del other
    return loss_scale * math.log(2 * batch_size - 1 + queue_length)
