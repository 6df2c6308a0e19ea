"""Methods of one network without a target or predictor: every view through encoder and projection head, then a loss."""

from typing import Any, NamedTuple

import jax
from flax import linen as nn

from simclr_jax import base
from simclr_jax.methods import network
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree


class Siamese(NamedTuple):
    """`init` of the method, and `project`: (params, method_state, views) -> (z [B, V, d], method_state).

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}.
    """

    init: base.Init
    project: Any


def make_siamese(encoder: nn.Module, head: heads.MLP, *, bn_per: str) -> Siamese:
    """The functions of `encoder` under `head`.

    Args:
        bn_per: what BatchNorm takes its statistics over, see `network.apply_to_views`.

    Raises:
        InputError: bn_per is unknown.
    """
    network.check_bn_per(bn_per)
    net = network.make_stack(encoder, {"projection_head": head})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, _ = net.init(key, views)
        return params, {"batch_stats": batch_stats}

    def project(params: PyTree, method_state: PyTree, views: Array) -> tuple[Array, PyTree]:
        trees = params, method_state["batch_stats"]
        activations, batch_stats = network.apply_to_views(net, trees, views, bn_per=bn_per)
        return activations[-1], {**method_state, "batch_stats": batch_stats}

    return Siamese(init, project)


def make_method(siamese: Siamese, loss_of_z: Any, *, loss_scale: float = 1.0) -> base.Method:
    """The method whose loss is loss_scale * loss_of_z(z), (loss, metrics) for z [B, V, d] of the global batch.

    Its outputs are {"z"}; the metrics also hold "unscaled_loss" where loss_scale is not 1.

    Raises:
        InputError: loss_scale is not above 0 and finite.
    """
    base.check_number("loss_scale", loss_scale, "Use 1.0 for the loss itself.")

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        z, method_state = siamese.project(params, method_state, views)
        return {"z": z}, method_state

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        value, metrics = loss_of_z(outputs["z"])
        if loss_scale != 1:
            metrics = {"unscaled_loss": value, **metrics}
        return loss_scale * value, (method_state, metrics)

    return base.Method(init=siamese.init, embed=embed, loss=loss, update=base.keep)
