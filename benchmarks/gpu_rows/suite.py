"""Everything this project claims of a GPU, measured in one call of at most nine minutes; docs/gpu.md explains it.

    python benchmarks/gpu.py suite                    on a machine with one GPU
    python benchmarks/gpu.py suite --out=FILE         once more, for the rows that FILE lacks
    python benchmarks/gpu.py suite --show=FILE --write=after_tuning      into benchmarks/gpu_rounds/ and README.md
    python benchmarks/gpu.py suite --tiny             every row at tiny size on a CPU: a test of the suite
    python benchmarks/gpu.py suite --predict          what the GPU's compiler says of the programs, on a CPU

It needs JAX, Flax, Optax, Orbax and NumPy; rows beside torch, Kornia and lightly are left out where those are missing.
Every row runs in a fresh process. One that fails, or for which no time is left, is a line of the table, and the rest
goes on. The JSON is written anew after each row, so a call that is killed loses only the row it was in.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import children, page, timing
from benchmarks.gpu_rows import figures, settings, table
from benchmarks.gpu_rows.figures import Figure, Job
from simclr_jax import base
from simclr_jax.run import workdir as workdir_lib

ROUNDS = timing.ROOT / "benchmarks" / "gpu_rounds"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision", "lightly", "kornia")
# Figure of the probes -> field of a job.
_PROBES = {"matmul": "flops", "copy": "bandwidth"}
# What is kept back of the time for the table.
_RESERVE = 5.0
# For tiny programs, which are compiled and hardly run.
_QUICK_COMPILER = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# JAX keeps three quarters of a GPU by default; the rows may have what a careful user would give them.
_JAX = {"XLA_CLIENT_MEM_FRACTION": "0.92"}
_EXCLUDED = {**_JAX, "XLA_FLAGS": "--xla_gpu_exclude_nondeterministic_ops=true"}
# JAX traces the network there to count its FLOPs, and must leave the GPU alone.
_TORCH = {"JAX_PLATFORMS": "cpu", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


class Row(NamedTuple):
    """One row of the suite.

    function: "module.name" in `benchmarks.gpu_rows`; (job) -> figures. words: what it measures, for `--list`.
    seconds: what it may take on an H200, compilers included, a guess until one was used; with less time than this left
    it is left out. needs: modules without which it is left out. environment: of its process.
    """

    function: str
    words: str
    seconds: float
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = _JAX


_VISION = ("torch", "torchvision")
ROWS: dict[str, Row] = {
    "probes": Row("parts.probes", "what large bfloat16 products and copies reach", 25),
    "resnet50": Row("steps.resnet50", "the whole ResNet-50 step at 224 pixels, batch 512", 75),
    "torch_resnet50": Row("torch_steps.resnet50", "torch: ResNet-50 supervised and SimCLR", 110, _VISION, _TORCH),
    "cifar": Row("steps.cifar", "the CIFAR-10 recipe, ResNet-18, batch 512, 1024, 4096", 80),
    "views": Row("parts.views", "the augmentation alone, 224 and 32 pixels", 30),
    "torch_views": Row("torch_parts.views", "torch: batched views of ours in torch, Kornia", 25, ("torch",), _TORCH),
    "loss": Row("parts.loss", "NT-Xent, 8192 to 65,536 rows, blockwise and dense", 35),
    "folded": Row("steps.folded", "the step with BatchNorm not folded into convolutions", 55),
    "shares": Row("steps.shares", "the step without views, with frozen BatchNorm; the loss alone", 90),
    "deterministic": Row("steps.deterministic", "both steps with train.deterministic, two runs compared", 80),
    "chunked": Row("steps.chunked", "ResNet-50, batch 4096 in chunks on one device", 70),
    "torch_cifar": Row("torch_steps.cifar", "torch: CIFAR ResNet-18 supervised and SimCLR", 70, _VISION, _TORCH),
    "torch_loss": Row("torch_parts.loss", "torch: NT-Xent in a few lines, lightly's", 20, ("torch",), _TORCH),
    "lars": Row("parts.lars", "LARS ours, optax's with masks, plain SGD", 25),
    "pool": Row("parts.pool", "the stem's max-pool, ours and Flax's", 20),
    "excluded": Row("steps.excluded", "the same by a flag that lets XLA time kernels", 60, (), _EXCLUDED),
    "large_loss": Row("parts.large_loss", "NT-Xent, 262,144 and 1,048,576 rows, blockwise", 40),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suite's own."""
    parser.add_argument("--rows", default="", help="names separated by commas; all by default, the probes always")
    parser.add_argument("--list", action="store_true", help="the names of all rows")
    parser.add_argument("--out", default="", help="the JSON; by default in a new folder, or in $OUT where it is set")
    parser.add_argument("--show", default="", metavar="FILE", help="prints the table of a JSON file, runs nothing")
    parser.add_argument("--write", default="", metavar="NAME", help="keeps what --show names as a round")
    parser.add_argument("--commit", default="", help="of the tree that is measured, where git cannot tell")
    parser.add_argument("--predict", action="store_true", help="compiles for an H200 on a CPU: memory and bytes")
    parser.add_argument("--settings", action="store_true", help="makes gpu_settings.json from the configs")


