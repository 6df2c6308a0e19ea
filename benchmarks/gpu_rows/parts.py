"""Parts of a step of ours, each alone: what the device reaches, the loss, the views, the max-pool, the optimizer."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.gpu_rows import figures, settings, steps
from benchmarks.gpu_rows.figures import Figure, Job
from simclr_jax import augment, losses, optim
from simclr_jax.distributed import sharding
from simclr_jax.models import layers
from simclr_jax.planning import hardware
from simclr_jax.run import program as program_lib

TEMPERATURE, DIM = 0.1, 128
# Rows of the similarity matrix, 2N. The dense form holds several [N, N]: at 262,144 rows each would be 69 GB.
LOSS_ROWS, LARGE_LOSS_ROWS = (8192, 16384, 65536), (262144, 1048576)
UPDATES = 50


def probes(job: Job) -> Iterator[Figure]:
    """What large products and copies reach; all ceilings are made of these two figures."""
    device = jax.devices()[0]
    yield {"name": "device", "device": _describe(device)}
    if device.platform == "cpu" and not job.tiny:
        return
    side, count = (256, 2**18) if job.tiny else (8192, 2**30)
    a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in range(2))
    product = jax.jit(jnp.matmul)
    times = figures.clock(figures.repeat(lambda: product(a, b)), job)
    yield figures.rate("matmul", times, amount=2 * side**3 / 1e12, unit="TFLOP/s", note=f"bfloat16, {side}^3, random")
    x = jax.random.normal(jax.random.key(2), (count,), jnp.float32)
    num_bytes = x.nbytes
    # In place: passes that are under way would else hold one x each.
    add = jax.jit(lambda x: (x + 1,), donate_argnums=0)
    times = figures.clock(figures.carry(add, x), job)
    note = f"{num_bytes / 1e9:.1f} GB, read and written"
    yield figures.rate("copy", times, amount=2 * num_bytes / 1e12, unit="TB/s", note=note)


def _describe(device: Any) -> dict[str, Any]:
    """Its names and memory and, of a kind that is known, the maker's dense bfloat16 FLOP/s, for MFU."""
    limit, kind = (device.memory_stats() or {}).get("bytes_limit"), device.device_kind
    driver = " ".join(str(getattr(device.client, "platform_version", "")).split())[:100]
    peak = {known.name: known.flops for known in hardware.DEVICES.values()}.get(kind)
    return {
        "platform": device.platform, "kind": kind, "memory_bytes": limit, "driver": driver, "peak_flops": peak
    }  # fmt: skip


def loss(job: Job) -> Iterator[Figure]:
    """NT-Xent with its gradient in float32, d = 128; three products of the matrix count, recomputed ones do not."""
    forms: dict[str, Callable[..., Any]] = {"blockwise": _blockwise(), "dense": losses.nt_xent}
    for rows in (64, 128) if job.tiny else LOSS_ROWS:
        for form, function in forms.items():
            yield _loss_figure(f"loss {rows} {form}", function, rows, job=job)


def large_loss(job: Job) -> Iterator[Figure]:
    """The blockwise form where the dense one has no room; a size is left out if four calls of it found no time."""
    expected = 0.0
    for rows in (256, 512) if job.tiny else LARGE_LOSS_ROWS:
        name = f"loss {rows} blockwise"
        if 5 * expected > job.seconds_left:
            yield figures.left_out(name, f"no time: a call takes about {expected:.0f} s")
            continue
        figure = _loss_figure(name, _blockwise(), rows, job=job)
        expected = 16 * figures.seconds_of(figure)  # the next size is four times as large
        yield figure


def _blockwise() -> Callable[..., Any]:
    """The form in tiles of the size that training takes on this device."""
    block_size = 512 if jax.default_backend() == "cpu" else 2048
    return functools.partial(losses.nt_xent_blockwise, block_size=block_size)


