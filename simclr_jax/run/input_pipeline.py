"""How the examples of an update reach the device: a split that lives there, or rows sent step by step.

All feeds visit the same examples in the same order, which is a function of (seed, step) alone. The first two hand out
the same bits: images that were decoded once and fitted to a canvas, from which the device cuts the views. The third
reads, decodes and cuts full-resolution pictures anew in every epoch, on the host, with the device's random windows.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import augment, base, data
from simclr_jax.data import cutting, host_crop, imageset, order, resident, streaming, workers
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import progress

KINDS = ("auto", "resident", "canvas", "streamed")

# A resident split may take this share of a device's memory; the rest is for the network.
_DEVICE_SHARE = 0.5
_BYTES_WITHOUT_LIMIT = 8 * 2**30


class Feed(NamedTuple):
    """Where the rows of a batch come from.

    draw: step -> (source, indices int32 [K, B]), the arguments of the dispatch that begins with update step + 1.
    load_batch: (source, indices [B], positions [B]) -> Batch, row by row, inside the compiled step.
    source_is_rows: whether the source is split over devices by rows; otherwise every device holds all of it.
    name: as it is shown at the start of a run.
    is_cut: whether images are crops that the host has cut, uint8 [B, V, size, size, 3].
    close: ends what works ahead.
    """

    draw: Callable[[int], tuple[Any, base.Array]]
    load_batch: Callable[[Any, base.Array, base.Array], base.Batch]
    source_is_rows: bool
    name: str
    is_cut: bool = False
    close: Callable[[], None] = lambda: None


class FeedSettings(NamedTuple):
    """The config's section `feed`, checked by `make_settings`. workers: see `workers.WorkerSettings`."""

    kind: str
    workers: workers.WorkerSettings
    crop_method: str


def make_settings(
    *, kind: str = "auto", workers: str = "threads", num_workers: int | None = None, crop_method: str = "exact"
) -> FeedSettings:
    """How pictures come to the devices.

    Args:
        kind: "resident": the whole split, decoded, on every device. "canvas": decoded once into a cache on disk, and
            sent row by row where it does not fit on a device. "streamed": encoded pictures, read in every epoch, whose
            crops the host cuts from the full resolution. "auto": streamed where decoded pictures would not fit on a
            device (train.max_resident_gigabytes) and the host can cut the views, else as "canvas".
        workers: who reads for the streamed feed: "threads" or "processes".
        num_workers: of them; None = one for each core, at most 16; 0 = the training's own thread.
        crop_method: "exact", the reference's bicubic; "opencv", which is faster and another kernel.

    Raises:
        base.InputError: an unknown choice or a number out of range.
    """
    base.check_choice(kind, KINDS, name="kind", remedy="Use auto.")
    host_crop.check_method(crop_method)
    return FeedSettings(kind, _worker_settings(workers, num_workers), crop_method)


def _worker_settings(kind: str, count: int | None) -> workers.WorkerSettings:
    return workers.check_settings(workers.WorkerSettings(kind, count))


def stream_above(config: Mapping[str, Any], *, device_bytes: int | None) -> float:
    """Decoded bytes above which the training split of this config is streamed; see `data.load_split`.

    `device_bytes` is the memory of one device that the program may use; None where it does not tell.
    """
    settings = config_lib.call(make_settings, config, "feed")
    if settings.kind == "streamed":
        return -1.0
    if settings.kind != "auto" or not can_cut(config):
        return math.inf
    return budget_bytes(config["train"]["max_resident_gigabytes"], device_bytes=device_bytes)


def can_cut(config: Mapping[str, Any]) -> bool:
    """Whether the host can cut the views of this config: all of one size."""
    return not augment.make_recipe(**config["augment"]).num_small_views


