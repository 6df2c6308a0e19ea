"""What XLA's own compiler says of programs for hardware that is not here: memory and traffic, no time.

    python benchmarks/ahead.py step [--config=imagenet_resnet50] [--batch_size=512] [--devices=1] [--kind=h200]
    python benchmarks/ahead.py views [--size=224] [--canvas=384] [--images=512] [--no_blur]

`step` prints what a compiled training step moves: bytes for each view, by part and by opcode, and the largest kernels.
`views` prints the traffic of the augmentation alone, two views of every image, cast to bfloat16, on an H200. The
compiler runs ahead of time, on a CPU (extra aot-gpu or aot-tpu); nothing is run or noisy. Bytes are those of the
operands and results of every kernel, as if nothing stayed in a cache. `rows` prints the table of docs/gpu.md.
"""

import argparse
import contextlib
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# Before JAX is imported.
os.environ.update({"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})

from benchmarks.gpu_rows import figures, settings
from simclr_jax import augment
from simclr_jax.planning import aot, hardware, hlo, plan
from simclr_jax.run import program as program_lib

# What is in an operation's name -> the part of the step it belongs to; the first that is found counts.
PARTS = {
    "transpose(jvp(ResNet": "encoder, backward",
    "jvp(ResNet": "encoder, forward",
    "ProjectionHead": "head",
    "vmap(": "views",
    "jvp(": "loss",
}


def part_of(source: str) -> str:
    """Which part of the step a kernel belongs to."""
    return next((part for word, part in PARTS.items() if word in source), "optimizer and the rest")


def report(kernels: list[hlo.Kernel], *, views: float, top: int) -> str:
    """The tables, for a program whose device makes `views` views in one run."""
    total, launched = sum(kernel.num_bytes for kernel in kernels), sum(kernel.times for kernel in kernels)
    lines = [f"{total / views / 1e6:.1f} MB a view, {launched} kernels"]
    for title, name in (("part", lambda k: part_of(k.source)), ("opcode", lambda k: k.opcode)):
        moved: Counter[str] = Counter()
        count: Counter[str] = Counter()
        for kernel in kernels:
            moved[name(kernel)] += kernel.num_bytes
            count[name(kernel)] += kernel.times
        lines += ["", f"{title:<24} MB a view   kernels"]
        lines += [f"{key:<24} {size / views / 1e6:9.2f} {count[key]:9d}" for key, size in moved.most_common(10)]
    lines += ["", "largest kernels: MB a view, times, results, source"]
    for kernel in sorted(kernels, key=lambda k: -k.num_bytes)[:top]:
        shapes = " ".join(f"{dtype}{list(dims)}" for dtype, dims in kernel.shapes)
        lines.append(f"{kernel.num_bytes / views / 1e6:6.2f} x{kernel.times} {shapes}  {kernel.source}")
    return "\n".join(lines)


def step(asked: argparse.Namespace) -> Iterator[str]:
    """The lines of `step`."""
    from simclr_jax.run import config as config_lib

    config = config_lib.load_file(asked.config).to_dict()
    config["train"]["batch_size"] = asked.batch_size
    shape = plan.data_shape(config, hardware.find(asked.kind))
    compiled, seconds = aot.compile_program(config, kind=asked.kind, devices=asked.devices, shape=shape)
    yield f"{asked.config}, batch {asked.batch_size} on {asked.devices} x {asked.kind}, compiled in {seconds:.0f} s"
    # Several updates in one dispatch are a loop whose length is an argument: it counts as one update.
    yield report(hlo.kernels(compiled.as_text()), views=2 * asked.batch_size / asked.devices, top=asked.top)


def views(asked: argparse.Namespace) -> Iterator[str]:
    """The line of `views`: the form for accelerators, on one device."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies

    name, description = hardware.topology(asked.kind, 1), hardware.description(asked.kind)
    node = topologies.get_topology_desc(asked.kind, platform="cuda", topology=name, target_config=description)
    on = jax.sharding.SingleDeviceSharding(np.asarray(node.devices).reshape(-1)[0])
    blur = 0.0 if asked.no_blur else 0.5
    make = augment.make_simclr_views(image_size=asked.size, blur_probability=blur, loop="vmap")
    count, side = asked.images, asked.canvas
    shapes = [((2,), jnp.uint32), ((count, side, side, 3), jnp.uint8), ((count, 2), jnp.int32), ((count,), jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=on) for shape, dtype in shapes]
    made = jax.jit(lambda key, *rest: make(jax.random.wrap_key_data(key), *rest).astype(jnp.bfloat16))
    summary = hlo.summarise(made.lower(*arguments).compile().as_text() or "")
    yield f"traffic: {summary.program_bytes / (2 * count) / 1e6:.2f} MB per view, {summary.num_kernels} kernels"


def rows(asked: argparse.Namespace) -> Iterator[str]:
    """The table of docs/gpu.md: the suite's own programs at full size, one after the other, minutes on two cores."""
    job = figures.Job(tiny=False)
    yield from ("| program | memory | MB a view |", "| --- | --- | --- |")
    for words, name, config, meanwhile in _programs(job):
        # The views choose their loop by the backend of the process, which is not the GPU's.
        config["augment"]["loop"] = "vmap"
        batch_size, side = config["train"]["batch_size"], settings.canvas(name, job)
        shape = program_lib.DataShape(settings.num_images(name, batch_size, job), 1, (side, side), is_streamed=False)
        with meanwhile:
            compiled, _ = aot.compile_program(config, kind=asked.kind, devices=1, shape=shape)
        made = config["augment"]["num_views"] * batch_size
        traffic = hlo.summarise(compiled.as_text()).program_bytes / made
        yield f"| {words} | {figures.planned_bytes(compiled) / 1e9:.1f} GB | {traffic / 1e6:.3g} |"


def _programs(job: figures.Job) -> Iterator[tuple[str, str, settings.Config, Any]]:
    """(words, name of the config, the config, what must hold while the program is made)."""
    from benchmarks.gpu_rows import steps

    def resnet50(**train: Any) -> settings.Config:
        return settings.load(settings.RESNET50, job, **{"batch_size": steps.RESNET50_BATCH, **train})

    frozen, corners = resnet50(), mock.patch.object(augment, "make_simclr_views", steps.corners)
    frozen["encoder"]["norm"] = "frozen"
    chunked = resnet50(batch_size=steps.CHUNKED_BATCH, num_chunks=steps.CHUNKED_COUNT)
    for words, config, meanwhile in (
        ("`resnet50`", resnet50(), contextlib.nullcontext()),
        ("`folded`: BatchNorm apart", resnet50(fused_conv_bn=False), contextlib.nullcontext()),
        ("`deterministic`, ResNet-50", resnet50(deterministic=True), contextlib.nullcontext()),
        ("`shares`: corners for views", resnet50(), corners),
        ("`shares`: BatchNorm frozen (not folded)", frozen, contextlib.nullcontext()),
        (f"`chunked` ({steps.CHUNKED_COUNT} chunks)", chunked, contextlib.nullcontext()),
    ):
        yield words, settings.RESNET50, config, meanwhile
    for batch_size in steps.CIFAR_BATCHES:
        small = settings.load(settings.CIFAR, job, batch_size=batch_size)
        yield f"`cifar`, batch {batch_size}", settings.CIFAR, small, contextlib.nullcontext()


def main(arguments: list[str] | None = None) -> int:
    """Compiles and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "views", "rows"))
    parser.add_argument("--kind", default="h200", help="of the devices")
    parser.add_argument("--config", default="imagenet_resnet50", help="step: name of a shipped config")
    parser.add_argument("--batch_size", type=int, default=512, help="step: images over all devices")
    parser.add_argument("--devices", type=int, default=1, help="step")
    parser.add_argument("--top", type=int, default=30, help="step: kernels that are listed")
    for name, default in (("size", 224), ("canvas", 384), ("images", 512)):
        parser.add_argument(f"--{name}", type=int, default=default, help="views")
    parser.add_argument("--no_blur", action="store_true", help="views: as the CIFAR recipes make them")
    asked = parser.parse_args(arguments)
    if not aot.is_installed(asked.kind):
        remedy = f"Use pip install 'simclr-jax[{aot.extra(asked.kind)}]'."
        print(f"This needs the compiler for {asked.kind}; it is not installed. {remedy}", file=sys.stderr)
        return 2
    for line in {"step": step, "views": views, "rows": rows}[asked.what](asked):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