def main(options: argparse.Namespace) -> int:
    """Runs what the command line asks for, if it can be done; the exit status, 1 if a row failed."""
    unknown = [name for name in filter(None, options.rows.split(",")) if name not in ROWS]
    if unknown:
        raise base.InputError(f"--rows takes names of rows; got {unknown[0][:40]!r}. Use some of {', '.join(ROWS)}.")
    if options.show and not pathlib.Path(options.show).is_file():
        raise base.InputError(f"--show takes the JSON file of an earlier call; got {options.show[-80:]!r}.")
    if options.write and not (options.show and options.write.isidentifier()):
        raise base.InputError(f"--write=NAME, a word, needs --show=FILE; got {options.write[:40]!r}.")
    if options.list:
        print("\n".join(f"{name:<16} {row.words}" for name, row in ROWS.items()))
    elif options.settings:
        settings.FILE.write_text(settings.from_configs())
    elif options.predict:
        # In a process of its own, which takes the CPU for JAX.
        return subprocess.call([sys.executable, str(timing.ROOT / "benchmarks" / "ahead.py"), "rows"])
    elif options.show:
        show(options)
    else:
        return run(options)
    return 0


def show(options: argparse.Namespace) -> None:
    """Prints the table of a JSON file and, if asked to, keeps it as a round, which README.md shows."""
    result = json.loads(pathlib.Path(options.show).read_text())
    result["about"]["commit"] = options.commit or result["about"]["commit"]
    print(table.text(result))
    if options.write:
        if reason := table.why_no_round(result):
            raise base.InputError(reason)
        ROUNDS.mkdir(exist_ok=True)
        workdir_lib.write_json(ROUNDS / f"{options.write}.json", result)
        page.write_part("gpu_suite", table.page(read_rounds(ROUNDS)))