def check_config(config: Mapping[str, Any], *, steps_per_dispatch: int) -> None:
    """Refuses, before data are read, what the config's section `feed` asks for and no run can have.

    Raises:
        base.InputError: feed.kind is "streamed" for a built-in set, for views that the host cannot cut, or for several
            steps a dispatch; or a value of the section is not valid.
    """
    if config_lib.call(make_settings, config, "feed").kind != "streamed":
        return
    name = config["data"]["name"]
    if ":" not in name:
        raise base.InputError(f"feed.kind streamed is for pictures on disk; got the built-in {name}. Use auto.")
    make_cuts(config)
    check_steps(steps_per_dispatch)


def check_steps(steps_per_dispatch: int) -> None:
    """Raises base.InputError unless a streamed feed can serve that many updates of a dispatch."""
    if steps_per_dispatch != 1:
        raise base.InputError(
            f"train.steps_per_dispatch must be 1 where pictures are streamed; got {steps_per_dispatch}. Use 1, or "
            "feed.kind canvas."
        )


def make_cuts(config: Mapping[str, Any], *, num_views: int | None = None) -> cutting.Cuts:
    """The crops that the streamed feed cuts for this config: its views', or with `num_views` 0 those of evaluation.

    Raises:
        base.InputError: views that the host cannot cut: small ones beside the others.
    """
    settings = config_lib.call(make_settings, config, "feed")
    recipe = augment.make_recipe(**config["augment"])
    if num_views != 0 and not can_cut(config):
        raise base.InputError(
            "pictures are streamed with views of one size; got augment.num_small_views "
            f"{recipe.num_small_views}. Use feed.kind canvas."
        )
    section = config["data"]
    return cutting.Cuts(
        size=recipe.image_size,
        resize=recipe.resize,
        method=settings.crop_method,
        num_views=recipe.num_views if num_views is None else num_views,
        seed=config["seed"],
        min_scale=recipe.crop_min_scale,
        sampler=recipe.crop_sampler,
        center_fraction=augment.center_fraction(recipe.image_size),
        rules=imageset.check_rules(imageset.Rules(section["sixteen_bit_range"], section["max_megapixels"])),
    )


def make_feed(
    image_set: data.ImageSet,
    mesh: Mesh,
    *,
    seed: int,
    shape: tuple[int, int],
    max_resident_gigabytes: float | None,
    kind: str = "auto",
) -> Feed:
    """The feed of a decoded split: resident if it fits on a device, else sent row by row.

    Args:
        image_set: the training split.
        mesh: where the batch goes.
        seed: of the order.
        shape: (K, B), updates per dispatch and images per update.
        max_resident_gigabytes: device memory that the split may take, in GB; None = half of it (8 GiB where the
            device does not tell). 0 streams always.
        kind: "resident" puts it there in any case.

    Raises:
        base.InputError: the split must be streamed and K is not 1, or max_resident_gigabytes is negative.
    """
    if max_resident_gigabytes is not None and not max_resident_gigabytes >= 0:
        raise base.InputError(f"train.max_resident_gigabytes must not be negative; got {max_resident_gigabytes}.")
    budget = budget_bytes(max_resident_gigabytes, device_bytes=sharding.device_memory_bytes())
    if kind == "resident" or resident.resident_bytes(image_set) <= budget:
        return make_resident_feed(image_set, mesh, seed=seed, shape=shape)
    if shape[0] != 1:
        raise base.InputError(
            f"train.steps_per_dispatch must be 1 where the data do not fit on the device and are streamed; got "
            f"{shape[0]} and {resident.resident_bytes(image_set) / 1e9:.1f} GB. Use 1, or lower data.canvas_size."
        )
    return make_canvas_feed(image_set, mesh, seed=seed, batch_size=shape[1])


def make_resident_feed(image_set: data.ImageSet, mesh: Mesh, *, seed: int, shape: tuple[int, int]) -> Feed:
    """The whole split on every device; the host sends indices only."""
    source = sharding.put_replicated(mesh, resident.split_arrays(image_set))
    visit = _make_visit(image_set, seed)

    def draw(step: int) -> tuple[Any, base.Array]:
        indices = visit(step * shape[1], shape[0] * shape[1])
        return source, sharding.put_rows(mesh, indices.reshape(shape), axis=1)

    return Feed(draw, resident.gather_batch, source_is_rows=False, name="on the device")


