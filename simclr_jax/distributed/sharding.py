"""Where arrays live: the mesh, placements, and the map over the rows of a batch.

The only file that knows devices. All other code is written for global arrays, as for one device. Values equal on all
devices are "replicated"; a batch is split over devices along its first axis.
"""

import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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


def make_local_mesh() -> Mesh:
    """A mesh over the devices of this process, for what every process does by itself, such as embedding its share."""
    return make_mesh(devices=jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of values that are equal on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The placement of arrays whose axis `axis` is the global batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh, *, name: str = "batch_size") -> None:
    """Raises InputError unless the global batch, called `name`, divides evenly over the mesh."""
    processes = len({device.process_index for device in mesh.devices.flat})
    check_divides(batch_size, mesh.size, name=name, of=f" (of {processes} processes)" if processes > 1 else "")


def check_divides(batch_size: int, n: int, *, name: str = "batch_size", of: str = "") -> None:
    """Raises InputError unless the global batch, called `name`, divides evenly over `n` devices; `of` says whose."""
    if batch_size < 1 or batch_size % n:
        lower, upper = max(batch_size // n, 1) * n, (max(batch_size, 0) // n + 1) * n
        remedy = f"Use {lower}." if lower == upper else f"Use {lower} or {upper}."
        raise base.InputError(
            f"{name} must be a positive multiple of the number of devices; got {batch_size} and {n}{of}. {remedy}"
        )


def num_groups(mesh: Mesh, group: str) -> int:
    """Into how many groups of neighbouring rows a batch falls if each "device", each "host" or all ("global") is one.

    Raises:
        base.InputError: any other `group`.
    """
    hosts = len({device.process_index for device in mesh.devices.flat})
    groups = {"global": 1, "host": hosts, "device": mesh.size}
    base.check_choice(group, groups, name="train.bn_group", remedy="Use global.")
    return groups[group]


# How parameters and what the optimizer keeps of them are placed: whole on every device, or split over all of them.
PARAMETER_SHARDINGS = ("replicated", "fsdp")
_SMALLEST_SPLIT = 4096  # elements; vectors of BatchNorm and biases cost more to collect than they take


def check_parameter_sharding(how: str) -> None:
    """Raises InputError unless `how` is one of PARAMETER_SHARDINGS."""
    base.check_choice(how, PARAMETER_SHARDINGS, name="train.parameter_sharding")


def state_placement(mesh: Mesh, shapes: base.PyTree, *, how: str) -> base.PyTree:
    """The placement of every array of a training state.

    Args:
        mesh: over all devices.
        shapes: the state's shapes, from `jax.eval_shape`.
        how: "replicated": all of it on every device. "fsdp": every array of at least 4096 elements is split over the
            devices along its longest axis that divides by their number; the others stay whole.

    Raises:
        base.InputError: `how` is neither.

    Reference: Rajbhandari et al. 2020 (ZeRO), stages 1 and 3 in what is stored. Difference: the weights are collected
        once per update for forward and backward together, not layer by layer; see `collected`.
    """
    check_parameter_sharding(how)

    def place(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        lengths = [n if n % mesh.size == 0 else 0 for n in leaf.shape]
        if how == "replicated" or math.prod(leaf.shape) < _SMALLEST_SPLIT or not any(lengths):
            return replicated(mesh)
        return rows(mesh, axis=len(lengths) - 1 - int(np.argmax(lengths[::-1])))

    return jax.tree.map(place, shapes)


def collected(method: base.Method, mesh: Mesh) -> base.Method:
    """`method` whose networks get whole weights, gathered from the devices where the state is sharded.

    Without it the compiler is free to move images towards split weights, which are smaller in ResNets.
    """

    def embed(
        params: base.PyTree, method_state: base.PyTree, views: base.Views, batch: base.Batch, key: base.Array
    ) -> tuple[base.PyTree, base.PyTree]:
        # A target network lies in the method's state.
        params, method_state = jax.lax.with_sharding_constraint((params, method_state), replicated(mesh))
        return method.embed(params, method_state, views, batch, key)

    return method._replace(embed=embed)


def put_replicated(mesh: Mesh, tree: base.PyTree) -> base.PyTree:
    """Host arrays, equal in every process, as global arrays present on every device."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i]), tree)


def like_replicated(mesh: Mesh, shapes: base.PyTree) -> base.PyTree:
    """Shapes and dtypes (from `jax.eval_shape`) with the placement of replicated values: a target to restore into."""
    return like_placed(shapes, jax.tree.map(lambda x: replicated(mesh), shapes))


def like_placed(shapes: base.PyTree, placement: base.PyTree) -> base.PyTree:
    """Shapes and dtypes (from `jax.eval_shape`) with their placement: a target to restore into."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, placement)


def put_placed(tree: base.PyTree, placement: base.PyTree) -> base.PyTree:
    """Host arrays, equal in every process, as global arrays; every device gets its part."""
    put = jax.make_array_from_callback
    return jax.tree.map(lambda x, place: put(np.shape(x), place, lambda i: np.asarray(x)[i]), tree, placement)


def make_key(mesh: Mesh, seed: int) -> jax.Array:
    """The random key of a seed, present on every device."""
    return jax.jit(jax.random.key, static_argnums=0, out_shardings=replicated(mesh))(seed)


def jit_once(fn: Callable[..., Any], mesh: Mesh, *, placement: base.PyTree | None = None) -> Callable[..., Any]:
    """`jit` for a function that runs once, such as initialisers: quick to compile.

    Its results are replicated, or placed as `placement` says.

    Initialising a ResNet-18 takes XLA's CPU backend seven seconds to optimise and no time to run.
    """
    options = {"xla_backend_optimization_level": 0} if base.platform() == "cpu" else None
    return jax.jit(fn, out_shardings=replicated(mesh) if placement is None else placement, compiler_options=options)


def put_rows(mesh: Mesh, array: np.ndarray, axis: int = 0) -> jax.Array:
    """A host array of the whole global batch, split along `axis`; each process hands over only its own part."""
    return jax.make_array_from_callback(array.shape, rows(mesh, axis), lambda index: array[index])


def gather_rows(mesh: Mesh, array: np.ndarray, indices: np.ndarray) -> jax.Array:
    """`array[indices]` split by rows; `array` may be on disk, and each process reads only the rows of its devices."""

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
        return np.asarray(array[indices if index is None else indices[index[0]]])

    return jax.make_array_from_callback((len(indices), *array.shape[1:]), rows(mesh), read)


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
    """The rows of a global batch of `count` that this process's devices hold, ascending: int64 [n]."""
    mine = rows(mesh).addressable_devices_indices_map((count,)).values()
    starts = sorted({(index[0].indices(count) if index else (0, count, 1)) for index in mine})
    return np.concatenate([np.arange(*start) for start in starts])


def put_local_rows(mesh: Mesh, array: np.ndarray, mine: np.ndarray, *, count: int) -> jax.Array:
    """The global array of `count` rows of which `array` holds those at `mine`, from `local_rows`, split by rows."""

    def take(index: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = index[0].indices(count) if index else (0, count, 1)
        place = int(np.searchsorted(mine, start))
        return array[place : place + stop - start]

    return jax.make_array_from_callback((count, *array.shape[1:]), rows(mesh), take)


def map_rows(fn: Callable[..., Any], mesh: Mesh, *, row_args: tuple[bool, ...]) -> Callable[..., Any]:
    """`fn` run by every device on its own rows, so that no communication can arise in it.

    `fn` must treat rows independently of each other. `row_args` says for every positional argument whether it is
    split by rows (True) or replicated (False); all outputs are split by rows.
    """
    row, whole = PartitionSpec(BATCH_AXIS), PartitionSpec()
    return jax.shard_map(
        fn, mesh=mesh, in_specs=tuple(row if r else whole for r in row_args), out_specs=row, check_vma=False
    )


def make_vote(mesh: Mesh) -> Callable[[int], int]:
    """number -> the largest number that any process voted for, the same answer in all of them.

    All processes call it the same number of times between the same steps: that is how they stop at the same step.
    With several processes on accelerators the answer is that of the call before, so that nobody waits for a device.
    """
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return lambda number: number
    largest = jax.jit(jnp.max, out_shardings=replicated(mesh))
    pending: list[jax.Array] = []

    def vote(number: int) -> int:
        votes = jax.make_array_from_callback(
            (mesh.size,), rows(mesh), lambda index: np.full(1, number, np.int32)
        )  # every process fills in its own devices' places
        pending.append(largest(votes))
        if base.platform() == "cpu" or len(pending) > 1:
            return int(pending.pop(0))
        return 0

    return vote


def device_kind() -> str:
    """What JAX calls the kind of the devices, such as "NVIDIA H200"."""
    return str(jax.devices()[0].device_kind)


def device_summary(mesh: Mesh) -> str:
    """How many devices of what kind, in words: "8 x NVIDIA H200 (gpu)"."""
    device = mesh.devices.flat[0]
    processes = len({device.process_index for device in mesh.devices.flat})
    of = f" of {processes} processes" if processes > 1 else ""
    return f"{mesh.size} x {getattr(device, 'device_kind', device.platform)} ({device.platform}){of}"


def local_summary() -> str:
    """The devices of this process in words, which every process of a run must have alike."""
    devices = jax.local_devices()
    return f"{len(devices)} x {getattr(devices[0], 'device_kind', devices[0].platform)}"


def device_memory_bytes() -> int | None:
    """Memory limit of one local device in bytes, None where the backend does not report it (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("bytes_limit")


def device_peak_bytes() -> int | None:
    """Most memory of one local device in use so far, in bytes; None where the backend does not report it."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("peak_bytes_in_use")


def peak_memory() -> dict[str, int]:
    """Most memory in use so far, in bytes: {"peak_bytes"} of one device, where it tells.

    Else, as on a CPU, whose memory is the host's: {"peak_host_bytes"} of this process, its libraries included.
    """
    of_device = device_peak_bytes()
    return {"peak_host_bytes": _process_peak_bytes()} if of_device is None else {"peak_bytes": of_device}


def _process_peak_bytes() -> int:
    """Most resident memory of this process."""
    try:
        # Linux's getrusage counts what the parent held as it started this process.
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