def read_rounds(folder: pathlib.Path) -> dict[str, table.Round]:
    """The rounds that are kept, oldest first."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: item[1]["about"]["time"]))


def run(options: argparse.Namespace) -> int:
    """Measures what the JSON lacks, printing a line for each row and the table at the end."""
    clock = children.Clock(options.minutes - _RESERVE / 60)
    file = pathlib.Path(options.out or pathlib.Path(os.environ.get("OUT") or tempfile.mkdtemp()) / "gpu_suite.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    result = _begin(file, options)
    asked = ("probes", *options.rows.split(",")) if options.rows else tuple(ROWS)
    wanted = [name for name in ROWS if name in asked and name not in result["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        for group in groups(wanted, tiny=options.tiny):
            measure(group, result, options, clock=clock, folder=pathlib.Path(folder))
            result["rows"] = {name: result["rows"][name] for name in ROWS if name in result["rows"]}
            workdir_lib.write_json(file, result)
            for name in group:
                print(f"{name:<16} {_outcome(result['rows'][name])}", flush=True)
            print(f"{'':<16} {max(clock.left, 0):.0f} s left", flush=True)
            if result["about"].get("device", {}).get("platform") == "cpu" and not options.tiny:
                raise base.InputError("The suite measures a GPU; JAX sees only the CPU. Use --tiny to try the rows.")
    print(f"\n{table.text(result)}\n\nJSON: {file}")
    return int(any("error" in row for row in result["rows"].values()) or (options.tiny and _has_gaps(result)))


def _begin(file: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
    """A round with the rows that an earlier call measured, if there was one."""
    facts = timing.describe(PACKAGES)
    facts |= {"commit": options.commit or facts["commit"], "tiny": options.tiny, "time": time.time()}
    earlier = json.loads(file.read_text()) if file.exists() else {"about": {}, "rows": {}}
    kept = {name: row for name, row in earlier["rows"].items() if not {"error", "left_out"} & set(row)}
    return {"about": {**facts, "device": earlier["about"].get("device", {})}, "rows": kept}


def groups(names: Sequence[str], *, tiny: bool) -> list[list[str]]:
    """Which rows share a process: at full size none do, tiny ones do where their environment is the same."""
    if not tiny:
        return [[name] for name in names]
    by_environment: dict[str, list[str]] = {}
    for name in names:
        by_environment.setdefault(json.dumps(ROWS[name].environment), []).append(name)
    return list(by_environment.values())


def measure(
    group: Sequence[str],
    result: dict[str, Any],
    options: argparse.Namespace,
    *,
    clock: children.Clock,
    folder: pathlib.Path,
) -> None:
    """Runs the rows of a group, if they can be run, and puts what they print into `result`."""
    ready = []
    for name in group:
        missing, needed = children.missing(ROWS[name].needs), 1.0 if options.tiny else ROWS[name].seconds
        if missing or clock.left < needed:
            left = f"{max(clock.left, 0):.0f} s left of {options.minutes:g} minutes"
            words = missing or f"no time: {left}, the row takes about {needed:.0f} s"
            result["rows"][name] = {"seconds": 0.0, "figures": [], "left_out": words}
        else:
            ready.append(name)
    if not ready:
        return
    known = table.measured(result)
    reached = {field: 1e12 * known[name]["value"] for name, field in _PROBES.items() if name in known}
    job = Job(options.tiny, **reached, until=time.monotonic() + clock.left)
    command = children.worker("suite", {"rows": ready, "job": job._asdict()})
    ended = children.run(command, clock, environment=environment_of(ready[0], tiny=options.tiny, folder=folder))
    for name in ready:
        result["rows"][name] = collect([line for line in ended.lines if line["row"] == name], ended.reason)
    if any("error" in result["rows"][name] for name in ready):
        print(ended.errors[-4000:], file=sys.stderr)
    for line in ended.lines:
        if line.get("name") == "device":
            result["about"]["device"] = line["device"]


def environment_of(name: str, *, tiny: bool, folder: pathlib.Path) -> dict[str, str]:
    """The environment of a row's process; compilers' caches are shared by the rows of a call."""
    found = children.environment({"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"})
    found.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # the old name of what the rows set
    found |= {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch")}
    if tiny:
        found.setdefault("JAX_PLATFORMS", "cpu")
    more = dict(ROWS[name].environment)
    quick = _QUICK_COMPILER if tiny and found["JAX_PLATFORMS"] == "cpu" else ""
    flags = [os.environ.get("XLA_FLAGS", ""), quick, more.pop("XLA_FLAGS", "")]
    return found | {"XLA_FLAGS": " ".join(filter(None, flags))} | more


def work(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """In a process of its own: the figures of some rows as soon as they are there, so that a kill loses little.

    After a failed row, of which an "error" is told, the next one runs. What the probes reach serves the rows behind.
    """
    job = Job(**given["job"])
    for name in given["rows"]:
        start = time.monotonic()
        try:
            for figure in _figures(name, job):
                if not math.isfinite(figure.get("value", 0.0)):
                    raise ValueError(f"{figure['name']} is {figure['value']}")
                yield {"row": name, **figure}
                if figure["name"] in _PROBES:
                    job = job._replace(**{_PROBES[figure["name"]]: 1e12 * figure["value"]})
        except figures.LeftOut as reason:
            yield {"row": name, **figures.left_out(name, str(reason))}
        except Exception as error:
            traceback.print_exc()
            yield {"row": name, "name": name, "error": children.one_line(f"{type(error).__name__}: {error}")}
        yield {"row": name, "seconds": round(time.monotonic() - start, 1)}


def _figures(name: str, job: Job) -> Iterator[Figure]:
    module, _, function = ROWS[name].function.partition(".")
    return getattr(importlib.import_module(f"benchmarks.gpu_rows.{module}"), function)(job)


def collect(lines: Sequence[Mapping[str, Any]], ending: str) -> dict[str, Any]:
    """A row of a round from the lines its process printed; without a last one it failed as `ending` says."""
    found: dict[str, Any] = {"seconds": None, "figures": []}
    for line in lines:
        entry = {key: value for key, value in line.items() if key != "row"}
        if "seconds" in entry or "error" in entry:
            found |= {key: entry[key] for key in ("seconds", "error") if key in entry}
        elif entry["name"] != "device":
            found["figures"].append(entry)
    if found["seconds"] is None:
        found["error"] = ending or "it ended without a word"
    return found


def _outcome(row: Mapping[str, Any]) -> str:
    """One line for the progress."""
    for word in ("left_out", "error"):
        if word in row:
            return f"{word.replace('_', ' ')}: {row[word]}"
    return f"{sum('value' in figure for figure in row['figures'])} figures in {row['seconds']:.0f} s"


def _has_gaps(result: Mapping[str, Any]) -> bool:
    """Whether anything was left out for another reason than a package that is not installed."""
    entries = [*result["rows"].values(), *(figure for row in result["rows"].values() for figure in row["figures"])]
    reasons = [entry["left_out"] for entry in entries if "left_out" in entry]
    return any(not reason.endswith(("is not installed", "is not part of a tiny run")) for reason in reasons)
