"""Whether a training state is all numbers, which is asked before it is kept; and what is said where it is not."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import base
from simclr_jax.distributed import sharding
from simclr_jax.run import tree_digests

# What a run does then: it stops, leaves the update out, or goes back to the newest checkpoint and on to other images.
POLICIES = ("stop", "skip", "rollback")
MOST_SKIPPED, MOST_ROLLBACKS = 10, 3


class Diverged(RuntimeError):
    """The loss, a gradient or the state became non-finite; the message is one line for the user, without a remedy.

    step: the update that did it, counted from 0, so that its images and random numbers are those of this number.
    norms: the L2 norms of its gradient, by the part of the network; empty where they are not known.
    """

    def __init__(self, message: str, *, step: int, norms: Mapping[str, float] | None = None):
        super().__init__(message)
        self.step, self.norms = step, dict(norms or {})


def make_find_nonfinite(mesh: Mesh) -> Callable[[base.TrainState], list[str]]:
    """state -> the paths of its arrays with NaN or infinity, the same list in all processes, which all call it.

    The devices look, and the host reads one bit for every array; it compiles at its first call.
    """
    look = sharding.jit_once(_are_finite, mesh)

    def find(state: base.TrainState) -> list[str]:
        tree = state._asdict()
        finite = np.asarray(jax.device_get(look(tree)))
        return [name for name, good in zip(tree_digests.leaf_shapes(tree), finite, strict=True) if not good]

    return find


def _are_finite(tree: base.PyTree) -> base.Array:
    return jnp.stack([_is_finite(leaf) for leaf in jax.tree.leaves(tree)])


def _is_finite(leaf: Any) -> base.Array:
    return jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.array(True)
