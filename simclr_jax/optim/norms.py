"""L2 norms of whole trees in few kernels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base

PyTree = base.PyTree


def global_norm(tree: PyTree) -> base.Array:
    """The L2 norm of all leaves of a tree together, a float32 scalar (float64 if a leaf is).

    Example:
        >>> float(optim.global_norm({"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])}))
        5.0
    """
    columns = jnp.concatenate(_sums_over_columns(jax.tree.leaves(tree)))
    # Without the barrier XLA takes the sum of every leaf's columns apart again.
    return jnp.sqrt(jnp.sum(jax.lax.optimization_barrier(columns)))


def norms_by_group(tree: PyTree, *, nested: str = "") -> tuple[base.Array, dict[str, base.Array]]:
    """(`global_norm` of a nested dict, the same of each of its entries by name; of the entry `nested`, of each in it).

    Example:
        >>> tree = {"encoder": {"stem": jnp.asarray([3.0])}, "head": jnp.asarray([4.0])}
        >>> total, norms = optim.norms_by_group(tree, nested="encoder")
        >>> float(total), {name: float(norm) for name, norm in norms.items()}
        (5.0, {'encoder/stem': 3.0, 'head': 4.0})
    """
    paths = [[str(getattr(key, "key", key)) for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    groups = ["/".join(path[: 2 if path[0] == nested else 1]) for path in paths]
    parts = _sums_over_columns(jax.tree.leaves(tree))
    columns = jax.lax.optimization_barrier(jnp.concatenate(parts))  # one array for all sums, see `global_norm`
    names = sorted(set(groups))
    owner = np.repeat(np.asarray([names.index(group) for group in groups], np.int32), [len(part) for part in parts])
    is_own = owner == np.arange(len(names), dtype=np.int32)[:, None]
    norms = jnp.sqrt(jnp.sum(jnp.where(is_own, columns, jnp.zeros((), columns.dtype)), axis=1))
    return jnp.sqrt(jnp.sum(columns)), dict(zip(names, norms, strict=True))


def sums_of_squares(leaves: Sequence[base.Array]) -> base.Array:
    """[n]: of every leaf."""
    columns = _sums_over_columns(leaves)
    # The second stage of all sums at once: an accelerator would start a kernel for each of them.
    owner = np.repeat(np.arange(len(columns), dtype=np.int32), [len(column) for column in columns])
    is_own = owner == np.arange(len(columns), dtype=np.int32)[:, None]
    return jnp.sum(jnp.where(is_own, jnp.concatenate(columns), jnp.zeros((), columns[0].dtype)), axis=1)


def _sums_over_columns(leaves: Sequence[base.Array]) -> list[base.Array]:
    """The squares of every leaf [..., C], summed to [C], in one type of at least float32."""
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    squares = [jnp.atleast_1d(jnp.square(leaf.astype(dtype))) for leaf in leaves]
    return [jnp.sum(square, axis=tuple(range(square.ndim - 1))) for square in squares]
