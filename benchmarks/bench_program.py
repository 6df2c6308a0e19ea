"""Prints what a compiled training step moves: bytes for each view, by part and by opcode, and the largest kernels.

    python benchmarks/bench_program.py [--config=imagenet_resnet50] [--batch_size=512] [--devices=1] [--kind=h200]

The real compiler for the hardware runs ahead of time, on a CPU (extra aot-gpu or aot-tpu); nothing is run or
noisy. Bytes are those of the operands and results of every kernel, as if nothing stayed in a cache.
"""

import argparse
import os
import pathlib
import sys
from collections import Counter

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ.update({"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})

from simclr_jax.planning import aot, hardware, hlo, plan
from simclr_jax.run import config as config_lib

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


def main(arguments: list[str] | None = None) -> int:
    """Compiles and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet_resnet50", help="name of a shipped config")
    parser.add_argument("--batch_size", type=int, default=512, help="images over all devices")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--kind", default="h200", help="of the devices")
    parser.add_argument("--top", type=int, default=30, help="kernels that are listed")
    asked = parser.parse_args(arguments)
    if not aot.is_installed(asked.kind):
        print(f"The compiler for {asked.kind} is not installed: pip install 'simclr-jax[{aot.extra(asked.kind)}]'.")
        return 2
    config = config_lib.load_file(asked.config).to_dict()
    config["train"]["batch_size"] = asked.batch_size
    shape = plan.data_shape(config, hardware.find(asked.kind))
    compiled, seconds = aot.compile_program(config, kind=asked.kind, devices=asked.devices, shape=shape)
    # Several updates in one dispatch are a loop whose length is an argument: it counts as one update.
    views = 2 * asked.batch_size / asked.devices
    print(f"{asked.config}, batch {asked.batch_size} on {asked.devices} x {asked.kind}, compiled in {seconds:.0f} s")
    print(report(hlo.kernels(compiled.as_text()), views=views, top=asked.top))
    return 0


if __name__ == "__main__":
    sys.exit(main())
