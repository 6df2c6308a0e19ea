"""An encoder beside any modules of its own, for methods whose heads read more than one representation.

params and batch_stats are {"encoder", name of a module, ...}.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import network

Array = jax.Array
PyTree = base.PyTree
Trees = tuple[PyTree, PyTree]


class Parts(NamedTuple):
    """The functions of an encoder and modules; `trees` are (params, batch_stats) of all of them.

    init: (key, images of which only the shape [N, h, w, 3] and type are read) -> trees.
    encode: (trees, images [B, n, h, w, 3]) -> (h [B, n, D], batch_stats), in training, one pass for all of them.
    run: (name, trees, x [B, ...]) -> (output, batch_stats), in training.
    """

    init: Callable[[Array, Any], Trees]
    encode: Callable[[Trees, Array], tuple[Array, PyTree]]
    run: Callable[[str, Trees, Array], tuple[Array, PyTree]]


class Part(NamedTuple):
    """A module `apply(variables, x, train=...)`, and the shape of its input, batch first, for an encoder of width D."""

    module: nn.Module
    input_shape: Callable[[int], tuple[int, ...]]


def make_parts(encoder: nn.Module, parts: Mapping[str, Part]) -> Parts:
    """The functions of `encoder` and the modules `parts`."""
    net = network.make_stack(encoder, {})

    def init(key: Array, images: Any) -> Trees:
        views = jax.ShapeDtypeStruct((images.shape[0], 1, *images.shape[1:]), images.dtype)
        params, batch_stats, (h,) = net.init(key, views)
        for number, (name, part) in enumerate(parts.items()):
            given = jax.ShapeDtypeStruct(part.input_shape(h.shape[-1]), h.dtype)
            variables = part.module.lazy_init(jax.random.fold_in(key, number + 2), given, train=False)
            params[name], batch_stats[name] = (variables.get(kind, {}) for kind in ("params", "batch_stats"))
        return params, batch_stats

    def encode(trees: Trees, images: Array) -> tuple[Array, PyTree]:
        (h,), batch_stats = network.apply_to_views(net, trees, images, bn_per="batch")
        return h, batch_stats

    def run(name: str, trees: Trees, x: Array) -> tuple[Array, PyTree]:
        params, batch_stats = trees
        own = params[name], batch_stats[name]
        y, batch_stats = network.apply_part(parts[name].module, own, x, train=True)
        return y, {**trees[1], name: batch_stats}

    return Parts(init, encode, run)


def solve(logits: Array, labels: Array) -> tuple[Array, base.Metrics]:
    """(mean cross entropy, {"task_accuracy"}) of a pretext task's logits [B, n, C] and answers int [B, n]."""
    values = losses.cross_entropy(logits, labels)
    hits = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    return jnp.mean(values), {"task_accuracy": jnp.mean(hits.astype(values.dtype))}
