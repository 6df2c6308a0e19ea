"""MoCo v3: a momentum network's projections of the batch are the candidates; no queue."""

import math

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import momentum
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_moco_v3(
    encoder: nn.Module,
    *,
    num_steps: int,
    num_proj_layers: int = 2,
    proj_hidden_dim: int = 4096,
    proj_out_dim: int = 256,
    pred_hidden_dim: int = 4096,
    pred_out_norm: str = "none",
    temperature: float = 1.0,
    target_decay: float = 0.99,
    target_decay_schedule: str = "cosine",
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """MoCo v3 as a Method; `embed` returns {"q", "k"}, float [B, 2, d]: online predictions and momentum projections.

    As in BYOL an online network with a predictor and a momentum network without one see both views, q = p(g(f(x))) and
    k = g'(f'(x)). As in SimCLR the loss is contrastive: query q1 of an image is to find key k2 of that image among the
    keys k2 of the whole batch, and q2 among the k1,

        L = 2 T [CE(u(q1) u(k2)^T / T) + CE(u(q2) u(k1)^T / T)].

    Views of the same side are no negatives, and a large batch stands in for MoCo's queue. The factor 2 T keeps the size
    of the gradient when T changes. Only the online network has a gradient; the momentum network follows it with a tau
    that rises from `target_decay` to 1. Embeddings that are all equal give 4 T ln B.

    params are {"encoder", "projection_head", "predictor"}; method_state has "batch_stats" of these and "target", see
    `momentum`. Metrics: those of `losses.moco_v3`. Exact in chunks.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_steps: S, updates of the whole run.
        num_proj_layers: 2 for ResNets, 3 for transformers.
        proj_hidden_dim, pred_hidden_dim: of the hidden layers of projection head and predictor.
        proj_out_dim: d.
        pred_out_norm: what ends the predictor: "none" for ResNets, "plain" (BatchNorm without parameters) for
            transformers.
        temperature: T; 1.0 for ResNets, 0.2 for transformers and for CIFAR.
        target_decay: tau at the first update, 0.99 for up to 300 epochs, 0.996 for 1000.
        target_decay_schedule: "cosine" or "constant".
        bn_per: see `network.apply_to_views`.
        dtype: type of the heads' activations.

    Raises:
        InputError: a value is out of range or unknown.

    Reference: Chen et al. 2021 (arXiv 2104.02057), algorithm 1; builder.py of facebookresearch/moco-v3. They move the
    momentum network at the beginning of step k with tau(k), here it moves at the end of step k - 1 with tau(k): the
    same sequence.

    Example:
        >>> method = methods.make_moco_v3(models.make_encoder("resnet18", stem="cifar"), num_steps=1000)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'predictor', 'projection_head']
    """
    momentum.check_decay(target_decay, target_decay_schedule, num_steps)
    heads.check_num_layers(num_proj_layers, low=1)
    hidden = (proj_hidden_dim,) * (num_proj_layers - 1)
    projector = heads.make_mlp((*hidden, proj_out_dim), out_norm="plain", dtype=dtype)
    base.check_choice(pred_out_norm, ("none", "plain"), name="pred_out_norm")
    predictor = heads.make_mlp((pred_hidden_dim, proj_out_dim), out_norm=pred_out_norm, dtype=dtype)
    pair = momentum.make_pair(encoder, projector, predictor, bn_per=bn_per)
    base.check_number("temperature", temperature, "Use for example 0.2.")

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        q, k, method_state = pair.predict(params, method_state, views)
        return {"q": q, "k": k}, method_state

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        value, metrics = losses.moco_v3(outputs["q"], outputs["k"], temperature=temperature)
        return value, (method_state, metrics)

    update = momentum.make_update(decay=target_decay, schedule=target_decay_schedule, num_steps=num_steps, later=1)
    return base.Method(init=pair.init, embed=embed, loss=loss, update=update)


def uninformed_loss(*, batch_size: int, temperature: float = 1.0, **other: object) -> float:
    """4 T ln B, for settings of `make_moco_v3`."""
    del other
    return 4 * temperature * math.log(batch_size)
