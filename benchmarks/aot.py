"""Compiles training steps for GPU nodes and TPU slices that are not here, and writes docs/aot.md.

The steps are those of SimCLR with a ResNet-50, and of CLIP with a ViT-B/32 and its own text tower.

It also renews the examples at the end of docs/plan.md.

`python benchmarks/aot.py` compiles everything (one to three minutes each on two cores; needs the extras aot-gpu and
aot-tpu). `--only WORD` compiles the targets whose name contains WORD and keeps the other rows of benchmarks/aot.json.
`--small` compiles a CIFAR ResNet-18 for 8 x H200 and a v5e-8 and writes nothing. The exit code is 1 if a program breaks
its budget: an all-to-all, a gather of images, more all-reduces than two for each BatchNorm layer and three groups, or
more memory than there is where it should fit. The limit of all-reduces is BatchNorm's and not for CLIP, which has none.
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

from benchmarks import page, timing
from simclr_jax.planning import aot, estimate, hardware, plan
from simclr_jax.planning import text as plan_text
from simclr_jax.run import config as config_lib
from simclr_jax.run import program as program_lib

RESULTS = ROOT / "benchmarks" / "aot.json"
PAGE = ROOT / "docs" / "aot.md"
PLANS = ROOT / "docs" / "plan.md"
TIMEOUT = 600.0


class Target(NamedTuple):
    """One program: a shipped config with a batch, on devices of a kind.

    fits: whether it has to. most: megabytes of program bytes that a view may take, if that is limited.
    num_chunks: parts of the batch.
    """

    config: str
    kind: str
    devices: int
    batch_size: int
    fits: bool = True
    most: float = float("inf")
    num_chunks: int = 1

    @property
    def name(self) -> str:
        """Key of the results, and what --only looks into."""
        chunks = f"-chunks{self.num_chunks}" if self.num_chunks > 1 else ""
        return f"{self.config}-{self.kind}-{self.devices}-{self.batch_size}{chunks}"

    @property
    def is_pairs(self) -> bool:
        """Whether it is of pictures with texts."""
        return self.config == PAIRS


PAIRS = "clip_vit_b32"
# As many pictures with texts as CLIP's, cut by the hosts; tokens of a text as in CLIP.
PAIRS_SHAPE = program_lib.DataShape(400_000_000, 0, (1, 224, 224), True, None, (1, 77))
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
    Target(PAIRS, "h200", 8, 32768, num_chunks=4),
    Target(PAIRS, "v5p", 64, 32768),
]
# Whose plans docs/plan.md shows.
EXAMPLES = [Target("imagenet_resnet50", kind, n, b) for kind, n in EXAMPLE_HARDWARE for b in (4096, 8192)]
SMALL = [Target("cifar10", "h200", 8, 512, most=37), Target("cifar10", "v5e", 8, 512)]


def compile_target(target: Target, *, timeout: float = TIMEOUT) -> dict:
    """The row of a target: what was compiled, or {"failed": why}, with what a budget needs beside it."""
    config = config_lib.load_file(target.config).to_dict()
    config["train"] |= {"batch_size": target.batch_size, "num_chunks": target.num_chunks}
    beside: dict[str, object] = {"date": datetime.date.today().isoformat(), "commit": timing.commit()}
    shape = PAIRS_SHAPE if target.is_pairs else plan.data_shape(config, hardware.find(target.kind))
    if not target.is_pairs:  # the model of `plan` knows no texts
        network, _ = plan.measure(config, shape, kind=target.kind)
        placement = plan.place(config, kind=target.kind, devices=target.devices, shape=shape)
        beside["modelled_peak_bytes"] = estimate.peak_bytes(network, placement)
        beside |= {"num_batch_norms": network.num_batch_norms, "train_flops_per_view": network.train_flops}
    try:
        compiled = aot.compile_elsewhere(config, kind=target.kind, devices=target.devices, shape=shape, timeout=timeout)
    except aot.CannotCompile as error:
        return {"failed": str(error), **beside}
    return {**compiled._asdict(), **beside}


def broken(target: Target, row: dict) -> list[str]:
    """Which budgets a row breaks."""
    if "failed" in row:
        return [row["failed"]] if target.fits else []
    compiled = aot.Compiled(**{name: row[name] for name in aot.Compiled._fields})
    if target.is_pairs:
        return aot.broken_budgets(compiled, num_batch_norms=compiled.statistic_all_reduces)
    moved = compiled.program_bytes / (2 * target.batch_size / target.devices) / 1e6
    more = [f"{moved:.0f} MB a view, {target.most:.0f} allowed"] if moved > target.most else []
    return aot.broken_budgets(compiled, num_batch_norms=row["num_batch_norms"]) + more


def main(arguments: list[str] | None = None) -> int:
    """Compiles what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="compile the targets whose name contains this")
    parser.add_argument("--small", action="store_true", help="a CIFAR ResNet-18 only; write nothing")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for each")
    asked = parser.parse_args(arguments)
    chosen = SMALL if asked.small else [target for target in TARGETS if asked.only in target.name]
    rows = {} if asked.small or not RESULTS.exists() else json.loads(RESULTS.read_text())
    bad = 0
    for target in chosen:
        if not aot.is_installed(target.kind):
            print(f"{target.name}: skipped, needs pip install 'simclr-jax[{aot.extra(target.kind)}]'", flush=True)
            continue
        rows[target.name] = compile_target(target, timeout=asked.timeout)
        faults = broken(target, rows[target.name])
        bad += bool(faults)
        print(f"{target.name}: {'; '.join(faults) or 'ok'}  {_short(rows[target.name])}", flush=True)
        if not asked.small:
            RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
            PAGE.write_text(render(PAGE.read_text(), rows))
    if not asked.small:
        page.write_part("plan_examples", examples(rows), page=PLANS)
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
        parts.append(f"```\n$ simclr-jax plan --config={target.config} {flags}\n{text}\n```")
    return "\n\n".join(parts)


