"""SimCLR: two views of every image, one network for both, and NT-Xent between their projections."""

import math

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_simclr(
    encoder: nn.Module,
    *,
    head_layers: int = 3,
    head_dim: int = 128,
    temperature: float = 0.1,
    loss_scale: float = 2.0,
    dtype: str = "float32",
) -> base.Method:
    """SimCLR as a Method; `embed` returns {"z": float32 [B, V, d]}, the projections before normalisation.

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. Views
    share one forward pass, so BatchNorm sees all views of the whole batch together. Metrics: "contrastive_loss" (the
    mean over the 2B anchors, without loss_scale), "contrastive_accuracy", "contrastive_entropy".

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        head_layers: layers of the projection head, 0 to 4; 2 in SimCLR, 3 in SimCLRv2 and in the released code.
        head_dim: d, width of the projection.
        temperature: of NT-Xent, above 0.
        loss_scale: multiplies the paper's mean. 2 is the reference's gradient, which matters wherever the optimizer is
            not invariant to the gradient's scale, for instance BatchNorm parameters under LARS.
        dtype: type of the head's activations.

    Raises:
        InputError: head_layers, head_dim, temperature or loss_scale is out of range.

    Reference: SimCLR algorithm 1 and section 2.2; SimCLRv2 section 2; tf2/model.py and tf2/run.py of their code.
    Deliberate differences: the rows of a batch are ordered image by image and not view by view; the online linear
    classifier on frozen features is not part of the method.
    """
    head = heads.ProjectionHead(head_layers, head_dim, dtype)
    if not 0 < temperature < math.inf:
        raise base.InputError(f"temperature must be above 0; got {temperature}. SimCLR uses 0.1 to 0.5.")
    if not 0 < loss_scale < math.inf:
        raise base.InputError(f"loss_scale must be above 0 and finite; got {loss_scale}. Use 2.0, or 1.0 for the mean.")

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        encoder_key, head_key = jax.random.split(key)
        images = jax.ShapeDtypeStruct((2, *views.shape[2:]), views.dtype)
        h, _ = jax.eval_shape(lambda x: encoder.init_with_output(encoder_key, x, train=False), images)
        # Only the initialisers run, one compilation per shape of a parameter; the network itself is never computed.
        variables = {
            "encoder": encoder.lazy_init(encoder_key, images, train=False),
            "projection_head": head.lazy_init(head_key, h, train=False),
        }
        # A head without layers has no variables at all.
        params = {name: part.get("params", {}) for name, part in variables.items()}
        return params, {"batch_stats": {name: part.get("batch_stats", {}) for name, part in variables.items()}}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        statistics = method_state["batch_stats"]
        variables = {name: {"params": params[name], "batch_stats": statistics[name]} for name in params}
        # Merging the axes keeps an image's views neighbours, hence on its device; view-major rows would move them all.
        images = views.reshape(-1, *views.shape[2:])
        h, encoder_updates = encoder.apply(variables["encoder"], images, train=True, mutable=["batch_stats"])
        activations, head_updates = head.apply(variables["projection_head"], h, train=True, mutable=["batch_stats"])
        z = heads.select(activations, -1)
        z = z.reshape(*views.shape[:2], z.shape[-1])
        updates = {"encoder": encoder_updates, "projection_head": head_updates}
        new_statistics = {name: update.get("batch_stats", {}) for name, update in updates.items()}
        return {"z": z}, {**method_state, "batch_stats": new_statistics}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        mean, metrics = losses.nt_xent(outputs["z"], temperature=temperature)
        return loss_scale * mean, (method_state, {"contrastive_loss": mean, **metrics})

    def update(params: PyTree, method_state: PyTree, step: Array) -> PyTree:
        del params, step
        return method_state

    return base.Method(init=init, embed=embed, loss=loss, update=update)
