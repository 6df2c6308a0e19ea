"""The training step compiled for accelerators that are not here, by their own compilers, on a CPU.

XLA's TPU and CUDA compilers come in ordinary wheels (extras aot-tpu and aot-gpu) and need no device. What they return
is the program that would run: its memory, its communication, its kernels. Nothing is executed, so it says nothing of
time, and cuDNN has chosen no algorithm by measurement.

Compiling happens in a process of its own, so that a plugin never meets the backend of the calling program.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from simclr_jax import base
from simclr_jax.distributed import sharding
from simclr_jax.planning import hardware, hlo
from simclr_jax.run import program as program_lib

# XLA reduces statistics as some numbers a channel; what is larger, or has the axes of a kernel, is a gradient.
_LARGEST_STATISTIC = 2**17
_EXTRAS = {"tpu": "aot-tpu", "gpu": "aot-gpu"}
_PLUGINS = {"tpu": ("libtpu",), "gpu": ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")}


class Compiled(NamedTuple):
    """What a compiler made of one training step; bytes and counts are those of one device and one step.

    kind, devices, topology: the hardware. batch_size: images per step over all devices.
    argument_bytes, output_bytes, alias_bytes, temp_bytes: as XLA names them; outputs that reuse an argument's memory
        are in alias_bytes. peak_bytes: arguments + outputs - alias + temp.
    num_kernels, num_fusions, program_bytes: see `hlo.Summary`.
    counted_flops, counted_bytes: the compiler's own count for the device, None where it gives none (GPU).
    collectives: kind -> {"count", "bytes"}.
    statistic_all_reduces: all-reduces of BatchNorm statistics, of their gradients and of the loss: the next layer
        waits for them. gradient_all_reduces: of kernels' gradients, which nothing waits for but the update;
        gradient_groups: in how many element types they come.
    image_collectives: gathers and exchanges of images or activations; there should be none.
    compile_seconds: lowering left out. versions: of the packages that decide over the result.
    """

    kind: str
    devices: int
    topology: str
    batch_size: int
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int
    peak_bytes: int
    num_kernels: int
    num_fusions: int
    program_bytes: int
    counted_flops: float | None
    counted_bytes: float | None
    collectives: dict[str, dict[str, int]]
    statistic_all_reduces: int
    gradient_all_reduces: int
    gradient_groups: int
    image_collectives: list[str]
    compile_seconds: float
    versions: dict[str, str]


class CannotCompile(RuntimeError):
    """The compiler refused the program or did not finish; the message is one line."""


def is_installed(kind: str) -> bool:
    """Whether the compiler for this kind of device is installed; there is none to install for "cpu"."""
    return any(_exists(name) for name in _PLUGINS.get(hardware.find(kind).platform, ()))


def extra(kind: str) -> str | None:
    """The extra of this package that installs the compiler for a kind of device, None for "cpu"."""
    return _EXTRAS.get(hardware.find(kind).platform)


def compile_elsewhere(
    config: Mapping[str, Any], *, kind: str, devices: int, shape: program_lib.DataShape, timeout: float = 600.0
) -> Compiled:
    """Compiles the training step of `config` for `devices` devices of a kind, in a process of its own.

    Args:
        config: of a run; not checked against data, which are never read.
        kind: a key of `hardware.DEVICES` whose compiler is installed.
        devices: how many.
        shape: of the training split.
        timeout: seconds after which it is given up.

    Raises:
        base.InputError: the hardware or a value of the config is not valid.
        CannotCompile: the compiler refused (most often: it does not fit the memory) or took longer than `timeout`.
    """
    hardware.topology(kind, devices)
    request = {"config": config, "kind": kind, "devices": devices, "shape": shape}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # The TPU's library belongs to one process a machine, which only matters where there is a TPU to own.
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # The package of the calling program is the one that is compiled, installed or not.
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(pathlib.Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    command = [sys.executable, "-m", "simclr_jax.planning.aot"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise CannotCompile(f"not done after {timeout:.0f} s") from error
    answer = next((line for line in done.stdout.splitlines()[::-1] if line.startswith("{")), None)
    if answer is None:
        raise CannotCompile(_reason(done.stderr))
    values = json.loads(answer)
    if "input_error" in values:
        raise base.InputError(values["input_error"])
    return Compiled(**values)


def compile_here(config: Mapping[str, Any], *, kind: str, devices: int, shape: program_lib.DataShape) -> Compiled:
    """`compile_elsewhere` without the process; the program must not have started a backend of its own but the CPU's."""
    compiled, seconds = compile_program(config, kind=kind, devices=devices, shape=shape)
    topology, batch_size = hardware.topology(kind, devices), config["train"]["batch_size"]
    return _describe(compiled, kind=kind, devices=devices, topology=topology, batch_size=batch_size, seconds=seconds)


