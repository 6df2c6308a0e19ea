"""SwAV: every crop predicts to which prototypes another crop of its image was assigned.

Comparing projections pair by pair needs many negatives. Compare assignments instead: K unit vectors, the prototypes,
are learnt; s = u(z) . c are the scores of a crop, softmax(s / 0.1) its prediction p, and a crop's assignment q says
where it belongs. If both crops show the same image, q of one should be foretold by the other: the swapped loss
    L = -(sum_k q_1k log p_2k + sum_k q_2k log p_1k) / 2.
Were q free, all images would end at one prototype. So q is the answer to a transport problem over the batch: the
assignments that agree best with the scores, plus epsilon times their entropy, while all prototypes get an equal share.
Its solution is exp(s / epsilon) with rows and columns scaled in turn (Sinkhorn), three times being enough, and it is a
constant of the gradient. As p costs one product with the prototypes, small crops are cheap further predictors (multi-
crop); they never assign. Where the batch is small beside K, a queue of earlier projections fills the transport problem.
Equal embeddings have equal assignments and cost ln K or more.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import network
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_swav(
    encoder: nn.Module,
    *,
    proj_hidden_dim: int = 2048,
    proj_out_dim: int = 128,
    num_prototypes: int = 3000,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    sinkhorn_iterations: int = 3,
    freeze_prototypes_steps: int = 313,
    queue_length: int = 0,
    queue_starts_at_step: int = 0,
    dtype: str = "float32",
) -> base.Method:
    """SwAV as a Method; `embed` returns {"scores": float32 [B, V, K]} and, with a queue, {"z": unit vectors [B, 2, d]}.

    params are {"encoder", "projection_head", "prototypes": {"kernel" [d, K], unit columns}}. method_state holds
    "batch_stats" of encoder and head, "step", and with a queue "prototypes" (a copy of the kernel, since the loss sees
    no parameters) and "queue" [L, 2, d], newest first. Crops of one size share a pass of the encoder, all crops one of
    the head. Metrics: "assignment_entropy", "assignment_accuracy" (see `losses.swav`). Assignments are those of the
    whole batch, also in chunks.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        proj_hidden_dim: of the head's hidden layer.
        proj_out_dim: d.
        num_prototypes: K.
        temperature: of the predictions, above 0.
        epsilon: of the assignments, above 0.
        sinkhorn_iterations: at least 0.
        freeze_prototypes_steps: first updates in which the prototypes have no gradient; an epoch, 313 at batch 4096.
        queue_length: L, projections of each of the two assigning crops; 0 for no queue. 3840 in the paper, for a batch
            of 256. It takes part once it is full.
        queue_starts_at_step: the update from which on the queue is filled; that of epoch 15 in the paper.
        dtype: type of the head's activations.

    Raises:
        InputError: a number is out of range.

    Reference: Caron et al. 2020 (arXiv 2006.09882); main_swav.py and src/resnet50.py of facebookresearch/swav.
    Deliberate differences: prototypes become unit vectors after an update and not before the next one, which is the
    same; a frozen prototype has the gradient 0 instead of none, which keeps its momentum at 0 and leaves at most a
    decay along itself, undone by the normalisation; the layer in front of BatchNorm has no bias, which the
    normalisation would take off.

    Example:
        >>> method = methods.make_swav(models.make_encoder("resnet18", stem="cifar"), num_prototypes=100)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> params["prototypes"]["kernel"].shape
        (128, 100)
    """
    _check(num_prototypes, queue_length, counts=(sinkhorn_iterations, freeze_prototypes_steps, queue_starts_at_step))
    base.check_number("temperature", temperature, "SwAV uses 0.1.")
    base.check_number("epsilon", epsilon, "SwAV uses 0.05.")
    head = heads.make_mlp((proj_hidden_dim, proj_out_dim), out_bias=True, dtype=dtype)
    net = network.make_stack(encoder, {"projection_head": head})

    def init(key: Array, views: Any) -> tuple[PyTree, PyTree]:
        params, batch_stats, activations = net.init(key, views)
        shape, of_z = (proj_out_dim, num_prototypes), activations[-1].dtype
        # The reference's layer is uniform around 0, and normalised before it is used.
        kernel = jax.random.uniform(jax.random.fold_in(key, 2), shape, of_z, -1.0, 1.0)
        params["prototypes"] = {"kernel": _unit_columns(kernel)}
        method_state = {"batch_stats": batch_stats, "step": jnp.zeros((), jnp.int32)}
        if queue_length:
            method_state["queue"] = jnp.zeros((queue_length, 2, proj_out_dim), of_z)
            method_state["prototypes"] = jnp.copy(params["prototypes"]["kernel"])
        return params, method_state

    def embed(params: PyTree, method_state: PyTree, views: Any, batch: base.Batch, key: Array) -> tuple[PyTree, PyTree]:
        del batch, key
        groups = views if isinstance(views, tuple) else (views,)
        z, batch_stats = network.apply_to_crops((encoder, head), (params, method_state["batch_stats"]), groups)
        z = losses.l2_normalize(z)
        moves = (method_state["step"] >= freeze_prototypes_steps).astype(z.dtype)
        kernel = params["prototypes"]["kernel"]
        fixed = jax.lax.stop_gradient(kernel)
        scores = _scores(z, fixed + moves * (kernel - fixed))
        outputs = {"scores": scores, "z": z[:, :2]} if queue_length else {"scores": scores}
        return outputs, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        numbers: dict[str, Any] = {
            "temperature": temperature,
            "epsilon": epsilon,
            "iterations": sinkhorn_iterations,
        }
        if queue_length:
            queue = method_state["queue"]
            # Zeros until it is full: the last rows are the oldest.
            numbers |= {"use_queue": jnp.any(queue[-1] != 0)}
            numbers |= {"queue_scores": _scores(queue, method_state["prototypes"])}
            fills = method_state["step"] >= queue_starts_at_step
            method_state = {**method_state, "queue": jnp.where(fills, _push(queue, outputs["z"]), queue)}
        value, metrics = losses.swav(outputs["scores"], **numbers)
        return value, (method_state, metrics)

    def update(params: PyTree, method_state: PyTree, step: Array) -> tuple[PyTree, PyTree]:
        kernel = _unit_columns(params["prototypes"]["kernel"])
        method_state = {**method_state, "step": step + 1}
        if queue_length:
            method_state["prototypes"] = kernel
        return {**params, "prototypes": {"kernel": kernel}}, method_state

    return base.Method(init=init, embed=embed, loss=loss, update=update)


def _push(queue: Array, z: Array) -> Array:
    """The queue [L, ...] with the batch z [B, ...] at its front and as much of the oldest gone."""
    z = jax.lax.stop_gradient(z)[: len(queue)]
    # Written into and not joined: rows that are spread over devices would be dealt out anew with those of the queue.
    start = (jnp.zeros((), jnp.int32),) * queue.ndim
    return jax.lax.dynamic_update_slice(jnp.roll(queue, len(z), axis=0), z.astype(queue.dtype), start)


def _unit_columns(kernel: Array) -> Array:
    return losses.l2_normalize(kernel.T).T


def _scores(z: Array, kernel: Array) -> Array:
    """[..., K]: dot products of z [..., d] with the columns of the kernel."""
    return jnp.matmul(z, kernel, precision=jax.lax.Precision.HIGHEST)


def _check(num_prototypes: int, queue_length: int, *, counts: tuple[int, int, int]) -> None:
    if num_prototypes < 2:
        raise base.InputError(f"num_prototypes must be at least 2; got {num_prototypes}. SwAV uses 3000.")
    names = ("sinkhorn_iterations", "freeze_prototypes_steps", "queue_starts_at_step")
    for name, value in zip(("queue_length", *names), (queue_length, *counts), strict=True):
        if value < 0:
            raise base.InputError(f"{name} must be at least 0; got {value}. Use 3 iterations, and 0 for the others.")


def uninformed_loss(*, num_prototypes: int = 3000, **other: object) -> float:
    """ln K, the least that equal embeddings can have, for settings of `make_swav`."""
    del other
    return math.log(num_prototypes)