def _short(row: dict) -> str:
    if "failed" in row:
        return f"({row['failed']})"
    model = f" (model {row['modelled_peak_bytes'] / 1e9:.2f})" if "modelled_peak_bytes" in row else ""
    return f"{row['peak_bytes'] / 1e9:.2f} GB{model}, {row['compile_seconds']} s"


def render(text: str, rows: dict[str, dict]) -> str:
    """docs/aot.md with its four tables made anew."""
    all_known = [(target, rows[target.name]) for target in TARGETS if target.name in rows]
    known = [(target, row) for target, row in all_known if not target.is_pairs]
    of_pairs = [(target, row) for target, row in all_known if target.is_pairs]
    compiled = [(target, row) for target, row in known if "failed" not in row]
    tables = {
        "memory": page.table((*_WHERE, *MEMORY.split(" | ")), [_memory(*of) for of in known]),
        "communication": page.table((*_WHERE, *COMMUNICATION.split(" | ")), [_communication(*of) for of in compiled]),
        "work": page.table((*_WHERE, *WORK.split(" | ")), [_work(*of) for of in compiled]),
    }
    head = (*_WHERE, *PAIRS_HEAD.split(" | "))
    told = "Not compiled yet: `make aot ONLY=clip_vit_b32`."
    tables["pairs"] = page.table(head, [_of_pairs(*of) for of in of_pairs]) if of_pairs else told
    compiled += [(target, row) for target, row in of_pairs if "failed" not in row]
    versions = sorted({f"{name} {v}" for _, row in compiled for name, v in row["versions"].items()})
    tables["work"] += f"\n\nVersions: {', '.join(versions)}."
    for name, table in tables.items():
        text = page.replace_part(text, f"aot_{name}", table)
    return text


_WHERE = ("hardware", "batch")
PAIRS_HEAD = (
    "chunks | memory of a device | arguments | all-reduce | all-gather | reduce-scatter | collective-permute | "
    "all-to-all | program bytes of a pair | kernels (fusions) | compile | date, commit | budgets"
)
MEMORY = "memory of a device | arguments | model of `plan` | off by | budgets"
COMMUNICATION = "all-reduce | all-gather | reduce-scatter | all-to-all | statistics | gradients"
WORK = "program bytes | counted bytes | FLOPs | counted | kernels (fusions) | compile | date, commit"


def _where(target: Target) -> tuple[str, str]:
    return f"{target.devices} x {hardware.find(target.kind).name}", str(target.batch_size)


def _memory(target: Target, row: dict) -> tuple[str, ...]:
    model = row["modelled_peak_bytes"]
    if "failed" in row:
        budgets = "broken" if target.fits else "need not fit"
        return *_where(target), row["failed"], "", f"{model / 1e9:.1f} GB", "", budgets
    peak, whole = row["peak_bytes"], hardware.find(target.kind).memory_bytes
    sizes = (
        f"{peak / 1e9:.1f} of {whole / 1e9:.0f} GB",
        f"{row['argument_bytes'] / 1e9:.2f} GB",
        f"{model / 1e9:.1f} GB",
    )
    return *_where(target), *sizes, f"{100 * (model / peak - 1):+.1f} %", "; ".join(broken(target, row)) or "kept"


def _of_pairs(target: Target, row: dict) -> tuple[str, ...]:
    start, made = (*_where(target), str(target.num_chunks)), f"{row['date']}, {row['commit']}"
    if "failed" in row:
        return *start, row["failed"], *[""] * 9, made, "broken" if target.fits else "need not fit"
    whole, pairs = hardware.find(target.kind).memory_bytes, target.batch_size / target.devices
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
    return (
        *start,
        f"{row['peak_bytes'] / 1e9:.1f} of {whole / 1e9:.0f} GB",
        f"{row['argument_bytes'] / 1e9:.2f} GB",
        *(_moved(row, kind) for kind in kinds),
        f"{row['program_bytes'] / pairs / 1e6:.0f} MB",
        f"{row['num_kernels']} ({row['num_fusions']})",
        f"{row['compile_seconds']:.0f} s",
        made,
        "; ".join(broken(target, row)) or "kept",
    )


def _moved(row: dict, kind: str) -> str:
    sums = row["collectives"].get(kind)
    return f"{sums['count']} ({sums['bytes'] / 1e6:.1f} MB)" if sums else "0"


def _communication(target: Target, row: dict) -> tuple[str, ...]:
    cells = [_moved(row, kind) for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")]
    gradients = f"{row['gradient_all_reduces']} in {row['gradient_groups']}"
    return *_where(target), *cells, str(row["statistic_all_reduces"]), gradients


def _work(target: Target, row: dict) -> tuple[str, ...]:
    views = 2 * target.batch_size / target.devices
    moved, counted = (
        f"{total / views / 1e6:.0f} MB" if total else "-" for total in (row["program_bytes"], row["counted_bytes"])
    )
    flops = f"{row['counted_flops'] / views / 1e9:.1f} GFLOP" if row["counted_flops"] else "-"
    work = moved, counted, f"{row['train_flops_per_view'] / 1e9:.1f} GFLOP", flops
    kernels, made = f"{row['num_kernels']} ({row['num_fusions']})", f"{row['date']}, {row['commit']}"
    return *_where(target), *work, kernels, f"{row['compile_seconds']:.0f} s", made


if __name__ == "__main__":
    sys.exit(main())
