"""Which parameters are decayed and adapted: it follows from their shapes, so that any Flax module is treated right.

The one name that counts is "supervised_head", a classifier trained alongside.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from simclr_jax import base

PyTree = base.PyTree
_NORM = re.compile(r"(.*_)?bn\d*|.*norm.*", re.IGNORECASE)
Mask = PyTree | Callable[[PyTree], PyTree]


def _names(path: tuple[Any, ...]) -> list[str]:
    return [jax.tree_util.keystr((entry,), simple=True) for entry in path]


# Leaves of several dimensions that are no weights: learned positions of a transformer's tokens are added, as a bias is.
_ADDED = ("bias", "scale", "positions")


def _is_weight(names: Sequence[str], leaf: Any) -> bool:
    return names[-1] == "kernel" or (np.ndim(leaf) > 1 and names[-1] not in _ADDED)


def weight_mask(params: PyTree) -> PyTree:
    """Which parameters are weights, as a tree of bools: what LARS and AdamW decay.

    Kernels of convolutions and dense layers, embeddings and the like: every leaf called "kernel", and every other one
    of more than one dimension that is not called "bias", "scale" or "positions". It holds for any Flax module, whatever
    its fields are called. Parameters of normalisations, biases and a class token are vectors, and False.

    Example:
        >>> optim.weight_mask({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
        {'bias': False, 'kernel': True}
    """
    return jax.tree.map_with_path(lambda path, leaf: _is_weight(_names(path), leaf), params)


def not_weight(params: PyTree) -> PyTree:
    """The opposite of `weight_mask`: biases and the parameters of normalisations.

    Example:
        >>> optim.not_weight({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)})
        {'bias': True, 'kernel': False}
    """
    return jax.tree.map(lambda is_weight: not is_weight, weight_mask(params))


def labels_by_module(labels: Mapping[str, str], *, otherwise: str) -> Callable[[PyTree], PyTree]:
    """(params) -> a tree of words: `labels[module]` below each module named there, `otherwise` elsewhere.

    Raises:
        InputError: from the result, if the parameters have no module of a name.
    """

    def label(params: PyTree) -> PyTree:
        missing = sorted(set(labels) - set(params))
        if missing:
            raise base.InputError(
                f"optimizer.constant_rate_for must be a module of the method: {', '.join(params)}; got {missing[0]}."
            )
        return {name: jax.tree.map(lambda _, n=name: labels.get(n, otherwise), tree) for name, tree in params.items()}

    return label


def adapted_mask(params: PyTree) -> PyTree:
    """Which parameters LARS gives a trust ratio: the weights of `weight_mask` outside "supervised_head".

    Example:
        >>> optim.adapted_mask({"supervised_head": {"kernel": jnp.ones((3, 2))}})
        {'supervised_head': {'kernel': False}}
    """
    return jax.tree.map_with_path(
        lambda path, leaf: _is_weight(_names(path), leaf) and "supervised_head" not in _names(path), params
    )


def normalization_mask(params: PyTree) -> PyTree:
    """Which parameters belong to a normalisation (BatchNorm, GroupNorm, LayerNorm): a module that has no weights.

    A bias beside a kernel is that layer's; a scale without one is a normalisation's, and so is the bias beside it. A
    bias on its own counts where its module is called bn, norm or the like.

    Example:
        >>> optim.normalization_mask({"norm": {"scale": jnp.ones(2)}, "dense": {"kernel": jnp.ones((2, 2))}})
        {'dense': {'kernel': False}, 'norm': {'scale': True}}
    """
    leaves: dict[tuple[str, ...], set[str]] = {}
    weights = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *module, name = _names(path)
        leaves.setdefault(tuple(module), set()).add(name)
        if _is_weight([*module, name], leaf):
            weights.add(tuple(module))

    def is_normalization(path: tuple[Any, ...], _: Any) -> bool:
        module = tuple(_names(path)[:-1])
        called_so = bool(module) and _NORM.fullmatch(module[-1]) is not None
        return module not in weights and ("scale" in leaves[module] or called_so)

    return jax.tree.map_with_path(is_normalization, params)


def not_normalization(params: PyTree) -> PyTree:
    """The opposite of `normalization_mask`: what SGD decays.

    Example:
        >>> optim.not_normalization({"norm": {"scale": jnp.ones(2)}, "dense": {"kernel": jnp.ones((2, 2))}})
        {'dense': {'kernel': True}, 'norm': {'scale': False}}
    """
    return jax.tree.map(lambda is_norm: not is_norm, normalization_mask(params))
