"""Compiles the ResNet-50 SimCLR step for GPU nodes and TPU slices that are not here, and writes docs/aot.md.

It also renews the examples at the end of docs/plan.md.

`python benchmarks/aot.py` compiles everything (one to three minutes each on two cores; needs the extras aot-gpu and
aot-tpu). `--only WORD` compiles the targets whose name contains WORD and keeps the other rows of benchmarks/aot.json.
`--small` compiles a CIFAR ResNet-18 for 8 x H200 and a v5e-8 and writes nothing. The exit code is 1 if a program breaks
its budget: an all-to-all, a gather of images, more all-reduces than two for each BatchNorm layer and three groups, or
more memory than there is where it should fit.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import timing
from simclr_jax.planning import aot, estimate, hardware, plan
from simclr_jax.planning import text as plan_text
from simclr_jax.run import config as config_lib

RESULTS = ROOT / "benchmarks" / "aot.json"
PAGE = ROOT / "docs" / "aot.md"
PLANS = ROOT / "docs" / "plan.md"
MARK = "<!-- Below this line benchmarks/aot.py writes. -->"
TIMEOUT = 600.0


class Target(NamedTuple):
    """One program: a shipped config with a batch, on devices of a kind.

    fits: whether it has to. most: megabytes of program bytes that a view may take, if that is limited.
    """

    config: str
    kind: str
    devices: int
    batch_size: int
    fits: bool = True
    most: float = float("inf")

    @property
    def name(self) -> str:
        """Key of the results, and what --only looks into."""
        return f"{self.config}-{self.kind}-{self.devices}-{self.batch_size}"


EXAMPLE_HARDWARE = (("h200", 8), ("h200", 64), ("v5p", 128))
TARGETS = [
    Target("imagenet_resnet50", "h200", 8, 4096, most=300),
    Target("imagenet_resnet50", "h200", 8, 8192, most=300),
    Target("imagenet_resnet50", "h200", 16, 4096, most=300),
    Target("imagenet_resnet50", "h200", 16, 8192, most=300),
    Target("imagenet_resnet50", "v5e", 32, 4096),
    Target("imagenet_resnet50", "v5e", 32, 8192, fits=False),
    Target("imagenet_resnet50", "v5p", 64, 4096),
    Target("imagenet_resnet50", "v5p", 64, 8192),
    Target("imagenet_resnet50", "v5e", 256, 8192),
    Target("imagenet_resnet50", "h200", 64, 4096, most=350),
    Target("imagenet_resnet50", "h200", 64, 8192, most=350),
    Target("imagenet_resnet50", "v5p", 128, 4096),
    Target("imagenet_resnet50", "v5p", 128, 8192),
]
# Whose plans docs/plan.md shows.
EXAMPLES = [Target("imagenet_resnet50", kind, n, b) for kind, n in EXAMPLE_HARDWARE for b in (4096, 8192)]
SMALL = [Target("cifar10", "h200", 8, 512, most=37), Target("cifar10", "v5e", 8, 512)]


def compile_target(target: Target) -> dict:
    """The row of a target: what was compiled, or {"failed": why}, with what a budget needs beside it."""
    config = config_lib.load_file(target.config).to_dict()
    config["train"]["batch_size"] = target.batch_size
    shape = plan.data_shape(config, hardware.find(target.kind))
    network, _ = plan.measure(config, shape, kind=target.kind)
    placement = plan.place(config, kind=target.kind, devices=target.devices, shape=shape)
    beside = {
        "modelled_peak_bytes": estimate.peak_bytes(network, placement),
        "num_batch_norms": network.num_batch_norms,
        "train_flops_per_view": network.train_flops,
        "date": datetime.date.today().isoformat(),
        "commit": timing.commit(),
    }
    try:
        compiled = aot.compile_elsewhere(config, kind=target.kind, devices=target.devices, shape=shape, timeout=TIMEOUT)
    except aot.CannotCompile as error:
        return {"failed": str(error), **beside}
    return {**compiled._asdict(), **beside}


def broken(target: Target, row: dict) -> list[str]:
    """Which budgets a row breaks."""
    if "failed" in row:
        return [row["failed"]] if target.fits else []
    compiled = aot.Compiled(**{name: row[name] for name in aot.Compiled._fields})
    moved = compiled.program_bytes / (2 * target.batch_size / target.devices) / 1e6
    more = [f"{moved:.0f} MB a view, {target.most:.0f} allowed"] if moved > target.most else []
    return aot.broken_budgets(compiled, num_batch_norms=row["num_batch_norms"]) + more


def main(arguments: list[str] | None = None) -> int:
    """Compiles what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="compile the targets whose name contains this")
    parser.add_argument("--small", action="store_true", help="a CIFAR ResNet-18 only; write nothing")
    asked = parser.parse_args(arguments)
    chosen = SMALL if asked.small else [target for target in TARGETS if asked.only in target.name]
    rows = {} if asked.small or not RESULTS.exists() else json.loads(RESULTS.read_text())
    bad = 0
    for target in chosen:
        if not aot.is_installed(target.kind):
            print(f"{target.name}: skipped, needs pip install 'simclr-jax[{aot.extra(target.kind)}]'", flush=True)
            continue
        rows[target.name] = compile_target(target)
        faults = broken(target, rows[target.name])
        bad += bool(faults)
        print(f"{target.name}: {'; '.join(faults) or 'ok'}  {_short(rows[target.name])}", flush=True)
        if not asked.small:
            RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
            PAGE.write_text(page(rows))
    if not asked.small:
        PLANS.write_text(PLANS.read_text().partition(MARK)[0] + MARK + "\n" + examples(rows))
    return int(bad > 0)