def make_canvas_feed(image_set: data.ImageSet, mesh: Mesh, *, seed: int, batch_size: int) -> Feed:
    """The rows of one update at a time, read from memory or from the decoded cache on disk.

    Every process reads only the rows of its own devices. The device computes while the host reads the next rows.
    """
    split = resident.split_arrays(image_set)
    visit = _make_visit(image_set, seed)

    def draw(step: int) -> tuple[Any, base.Array]:
        indices = visit(step * batch_size, batch_size)
        source = jax.tree.map(lambda array: sharding.gather_rows(mesh, array, indices), split)
        return source, sharding.put_rows(mesh, indices[None], axis=1)

    return Feed(draw, sent_rows, source_is_rows=True, name="sent from the decoded cache")


def make_streamed_feed(
    image_set: data.ImageSet,
    mesh: Mesh,
    cuts: cutting.Cuts,
    *,
    settings: workers.WorkerSettings,
    batch_size: int,
    num_steps: int,
    max_corrupt_fraction: float,
) -> Feed:
    """The crops of one update at a time, cut by this process's workers out of the pictures of its own devices.

    Batches are made some steps ahead, and sent while the device computes. The order is that of the other feeds.

    Raises:
        base.InputError: a package is missing; while the feed runs, too many damaged pictures or a worker that died.
    """
    mine = sharding.local_rows(mesh, batch_size)
    visit = _make_visit(image_set, cuts.seed)

    def examples_of(step: int) -> np.ndarray:
        return visit(step * batch_size, batch_size)[mine]

    stream = streaming.open_stream(
        image_set,
        cuts,
        examples_of=examples_of,
        positions=mine,
        settings=settings,
        max_corrupt_fraction=max_corrupt_fraction,
        warn=progress.say,
        num_batches=num_steps,
    )

    def draw(step: int) -> tuple[Any, base.Array]:
        crops, labels, examples = stream.read(step)
        sizes = np.full((len(mine), 2), cuts.size, np.int32)
        texts = None if image_set.tokens is None else image_set.tokens[examples]
        local = resident.SplitArrays(crops, sizes, labels, texts)
        source = jax.tree.map(lambda array: sharding.put_local_rows(mesh, array, mine, count=batch_size), local)
        indices = visit(step * batch_size, batch_size)
        return source, sharding.put_rows(mesh, indices[None], axis=1)

    name = f"streamed by {stream.settings.num} {stream.settings.kind}"
    return Feed(draw, sent_rows, source_is_rows=True, name=name, is_cut=True, close=stream.close)


def _make_visit(image_set: data.ImageSet, seed: int) -> Callable[[int, int], np.ndarray]:
    """(start, count) -> the examples at these places of the run: `order.make_stream`."""
    return order.make_stream(seed, num_examples=len(image_set.images), mix=image_set.mix)


def sent_rows(source: resident.SplitArrays, indices: base.Array, positions: base.Array) -> base.Batch:
    """The batch whose rows have been sent; pure, meant to run inside `jit`. See `resident.gather_batch`."""
    image, size, label = (jnp.asarray(array) for array in source[:3])
    batch = base.Batch(image=image, size=size, label=label, index=indices, position=positions, mask=indices >= 0)
    if source.texts is not None:
        batch["text"] = jnp.asarray(source.texts)
    return batch


def budget_bytes(max_resident_gigabytes: float | None, *, device_bytes: int | None) -> float:
    """Device memory that a resident split may take, on a device with that limit (None: it does not tell)."""
    if max_resident_gigabytes is not None:
        return max_resident_gigabytes * 1e9
    return device_bytes * _DEVICE_SHARE if device_bytes else _BYTES_WITHOUT_LIMIT
