"""The momentum network (target, key encoder, teacher): parameters that follow those being trained.

It lives in method_state["target"] as {"params", "batch_stats"}. Only parameters follow. Its BatchNorm statistics are
its own: it normalises by its own batch while training and its moving averages move by that.

Reference for the statistics: the released codes of BYOL, MoCo and MoCo v3 all do so.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base
from simclr_jax.methods import network
from simclr_jax.models import heads

Array = jax.Array
PyTree = base.PyTree

SCHEDULES = ("constant", "cosine")


def check_decay(decay: float, schedule: str, num_steps: int = 1) -> None:
    """Raises InputError unless 0 <= decay <= 1 and the schedule is known and has a length."""
    if not 0 <= decay <= 1:
        raise base.InputError(f"target_decay must be 0 to 1; got {decay}. Use 0.99, or 0.996 for long runs.")
    base.check_choice(schedule, SCHEDULES, name="target_decay_schedule")
    if schedule == "cosine" and num_steps < 1:
        raise base.InputError(f"num_steps must be at least 1 for a cosine; got {num_steps}. Give the run's updates.")


def share_of_new(step: Array, *, decay: float, schedule: str, num_steps: int) -> Array:
    """1 - tau, the share of the new parameters that the target takes over at `step`, a scalar of the default type.

    "constant": tau = decay. "cosine": tau = 1 - (1 - decay) (1 + cos(pi k / S)) / 2 with k = min(step, S), which rises
    from `decay` at step 0 to 1 at step S, after which the target rests. Returned as 1 - tau, which keeps its digits.

    Args:
        step: int32, counted from 0.
        decay: tau at step 0.
        num_steps: S, updates of the whole run.
    """
    if schedule == "constant":
        return jnp.asarray(1 - decay, float)
    progress = jnp.minimum(step.astype(float), num_steps) / num_steps
    return (1 - decay) * (1 + jnp.cos(jnp.pi * progress)) / 2


def start_target(params: PyTree, batch_stats: PyTree, names: Sequence[str]) -> dict[str, Any]:
    """A target that starts as a copy of the modules `names`."""
    # Copies: a state whose buffers are donated may not hold one twice.
    trees = {"params": params, "batch_stats": batch_stats}
    return {kind: jax.tree.map(jnp.copy, {name: tree[name] for name in names}) for kind, tree in trees.items()}


def follow(target: PyTree, params: PyTree, share: Array) -> dict[str, Any]:
    """The target after one move: (1 - share) target + share params, parameter by parameter.

    Args:
        target: {"params", "batch_stats"}.
        params: the method's, which may hold more modules than the target.
        share: 1 - tau, see `share_of_new`.
    """
    moved = jax.tree.map(
        lambda old, new: old + share.astype(old.dtype) * (new - old),
        target["params"],
        {name: params[name] for name in target["params"]},
    )
    return {**target, "params": moved}


def apply_target(net: network.Network, target: PyTree, views: Array, *, bn_per: str) -> tuple[Array, dict[str, Any]]:
    """(the target's last activation for views [B, V, h, w, 3], without a gradient; the target with new statistics)."""
    trees = jax.lax.stop_gradient((target["params"], target["batch_stats"]))
    activations, batch_stats = network.apply_to_views(net, trees, views, bn_per=bn_per)
    return jax.lax.stop_gradient(activations[-1]), {**target, "batch_stats": batch_stats}


def make_update(*, decay: float, schedule: str = "constant", num_steps: int = 1, later: int = 0) -> base.Update:
    """The `Update` after which the target has followed the parameters by the share of step k + `later`.

    A code that moves its target at the beginning of step k, with the parameters that the step begins with, is followed
    with `later` 1: here it has moved at the end of step k - 1.
    """

    def update(params: PyTree, method_state: PyTree, step: Array) -> tuple[PyTree, PyTree]:
        share = share_of_new(step + later, decay=decay, schedule=schedule, num_steps=num_steps)
        return params, {**method_state, "target": follow(method_state["target"], params, share)}

    return update


class Pair(NamedTuple):
    """An online network that ends in a predictor, and its target that does not.

    init: as `base.Init`. predict: (params, method_state, views [B, V, h, w, 3]) -> (predictions [B, V, d], the target's
        projections [B, V, d], a constant, new method_state).
    """

    init: base.Init
    predict: Callable[[PyTree, PyTree, Array], tuple[Array, Array, PyTree]]


def make_pair(encoder: nn.Module, projector: heads.MLP, predictor: heads.MLP, *, bn_per: str) -> Pair:
    """Encoder and projector with a predictor, beside a target of the first two that starts as a copy."""
    network.check_bn_per(bn_per)
    online = network.make_stack(encoder, {"projection_head": projector, "predictor": predictor})
    target = network.make_stack(encoder, {"projection_head": projector})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, batch_stats, _ = online.init(key, views)
        start = start_target(params, batch_stats, ("encoder", "projection_head"))
        return params, {"batch_stats": batch_stats, "target": start}

    def predict(params: PyTree, method_state: PyTree, views: Array) -> tuple[Array, Array, PyTree]:
        trees = params, method_state["batch_stats"]
        activations, batch_stats = network.apply_to_views(online, trees, views, bn_per=bn_per)
        z, followed = apply_target(target, method_state["target"], views, bn_per=bn_per)
        return activations[-1], z, {"batch_stats": batch_stats, "target": followed}

    return Pair(init, predict)