def examples(rows: dict[str, dict]) -> str:
    """The plans of EXAMPLES as `simclr-jax plan` prints them, with what was compiled before in place of compiling."""
    parts = []
    for target in EXAMPLES:
        config = config_lib.load_file(target.config).to_dict()
        config["train"]["batch_size"] = target.batch_size
        made = plan.make_plan(config, kind=target.kind, devices=target.devices, compiler="none")
        row = rows.get(target.name, {"failed": "not compiled for this page yet (make aot)"})
        compiled = row["failed"] if "failed" in row else {name: row[name] for name in aot.Compiled._fields}
        text = plan_text.as_text({**made, "compiled": compiled})
        flags = f"--device_kind={target.kind} --devices={target.devices} --config.train.batch_size={target.batch_size}"
        parts.append(f"\n```\n$ simclr-jax plan --config={target.config} {flags}\n{text}\n```\n")
    return "".join(parts)


def _short(row: dict) -> str:
    if "failed" in row:
        return f"({row['failed']})"
    return (
        f"{row['peak_bytes'] / 1e9:.2f} GB (model {row['modelled_peak_bytes'] / 1e9:.2f}), {row['compile_seconds']} s"
    )


def page(rows: dict[str, dict]) -> str:
    """docs/aot.md."""
    lines = [*_HEAD]
    lines += ["| hardware | batch | memory of a device | arguments | model of `plan` | off by | budgets |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    known = [(target, rows[target.name]) for target in TARGETS if target.name in rows]
    for target, row in known:
        if "failed" in row:
            lines.append(
                f"| {_hardware(target)} | {target.batch_size} | {row['failed']} | | "
                f"{row['modelled_peak_bytes'] / 1e9:.1f} GB | | {'broken' if target.fits else 'need not fit'} |"
            )
            continue
        peak, model = row["peak_bytes"], row["modelled_peak_bytes"]
        lines.append(
            f"| {_hardware(target)} | {target.batch_size} | {peak / 1e9:.1f} of "
            f"{hardware.find(target.kind).memory_bytes / 1e9:.0f} GB | {row['argument_bytes'] / 1e9:.2f} GB | "
            f"{model / 1e9:.1f} GB | {100 * (model / peak - 1):+.1f} % | {'; '.join(broken(target, row)) or 'kept'} |"
        )
    lines += [*_COLLECTIVES]
    compiled = [(target, row) for target, row in known if "failed" not in row]
    for target, row in compiled:
        sums = row["collectives"]
        cells = [_cell(sums.get(kind)) for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")]
        lines.append(
            f"| {_hardware(target)} | {target.batch_size} | {' | '.join(cells)} | {row['statistic_all_reduces']} | "
            f"{row['gradient_all_reduces']} in {row['gradient_groups']} |"
        )
    lines += [*_WORK]
    for target, row in compiled:
        views = 2 * target.batch_size / target.devices
        counted = row["counted_flops"]
        lines.append(
            f"| {_hardware(target)} | {target.batch_size} | {row['program_bytes'] / views / 1e6:.0f} MB | "
            f"{_per_view(row['counted_bytes'], views, 1e6, 'MB')} | {row['train_flops_per_view'] / 1e9:.1f} GFLOP | "
            f"{_per_view(counted, views, 1e9, 'GFLOP')} | {row['num_kernels']} ({row['num_fusions']}) | "
            f"{row['compile_seconds']:.0f} s | {row['date']}, {row['commit']} |"
        )
    versions = sorted({f"{name} {v}" for _, row in compiled for name, v in row["versions"].items()})
    return "\n".join([*lines, "", f"Versions: {', '.join(versions)}.", ""])


def _hardware(target: Target) -> str:
    return f"{target.devices} x {hardware.find(target.kind).name}"


def _cell(sums: dict | None) -> str:
    return f"{sums['count']} ({sums['bytes'] / 1e6:.1f} MB)" if sums else "0"


def _per_view(total: float | None, views: float, unit: float, name: str) -> str:
    return f"{total / views / unit:.{0 if unit == 1e6 else 1}f} {name}" if total else "-"


_HEAD = """# The training step compiled for hardware that is not here

Written by `make aot` (`benchmarks/aot.py`), not by hand. The whole step of `--config=imagenet_resnet50` (views from
uint8 images of 384 pixels, ResNet-50 in bfloat16 at 224 pixels, NT-Xent, LARS, donated state) went through XLA's own
compilers for these devices, ahead of time, on two shared CPU cores. **Nothing was run**: memory, communication and
traffic are those of the program, there is no time in here, and cuDNN has chosen no algorithm by measurement.

Google names v4 and v5p slices by TensorCores, two a chip: 64 chips of v5p are its "v5p-128". Devices are chips here.

## Memory

Arguments + outputs - those that reuse an argument's memory + temporaries, of one device. JAX takes 75 % of a GPU by
default: above that set `XLA_CLIENT_MEM_FRACTION=0.92`. A program that is too large for a TPU's memory is made to
fit by computing some values twice, which the model does not know: on 32 x v5e it says that 8192 does not fit.
""".splitlines()
_HEAD.append("")

_COLLECTIVES = """
## Communication of a step, for one device

Count and bytes (the larger of operand and result). "Statistics" are the all-reduces the next layer waits for: sums of
BatchNorm and of its gradient, and vectors of the loss; the budget is two for each of the 55 BatchNorm layers and three.
"Gradients" are whole kernels' and overlap the backward pass; they count once for each element type. XLA sums the
gradients of convolutions in bfloat16, the type they are computed in, and turns them into float32 afterwards.

| hardware | batch | all-reduce | all-gather | reduce-scatter | all-to-all | statistics | gradients |
| --- | --- | --- | --- | --- | --- | --- | --- |""".splitlines()

_WORK = """
## Work, for one view

"Program bytes": operands and results of every kernel, as if nothing stayed in a cache. "Counted" is the TPU compiler's
own count; the GPU compiler gives none. FLOPs, by shapes and counted: forward and both gradients of convolutions and
dense layers. The commit is that of the program.

| hardware | batch | program bytes | counted bytes | FLOPs | counted | kernels (fusions) | compile | date, commit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |""".splitlines()


if __name__ == "__main__":
    sys.exit(main())
