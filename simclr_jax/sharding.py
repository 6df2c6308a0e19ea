"""Where arrays live: the mesh, placements, and the map over the rows of a batch.

The only file that knows devices and processes. All other code is written for global arrays, as for one device.
Values equal on all devices are "replicated"; a batch is split over devices along its first axis.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from simclr_jax import base

BATCH_AXIS = "batch"


def make_mesh(num_devices: int | None = None, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over the first `num_devices` devices (default: all of all processes).

    `devices` may be those of a topology that is only compiled for; None for those that are here.

    Raises:
        base.InputError: there are not that many devices.
    """
    devices = jax.devices() if devices is None else devices
    if num_devices is not None and not 1 <= num_devices <= len(devices):
        raise base.InputError(
            f"num_devices must be between 1 and the number of devices; got {num_devices} and {len(devices)}. "
            f"Use at most {len(devices)}."
        )
    return Mesh(np.asarray(list(devices)[:num_devices]), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of values that are equal on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The placement of arrays whose axis `axis` is the global batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError unless the global batch divides evenly over the mesh."""
    check_divides(batch_size, mesh.size)


def check_divides(batch_size: int, n: int) -> None:
    """Raises InputError unless the global batch divides evenly over `n` devices."""
    if batch_size < 1 or batch_size % n:
        lower, upper = max(batch_size // n, 1) * n, (max(batch_size, 0) // n + 1) * n
        remedy = f"Use {lower}." if lower == upper else f"Use {lower} or {upper}."
        raise base.InputError(
            f"batch_size must be a positive multiple of the number of devices; got {batch_size} and {n}. {remedy}"
        )


def put_replicated(mesh: Mesh, tree: base.PyTree) -> base.PyTree:
    """Host arrays, equal in every process, as global arrays present on every device."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i]), tree)


def like_replicated(mesh: Mesh, shapes: base.PyTree) -> base.PyTree:
    """Shapes and dtypes (from `jax.eval_shape`) with the placement of replicated values: a target to restore into."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def make_key(mesh: Mesh, seed: int) -> jax.Array:
    """The random key of a seed, present on every device."""
    return jax.jit(jax.random.key, static_argnums=0, out_shardings=replicated(mesh))(seed)


def jit_once(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`jit` for a function that runs once, such as initialisers: quick to compile; its results are replicated.

    Initialising a ResNet-18 takes XLA's CPU backend seven seconds to optimise and no time to run.
    """
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(fn, out_shardings=replicated(mesh), compiler_options=options)


def put_rows(mesh: Mesh, array: np.ndarray, axis: int = 0) -> jax.Array:
    """A host array of the whole global batch, split along `axis`; each process hands over only its own part."""
    return jax.make_array_from_callback(array.shape, rows(mesh, axis), lambda index: array[index])


def gather_rows(mesh: Mesh, array: np.ndarray, indices: np.ndarray) -> jax.Array:
    """`array[indices]` split by rows; `array` may lie on disk, and each process reads only the rows of its devices."""

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        return np.asarray(array[indices if index is None else indices[index[0]]])

    return jax.make_array_from_callback((len(indices), *array.shape[1:]), rows(mesh), read)


def map_rows(fn: Callable[..., Any], mesh: Mesh, *, row_args: tuple[bool, ...]) -> Callable[..., Any]:
    """`fn` run by every device on its own rows, so that no communication can arise in it.

    `fn` must treat rows independently of each other. `row_args` says for every positional argument whether it is
    split by rows (True) or replicated (False); all outputs are split by rows.
    """
    row, whole = PartitionSpec(BATCH_AXIS), PartitionSpec()
    return jax.shard_map(
        fn, mesh=mesh, in_specs=tuple(row if r else whole for r in row_args), out_specs=row, check_vma=False
    )


def device_summary(mesh: Mesh) -> str:
    """For people: how many devices of what kind."""
    device = mesh.devices.flat[0]
    return f"{mesh.size} x {getattr(device, 'device_kind', device.platform)} ({device.platform})"


def device_memory_bytes() -> int | None:
    """Memory limit of one local device in bytes, None where the backend does not tell (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("bytes_limit")
