"""Digests of arrays by their path in a tree: how equal states are recognised, on any number of devices."""

import hashlib
from typing import Any

import jax
import numpy as np

from simclr_jax import base


def leaf_shapes(tree: base.PyTree) -> dict[str, str]:
    """The type and shape of every leaf by its path, such as "float32[3, 3, 64, 64]"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_leaf_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's path, the same whether its parent is a NamedTuple, a dict or, as orbax returns tuples, a list."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def leaf_digests(tree: base.PyTree, *, compute: bool = True) -> dict[str, str]:
    """SHA-256 of every leaf's dtype, shape and bytes, by its path; equal trees have equal digests.

    Arrays that are split over processes are collected one after the other: all processes must call it then. Without
    `compute` this process only takes part in that.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if compute or not _is_at_hand(leaf):
            array = _whole(leaf)
            found[_leaf_name(path)] = _digest(array) if compute else ""
    return found


def _is_at_hand(leaf: Any) -> bool:
    """Whether this process holds all of the array."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _whole(leaf: Any) -> np.ndarray:
    """A leaf as a host array; one whose parts other processes hold is collected first."""
    if not _is_at_hand(leaf):
        assert isinstance(leaf.sharding, jax.sharding.NamedSharding)
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.sharding.PartitionSpec())
        leaf = jax.jit(_same, out_shardings=everywhere)(leaf)
    return np.asarray(leaf)


def _same(x: jax.Array) -> jax.Array:
    """A function of its own, so that JAX compiles it once for every shape and not at every call."""
    return x


def _digest(array: np.ndarray) -> str:
    header = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()
