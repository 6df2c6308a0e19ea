"""Digests of arrays by their path in a tree: how equal states are recognised, on any number of devices."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base


def leaf_shapes(tree: base.PyTree) -> dict[str, str]:
    """The type and shape of every leaf by its path, such as "float32[3, 3, 64, 64]"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_leaf_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's path, the same whether its parent is a NamedTuple, a dict or, as orbax returns tuples, a list."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def leaf_digests(tree: base.PyTree) -> dict[str, str]:
    """SHA-256 of every leaf's dtype, shape and bytes, by its path; equal trees have equal digests.

    Arrays that are split over processes are collected one after the other: all processes must call it then.
    """
    return {_leaf_name(path): _digest(_whole(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def start_digests(tree: base.PyTree, *, compute: bool = True) -> Callable[[], dict[str, str]]:
    """`leaf_digests` in two parts: the host takes copies now, so that arrays may be donated; the call does the rest.

    Without `compute` this process only takes part in collecting the arrays that are split over processes, whose digests
    are computed at once: all of them together may not fit in the memory of one host.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for _, leaf in leaves:
        if compute and isinstance(leaf, jax.Array) and _is_at_hand(leaf):
            leaf.copy_to_host_async()
    found: dict[str, str | np.ndarray | jax.Array] = {}
    for path, leaf in leaves:
        if not _is_at_hand(leaf):
            array = _whole(leaf)
            found[_leaf_name(path)] = _digest(array) if compute else ""
        elif compute:
            found[_leaf_name(path)] = _held(leaf)
    return lambda: {name: x if isinstance(x, str) else _digest(np.asarray(x)) for name, x in found.items()}


def _held(leaf: Any) -> np.ndarray | jax.Array:
    """What an array holds now, whatever becomes of it: on the host, or as a copy that a CPU makes in the background."""
    if not isinstance(leaf, jax.Array):
        return np.array(leaf)
    own = leaf.addressable_data(0) if leaf.is_fully_replicated else leaf
    if next(iter(own.devices())).platform != "cpu":
        return np.asarray(own)
    # The host's view of it is the device's own memory, and copying it here takes a second a GB and more.
    return jax.device_put(own, own.sharding, may_alias=False)


def nonfinite_leaves(tree: base.PyTree) -> list[str]:
    """The paths of the leaves that hold NaN or infinity in the parts that this process has."""
    return [
        _leaf_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not all(np.isfinite(part).all() for part in _parts(leaf))
    ]


def _parts(leaf: Any) -> list[np.ndarray]:
    if _is_at_hand(leaf):
        return [np.asarray(leaf)]
    return [np.asarray(shard.data) for shard in leaf.addressable_shards]


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
