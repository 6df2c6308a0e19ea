"""SimSiam: one network predicts its own projection of the other view, held constant."""

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import network
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


def make_simsiam(
    encoder: nn.Module,
    *,
    num_proj_layers: int = 3,
    proj_hidden_dim: int | None = None,
    proj_out_dim: int = 2048,
    pred_hidden_dim: int = 512,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """SimSiam as a Method; `embed` returns {"p", "z"}, float [B, 2, d]: predictions and projections.

    Both views pass one network, z = g(f(x)), and a predictor, p = q(z). The loss is minus the mean of cos(p1, z2) and
    cos(p2, z1), where no gradient passes z: the network that predicts is trained, the one that is predicted is not.

    It is BYOL without the momentum network, tau = 0. Read as an alternation: with the targets fixed the network is
    fitted to them, then the targets are set to what the network says; the predictor fills in for the mean over
    augmentations that a target should be. Without the stopped gradient, and without the predictor, the loss falls to
    -1 at once and all embeddings become equal. "projection_spread", which then falls to 0, stays near 1 otherwise.

    The published rate of the predictor is constant: optimizer.constant_rate_for = "predictor".

    params are {"encoder", "projection_head", "predictor"}. Metrics: those of `losses.simsiam`. Exact in chunks.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        num_proj_layers: 3 for ImageNet, 2 for CIFAR.
        proj_hidden_dim: of the projection head's hidden layers; None for D.
        proj_out_dim: d.
        pred_hidden_dim: of the predictor's hidden layer, a quarter of d.
        bn_per: see `network.apply_to_views`.
        dtype: type of the heads' activations.

    Raises:
        InputError: a value is out of range.

    Reference: Chen and He 2020 (arXiv 2011.10566), section 3 and algorithm 1; builder.py of facebookresearch/simsiam.
    Deliberate difference: the projection head's last bias, which they freeze and which BatchNorm cancels, is left out.

    Example:
        >>> method = methods.make_simsiam(models.make_encoder("resnet18", stem="cifar"))
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params)
        ['encoder', 'predictor', 'projection_head']
    """
    network.check_bn_per(bn_per)
    heads.check_num_layers(num_proj_layers, low=1)
    hidden = (proj_hidden_dim,) * (num_proj_layers - 1)
    projector = heads.make_mlp((*hidden, proj_out_dim), out_norm="plain", dtype=dtype)
    predictor = heads.make_mlp((pred_hidden_dim, proj_out_dim), out_bias=True, dtype=dtype)
    net = network.make_stack(encoder, {"projection_head": projector, "predictor": predictor})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, _ = net.init(key, views)
        return params, {"batch_stats": batch_stats}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        trees = params, method_state["batch_stats"]
        (_, z, p), batch_stats = network.apply_to_views(net, trees, views, bn_per=bn_per)
        return {"p": p, "z": jax.lax.stop_gradient(z)}, {"batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        value, metrics = losses.simsiam(outputs["p"], outputs["z"])
        return value, (method_state, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep)
