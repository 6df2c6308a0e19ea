"""Whole training steps of ours: the program of a shipped config, compiled and run as `simclr-jax train` runs it.

Images are noise on the device; views, network, loss, LARS and the donated state are those of the config.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_rows import figures, settings
from benchmarks.gpu_rows.figures import Figure, Job
from simclr_jax import augment, base
from simclr_jax.data import imageset
from simclr_jax.distributed import sharding
from simclr_jax.planning import estimate
from simclr_jax.run import input_pipeline, tree_digests
from simclr_jax.run import program as program_lib

RESNET50_BATCH = 512
CIFAR_BATCHES = (512, 1024, 4096)
CHUNKED_BATCH, CHUNKED_COUNT = 4096, 8
DETERMINISTIC_STEPS = 20


class Prepared(NamedTuple):
    """A program that is ready to run: what `program` made, compiled, with its data on the device."""

    name: str
    config: settings.Config
    program: program_lib.Program
    compiled: Any
    feed: input_pipeline.Feed
    key: jax.Array
    compile_seconds: float

    def init(self) -> base.TrainState:
        """A state before the first update."""
        return sharding.jit_once(self.program.init, sharding.make_mesh(1), placement=self.program.placement)()


def noise(count: int, side: int) -> imageset.ImageSet:
    """Images of random bytes; beyond 1024 large ones they repeat, which no layer notices."""
    unique = min(count, 1024) if side > 64 else count
    pixels = np.random.default_rng(0).integers(0, 256, (unique, side, side, 3), np.uint8)
    images = np.resize(pixels, (count, side, side, 3))
    sizes, labels = np.full((count, 2), side, np.int32), np.zeros(count, np.int32)
    return imageset.ImageSet(images, sizes, labels, ("noise",), (), "noise", ())


def prepare(name: str, job: Job, **train: Any) -> Prepared:
    """Compiles the program of the config `name`, changed by `train`, and puts its data on the device."""
    return prepare_config(name, settings.load(name, job, **train), job)


def prepare_config(name: str, config: settings.Config, job: Job) -> Prepared:
    """`prepare` for a config of one's own, whose images are those of the config `name`."""
    mesh, train, start = sharding.make_mesh(1), config["train"], time.perf_counter()
    per_dispatch, batch_size = train["steps_per_dispatch"], train["batch_size"]
    count, side = settings.num_images(name, batch_size, job), settings.canvas(name, job)
    shape = program_lib.DataShape(count, 1, (side, side), is_streamed=False)
    sizes = {"shape": shape, "steps_per_dispatch": per_dispatch}
    program = program_lib.make_program(config, mesh, **sizes, seed=0)
    arguments = program_lib.abstract_arguments(program, mesh, **sizes, batch_size=batch_size)
    compiled = program.train_steps.lower(*arguments).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - start
    feed = input_pipeline.make_resident_feed(noise(count, side), mesh, seed=0, shape=(per_dispatch, batch_size))
    return Prepared(name, config, program, compiled, feed, sharding.make_key(mesh, 0), seconds)


def advance(prepared: Prepared, state: base.TrainState, dispatches: int, *, first: int = 0) -> Any:
    """(state, metrics) after some dispatches, which are not waited for."""
    train, metrics = prepared.config["train"], {}
    count = jnp.asarray(train["steps_per_dispatch"], jnp.int32)
    for number in range(first, first + dispatches):
        source, indices = prepared.feed.draw(number * train["steps_per_dispatch"])
        state, metrics = prepared.compiled(state, prepared.key, source, indices, count)
    return state, metrics


def measure(figure_name: str, prepared: Prepared, job: Job, **facts: Any) -> Figure:
    """The figure of a whole step: views a second, ceiling, memory, seconds of compiling."""
    held: list[Any] = [prepared.init(), {}, 0]

    def run(steps: int) -> None:
        held[:2] = advance(prepared, held[0], steps, first=held[2])
        held[2] += steps
        jax.block_until_ready(held[1])

    times, train = figures.clock(run, job), prepared.config["train"]
    views = prepared.config["augment"]["num_views"] * train["batch_size"] * train["steps_per_dispatch"]
    return figures.rate(
        figure_name,
        times,
        amount=views,
        views=views,
        batch=train["batch_size"],
        steps_per_dispatch=train["steps_per_dispatch"],
        planned_bytes=figures.planned_bytes(prepared.compiled),
        peak_bytes=sharding.device_peak_bytes(),
        modelled_bytes=modelled_bytes(prepared, job),
        compile_seconds=round(prepared.compile_seconds, 1),
        loss=float(held[1]["loss"][-1]),
        **settings.ceiling(prepared.config, job),
        **facts,
    )


