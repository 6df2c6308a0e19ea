"""How the examples of an update reach the device: a split that lives there, or rows sent step by step.

Both feeds visit the same examples in the same order, which is a function of (seed, step) alone, so a run may change
from one to the other without changing a bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simclr_jax import base, data
from simclr_jax.data import order, resident
from simclr_jax.distributed import sharding

# A resident split may take this share of a device's memory; the rest is for the network.
_DEVICE_SHARE = 0.5
_BYTES_WITHOUT_LIMIT = 8 * 2**30


class Feed(NamedTuple):
    """Where the rows of a batch come from.

    draw: step -> (source, indices int32 [K, B]), the arguments of the dispatch that begins with update step + 1.
    load_batch: (source, indices [B], positions [B]) -> Batch, row by row, inside the compiled step.
    source_is_rows: whether the source is split over devices by rows; otherwise every device holds all of it.
    name: as it is shown at the start of a run.
    """

    draw: Callable[[int], tuple[Any, base.Array]]
    load_batch: Callable[[Any, base.Array, base.Array], base.Batch]
    source_is_rows: bool
    name: str


def make_feed(
    image_set: data.ImageSet, mesh: Mesh, *, seed: int, shape: tuple[int, int], max_resident_gigabytes: float | None
) -> Feed:
    """The resident feed if the split fits on a device, else the streamed one.

    Args:
        image_set: the training split.
        mesh: where the batch goes.
        seed: of the order.
        shape: (K, B), updates per dispatch and images per update.
        max_resident_gigabytes: device memory that the split may take, in GB; None = half of it (8 GiB where the
            device does not tell). 0 streams always.

    Raises:
        base.InputError: the split must be streamed and K is not 1, or max_resident_gigabytes is negative.
    """
    if max_resident_gigabytes is not None and not max_resident_gigabytes >= 0:
        raise base.InputError(f"train.max_resident_gigabytes must not be negative; got {max_resident_gigabytes}.")
    budget = budget_bytes(max_resident_gigabytes, device_bytes=sharding.device_memory_bytes())
    if resident.resident_bytes(image_set) <= budget:
        return make_resident_feed(image_set, mesh, seed=seed, shape=shape)
    if shape[0] != 1:
        raise base.InputError(
            f"train.steps_per_dispatch must be 1 where the data do not fit on the device and are streamed; got "
            f"{shape[0]} and {resident.resident_bytes(image_set) / 1e9:.1f} GB. Use 1, or lower data.canvas_size."
        )
    return make_streamed_feed(image_set, mesh, seed=seed, batch_size=shape[1])


def make_resident_feed(image_set: data.ImageSet, mesh: Mesh, *, seed: int, shape: tuple[int, int]) -> Feed:
    """The whole split on every device; the host sends indices only."""
    source = sharding.put_replicated(mesh, resident.split_arrays(image_set))

    def draw(step: int) -> tuple[Any, base.Array]:
        count = shape[0] * shape[1]
        indices = order.stream_indices(seed, step * shape[1], count, num_examples=len(image_set.images))
        return source, sharding.put_rows(mesh, indices.reshape(shape), axis=1)

    return Feed(draw, resident.gather_batch, source_is_rows=False, name="on the device")


def make_streamed_feed(image_set: data.ImageSet, mesh: Mesh, *, seed: int, batch_size: int) -> Feed:
    """The rows of one update at a time, read from memory or from the decoded cache on disk.

    Every process reads only the rows of its own devices. The device computes while the host reads the next rows.
    """
    split = resident.split_arrays(image_set)

    def draw(step: int) -> tuple[Any, base.Array]:
        indices = order.stream_indices(seed, step * batch_size, batch_size, num_examples=len(image_set.images))
        source = jax.tree.map(lambda array: sharding.gather_rows(mesh, array, indices), split)
        return source, sharding.put_rows(mesh, indices[None], axis=1)

    return Feed(draw, sent_rows, source_is_rows=True, name="streamed from the host")


def sent_rows(source: resident.SplitArrays, indices: base.Array, positions: base.Array) -> base.Batch:
    """The batch whose rows have been sent; pure, meant to run inside `jit`. See `resident.gather_batch`."""
    image, size, label = (jnp.asarray(array) for array in source)
    return base.Batch(image=image, size=size, label=label, index=indices, position=positions, mask=indices >= 0)


def budget_bytes(max_resident_gigabytes: float | None, *, device_bytes: int | None) -> float:
    """Device memory that a resident split may take, on a device with that limit (None: it does not tell)."""
    if max_resident_gigabytes is not None:
        return max_resident_gigabytes * 1e9
    return device_bytes * _DEVICE_SHARE if device_bytes else _BYTES_WITHOUT_LIMIT
