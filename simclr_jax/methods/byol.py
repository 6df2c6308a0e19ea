"""BYOL: an online network predicts what a slowly following target network makes of the other view."""

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import momentum
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_byol(
    encoder: nn.Module,
    *,
    num_steps: int,
    proj_hidden_dim: int = 4096,
    proj_out_dim: int = 256,
    pred_hidden_dim: int = 4096,
    target_decay: float = 0.996,
    target_decay_schedule: str = "cosine",
    loss_scale: float = 1.0,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """BYOL as a Method; `embed` returns {"p", "z"}, float [B, 2, d]: online predictions and target projections.

    Two networks see both views. The online one, of parameters w, ends in a predictor: p = q(g(f(x))). The target, of
    parameters v, does not: z = g(f(x)). The loss is the mean of |u(p1) - u(z2)|^2 + |u(p2) - u(z1)|^2 over images, u a
    unit vector: each view foretells the other one's target. Only w has a gradient. After every update

        v <- tau v + (1 - tau) w,    tau = 1 - (1 - target_decay) (1 + cos(pi k / S)) / 2 at update k of S.

    There are no negatives, and equal embeddings have the loss 0. That training does not go there is due to the
    predictor and to the target being another network: the predictor is best at the mean of what the target says, the
    target changes slowly, and the online network gains by telling more about the image. "projection_spread" falls to 0
    in a collapse and is near 1 otherwise.

    params are {"encoder", "projection_head", "predictor"}; method_state has "batch_stats" of these and "target", see
    `momentum`. Metrics: those of `losses.byol`. Exact in chunks.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_steps: S, updates of the whole run.
        proj_hidden_dim, pred_hidden_dim: of the hidden layer of projection head and predictor.
        proj_out_dim: d.
        target_decay: tau at the first update, 0.99 for 300 epochs and 0.996 for 1000.
        target_decay_schedule: "cosine", or "constant" for the same tau always.
        loss_scale: multiplies the loss; SGD feels it, LARS in biases and normalisations only.
        bn_per: see `network.apply_to_views`.
        dtype: type of the heads' activations.

    Raises:
        InputError: a value is out of range.

    Reference: Grill et al. 2020 (arXiv 2006.07733), section 3; deepmind-research byol. Deliberate differences: the
    target starts as a copy of the online network, theirs from weights of its own; no classifier is trained alongside.

    Example:
        >>> method = methods.make_byol(models.make_encoder("resnet18", stem="cifar"), num_steps=1000)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'predictor', 'projection_head']
    """
    momentum.check_decay(target_decay, target_decay_schedule, num_steps)
    base.check_number("loss_scale", loss_scale, "Use 1.0 for the loss itself.")
    lecun = nn.initializers.lecun_normal()
    projector, predictor = (
        heads.make_mlp((hidden, proj_out_dim), bias=True, dtype=dtype, kernel_init=lecun)
        for hidden in (proj_hidden_dim, pred_hidden_dim)
    )
    pair = momentum.make_pair(encoder, projector, predictor, bn_per=bn_per)

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        p, z, method_state = pair.predict(params, method_state, views)
        return {"p": p, "z": z}, method_state

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        value, metrics = losses.byol(outputs["p"], outputs["z"])
        return loss_scale * value, (method_state, metrics)

    update = momentum.make_update(decay=target_decay, schedule=target_decay_schedule, num_steps=num_steps)
    return base.Method(init=pair.init, embed=embed, loss=loss, update=update)