def modelled_bytes(prepared: Prepared, job: Job) -> int:
    """What `simclr-jax plan` would say of the step's memory, see docs/plan.md."""
    config, program, name = prepared.config, prepared.program, prepared.name
    batch_size, num_chunks = config["train"]["batch_size"], config["train"]["num_chunks"]
    network = estimate.measure(program.method, jax.eval_shape(program.init), size=config["augment"]["image_size"])
    source = 3 * settings.num_images(name, batch_size, job) * settings.canvas(name, job) ** 2
    form = "dense" if batch_size <= 1024 else "blockwise"
    placement = estimate.Placement("cpu", 1, batch_size, source, num_chunks=num_chunks, loss=form)
    return estimate.peak_bytes(network, placement)


def resnet50(job: Job) -> Iterator[Figure]:
    """The recipe's whole step at batch 512."""
    yield measure("resnet50", prepare(settings.RESNET50, job, batch_size=RESNET50_BATCH), job)


def cifar(job: Job) -> Iterator[Figure]:
    """The CIFAR-10 recipe from 50,000 images on the device, ten updates a dispatch, at three batch sizes."""
    for batch_size in CIFAR_BATCHES:
        figure = measure(f"cifar {batch_size}", prepare(settings.CIFAR, job, batch_size=batch_size), job)
        minutes = 1000 * 2 * 50_000 / figure["value"] / 60
        yield {**figure, "minutes_for_1000_epochs": minutes, "note": f"1000 epochs: {minutes:.1f} min"}


def folded(job: Job) -> Iterator[Figure]:
    """The step with BatchNorm apart from the convolutions before it; "resnet50" has the wide ones folded."""
    apart = prepare(settings.RESNET50, job, batch_size=RESNET50_BATCH, fused_conv_bn=False)
    yield measure("resnet50, BatchNorm not folded", apart, job)


def shares(job: Job) -> Iterator[Figure]:
    """The step without its views, with BatchNorm by its moving averages, and the loss alone."""
    with mock.patch.object(augment, "make_simclr_views", corners):
        without = prepare(settings.RESNET50, job, batch_size=RESNET50_BATCH)
        yield measure("resnet50 without views", without, job)
    config = settings.load(settings.RESNET50, job, batch_size=RESNET50_BATCH)
    config["encoder"]["norm"] = "frozen"
    frozen = prepare_config(settings.RESNET50, config, job)
    yield measure("resnet50, BatchNorm frozen", frozen, job)
    z = jax.random.normal(jax.random.key(0), (config["train"]["batch_size"], 2, config["method"]["proj_out_dim"]))
    loss = jax.jit(jax.value_and_grad(lambda z: frozen.program.method.loss({"z": z}, {})[0]))
    yield figures.duration("loss of the step", figures.clock(figures.repeat(lambda: loss(z)), job))


@functools.wraps(augment.make_simclr_views)
def corners(*, image_size: int, num_views: int = 2, **settings_of_views: Any) -> base.MakeViews:
    """The least that views can be: every view is a corner of its image, as float."""
    del settings_of_views

    def make_views(key: base.Array, images: base.Array, sizes: base.Array, positions: base.Array) -> base.Array:
        del key, sizes, positions
        return jnp.stack([images[:, :image_size, :image_size].astype(jnp.float32) / 255] * num_views, axis=1)

    return make_views


def chunked(job: Job) -> Iterator[Figure]:
    """The paper's batch of 4096 images on one device, 512 images in the network at a time."""
    chunks = 2 if job.tiny else CHUNKED_COUNT
    prepared = prepare(settings.RESNET50, job, batch_size=CHUNKED_BATCH, num_chunks=chunks)
    note = f"{chunks} chunks; the forward pass runs twice"
    yield measure("resnet50, batch 4096 in chunks", prepared, job, note=note)


def deterministic(job: Job) -> Iterator[Figure]:
    """The steps with `train.deterministic`, and whether two runs end with the same bits."""
    cifar_10 = prepare(settings.CIFAR, job, batch_size=CIFAR_BATCHES[0], deterministic=True)
    yield _repeated("cifar 512, deterministic", cifar_10, job)
    imagenet = prepare(settings.RESNET50, job, batch_size=RESNET50_BATCH, deterministic=True)
    yield _repeated("resnet50, deterministic", imagenet, job)


def excluded(job: Job) -> Iterator[Figure]:
    """The same by the row's XLA_FLAGS, which leave XLA free to time the kernels that are left."""
    prepared = prepare(settings.RESNET50, job, batch_size=RESNET50_BATCH)
    yield _repeated("resnet50, by excluded kernels", prepared, job)


def _repeated(figure_name: str, prepared: Prepared, job: Job) -> Figure:
    """The figure of a step, and whether two runs of it end with the same bits."""
    per_dispatch = prepared.config["train"]["steps_per_dispatch"]
    dispatches = 1 if job.tiny else DETERMINISTIC_STEPS // per_dispatch
    one, other = (tree_digests.leaf_digests(advance(prepared, prepared.init(), dispatches)[0]) for _ in range(2))
    same, steps = one == other, dispatches * per_dispatch
    note = f"two runs of {steps} steps end with {'the same bits' if same else 'DIFFERENT bits'}"
    return measure(figure_name, prepared, job, same_bits=same, note=note)