def _loss_figure(name: str, function: Callable[..., Any], rows: int, *, job: Job) -> Figure:
    z = jax.random.normal(jax.random.key(0), (rows // 2, 2, DIM), jnp.float32)
    value = jax.value_and_grad(lambda z: function(z, temperature=TEMPERATURE)[0])
    times, planned = figures.alone(job, value, z)
    teraflops = 3 * 2 * rows**2 * DIM / times.median / 1e12
    note = f"{teraflops:.3g} TFLOP/s"
    return figures.duration(name, times, planned_bytes=planned, teraflops=teraflops, note=note)


def views(job: Job) -> Iterator[Figure]:
    """Both recipes' augmentation alone, uint8 images on the device to float32 views."""
    for name, size in ((settings.RESNET50, 224), (settings.CIFAR, 32)):
        config = settings.load(name, job, batch_size=steps.RESNET50_BATCH)
        batch, side = config["train"]["batch_size"], settings.canvas(name, job)
        images = jnp.asarray(steps.noise(batch, side).images)
        sizes, positions = jnp.full((batch, 2), side, jnp.int32), jnp.arange(batch, dtype=jnp.int32)
        make = augment.make_simclr_views(**config["augment"])
        times, planned = figures.alone(job, make, jax.random.key(0), images, sizes, positions)
        amount = batch * config["augment"]["num_views"]
        yield figures.rate(f"views {size}", times, amount=amount, views=amount, batch=batch, planned_bytes=planned)


def pool(job: Job) -> Iterator[Figure]:
    """The stem's max-pool, forward and backward, ours and Flax's, whose gradient is a select-and-scatter."""
    shape = (4, 16, 16, 8) if job.tiny else (1024, 112, 112, 64)
    x, up = (
        jax.random.normal(jax.random.key(i), (shape[0], shape[1] // n, shape[2] // n, shape[3]), jnp.bfloat16)
        for i, n in enumerate((1, 2))
    )
    forms: dict[str, Callable[[jax.Array], jax.Array]] = {
        "max-pool ours": lambda x: layers.max_pool(x, layers.same_padding(x.shape)),
        "max-pool Flax": lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"),
    }
    for name, form in forms.items():

        def both(x: jax.Array, up: jax.Array, form: Callable[[jax.Array], jax.Array] = form) -> Any:
            value, pull_back = jax.vjp(form, x)
            return value, pull_back(up)[0]

        times, planned = figures.alone(job, both, x, up)
        yield figures.duration(name, times, planned_bytes=planned)


def lars(job: Job) -> Iterator[Figure]:
    """One update of ResNet-50's parameters, head included, by three optimizers; 50 of them in one dispatch."""
    config = settings.load(settings.RESNET50, job)
    params = _parameters(config)
    gradients = jax.tree.map(lambda leaf: 0.01 * leaf + 1e-4, params)
    kernels = jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    optimizers = {
        "LARS ours": optim.make_lars(learning_rate=0.1, weight_decay=1e-6),
        "LARS optax, masked": optax.lars(
            0.1, weight_decay=1e-6, weight_decay_mask=kernels, trust_ratio_mask=kernels, momentum=0.9
        ),
        "SGD optax": optax.sgd(0.1, momentum=0.9),
    }
    for name, tx in optimizers.items():
        run = _updates(tx, params, gradients)
        times = figures.clock(run, job)
        each = figures.Times(*(value / UPDATES for value in times[:3]), times.windows)
        yield figures.duration(name, each, unit="us", note=f"{count / 1e6:.3g} M parameters")


def _parameters(config: settings.Config) -> Any:
    """Random numbers in the shape of the network's parameters."""
    mesh = sharding.make_mesh(1)
    method = program_lib.make_method(program_lib.make_encoder(config, mesh), config, mesh, num_classes=0)
    size = config["augment"]["image_size"]
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), jnp.zeros((2, 2, size, size, 3), jnp.float32))[0])
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 * draw.standard_normal(leaf.shape, np.float32)), shapes)


def _updates(tx: Any, params: Any, gradients: Any) -> figures.Run:
    """A run whose step is UPDATES updates; parameters and the optimizer's state are donated."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any, gradients: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            updates, state = tx.update(gradients, carry[1], carry[0])
            return optax.apply_updates(carry[0], updates), state

        return jax.lax.fori_loop(0, UPDATES, body, (params, state))

    step = functools.partial(update, gradients=gradients)
    return figures.carry(step, jax.tree.map(jnp.copy, params), tx.init(params))