def compile_program(
    config: Mapping[str, Any], *, kind: str, devices: int, shape: program_lib.DataShape
) -> tuple[Any, float]:
    """(the training step of `config`, a jax.stages.Compiled; seconds it took); see `compile_here`."""
    from jax.experimental import topologies

    name = hardware.topology(kind, devices)
    if hardware.find(kind).platform == "gpu":
        described = topologies.get_topology_desc(
            kind, platform="cuda", topology=name, target_config=hardware.description(kind)
        )
    else:
        described = topologies.get_topology_desc(f"{kind}:{name}", platform="tpu")
    mesh = sharding.make_mesh(devices=described.devices)
    steps = config["train"]["steps_per_dispatch"]
    program = program_lib.make_program(config, mesh, shape=shape, steps_per_dispatch=steps, seed=config["seed"])
    batch_size = config["train"]["batch_size"]
    arguments = program_lib.abstract_arguments(
        program, mesh, shape=shape, batch_size=batch_size, steps_per_dispatch=steps
    )
    lowered = program.train_steps.lower(*arguments)  # type: ignore[attr-defined]
    start = time.perf_counter()
    return _compile(lowered), time.perf_counter() - start


def _compile(lowered: Any) -> Any:
    import jax

    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # XLA's own matrix products choose their tiles by trying them on the GPU; where that is absent and its guess
        # fails, cuBLAS's take their place.
        if "output tile sizes" not in str(error):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


def _describe(compiled: Any, *, kind: str, devices: int, topology: str, batch_size: int, seconds: float) -> Compiled:
    memory, summary = compiled.memory_analysis(), hlo.summarise(compiled.as_text())
    cost = compiled.cost_analysis() or {}
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    alias, temp = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    return Compiled(
        kind=kind,
        devices=devices,
        topology=topology,
        batch_size=batch_size,
        argument_bytes=arguments,
        output_bytes=outputs,
        alias_bytes=alias,
        temp_bytes=temp,
        peak_bytes=arguments + outputs - alias + temp,
        num_kernels=summary.num_kernels,
        num_fusions=summary.num_fusions,
        program_bytes=summary.program_bytes,
        counted_flops=cost.get("flops"),
        counted_bytes=cost.get("bytes accessed"),
        compile_seconds=round(seconds, 1),
        versions=_versions(kind),
        **sort_collectives(summary.collectives),
    )


def sort_collectives(found: Sequence[hlo.Collective]) -> dict[str, Any]:
    """The fields of `Compiled` that are about communication."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for collective in found:
        counts[collective.kind] += collective.times
        sizes[collective.kind] += collective.times * collective.num_bytes
    reduces = [c for c in found if c.kind == "all-reduce"]
    gradients = [c for c in reduces if c.num_bytes > _LARGEST_STATISTIC or len(c.dims) > 3]
    images = [c for c in found if c.kind != "all-reduce" and hlo.is_image_shaped(c)]
    return {
        "collectives": {kind: {"count": counts[kind], "bytes": sizes[kind]} for kind in sorted(counts)},
        "statistic_all_reduces": sum(c.times for c in reduces) - sum(c.times for c in gradients),
        "gradient_all_reduces": sum(c.times for c in gradients),
        "gradient_groups": len({c.dtype for c in gradients}),
        "image_collectives": [f"{c.kind} {c.dtype}{list(c.dims)}" for c in images],
    }


def broken_budgets(compiled: Compiled, *, num_batch_norms: int) -> list[str]:
    """What the program does that it should not, in words; empty if all is well.

    No all-to-all, no gather or exchange of images, at most two all-reduces of statistics for each BatchNorm layer and
    three more groups (gradients count once for each element type, being free to overlap), and it fits the memory.
    """
    device = hardware.find(compiled.kind)
    broken = [f"{compiled.collectives[kind]['count']} {kind}" for kind in compiled.collectives if "to-all" in kind]
    broken += compiled.image_collectives[:3]
    groups, allowed = compiled.statistic_all_reduces + compiled.gradient_groups, 2 * num_batch_norms + 3
    if groups > allowed:
        broken.append(f"{groups} groups of all-reduces, {allowed} allowed")
    if compiled.peak_bytes > device.usable * device.memory_bytes:
        broken.append(f"{compiled.peak_bytes / 1e9:.1f} GB of {device.memory_bytes / 1e9:.1f}")
    return broken


def _versions(kind: str) -> dict[str, str]:
    import importlib.metadata as metadata

    names = {"tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin", "jax-cuda12-plugin")}[hardware.find(kind).platform]
    found = {}
    for name in ("jax", "jaxlib", "flax", "optax", *names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that should hold it is missing
        return False


def _reason(stderr: str) -> str:
    """The most useful line of a compiler's error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "RESOURCE_EXHAUSTED" in line or "Error" in line or "used" in line.lower()]
    return (telling or lines or ["no answer"])[-1][:300]


def main() -> None:
    """Reads a request on stdin and writes the answer as one line of JSON on stdout."""
    request = json.loads(sys.stdin.read())
    shape = request["shape"]
    shape = program_lib.DataShape(shape[0], shape[1], tuple(shape[2]), *shape[3:])
    try:
        answer = compile_here(
            request["config"], kind=request["kind"], devices=request["devices"], shape=shape
        )._asdict()
    except base.InputError as error:
        answer = {"input_error": str(error)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
