"""The largest batch that fits on this GPU, found by trying, beside the one that `simclr-jax plan` predicts.

    python benchmarks/gpu.py memory --workdir=runs/gpu_memory
    python benchmarks/gpu.py memory --tiny       on a CPU in two minutes, with a budget in place of a device's memory

ResNet-50 at 224 pixels and CIFAR's ResNet-18, the whole batch at once and in chunks. Every try is a process of its own
that makes two updates on synthetic images; running out of memory is its result, not a failure. The search begins at
the prediction, takes growing steps until one batch fits and one does not, and halves what is between to 5 %. All tries
are kept in the workdir: the same command goes on where a call ended.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import children, page, timing
from benchmarks.gpu_rows import pieces, settings
from benchmarks.gpu_rows.figures import Job
from simclr_jax.data import resident
from simclr_jax.distributed import sharding
from simclr_jax.planning import estimate, hardware, plan
from simclr_jax.run import program as program_lib
from simclr_jax.run import workdir as workdir_lib

# The share of a GPU that `plan` counts on; JAX's own default is 0.75. Beside its name JAX refuses the old one, unless
# that is empty.
_ENVIRONMENT = {"XLA_CLIENT_MEM_FRACTION": "0.92", "XLA_PYTHON_CLIENT_MEM_FRACTION": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
TOLERANCE = 0.05
_EXHAUSTED = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "CUDA_ERROR_OUT_OF_MEMORY")
# A try begins only with this left, or as long as the longest one took.
_LEAST_SECONDS = 90.0


class Case(NamedTuple):
    """What is tried.

    config: a recorded or shipped config. num_examples, num_classes: of its training split. unit: batches are multiples
    of it. changes: section -> key -> value of the config. cap: the largest batch that a run can have, where the
    images live on the device; 0 for none. budget: bytes in place of the device's memory; None on a GPU.
    """

    config: str
    num_examples: int
    num_classes: int
    unit: int
    changes: Mapping[str, Mapping[str, Any]] = {}
    cap: int = 0
    budget: int | None = None


def _chunked(case: Case, chunks: int) -> Case:
    return case._replace(unit=case.unit * chunks, changes={**case.changes, "train": {"num_chunks": chunks}})


_RESNET50 = Case("imagenet_resnet50", 1_281_167, 1000, 8)
_RESNET18 = Case("cifar10", 50_000, 10, 8, cap=50_000)
CASES = {
    "ResNet-50 at 224 px": _RESNET50,
    "ResNet-50 at 224 px, 8 chunks": _chunked(_RESNET50, 8),
    "CIFAR ResNet-18": _RESNET18,
    "CIFAR ResNet-18, 8 chunks": _chunked(_RESNET18, 8),
}
_THIN = {"name": "resnet10", "width_multiplier": 0.125, "dtype": "float32"}
_CHANGES = {"augment": {"image_size": 16}, "encoder": _THIN, "method": {"loss_form": "dense"}}
SMALL = Case("cifar10", 512, 10, 16, _CHANGES, cap=512, budget=26_000_000)
TINY = {"whole": SMALL, "2 chunks, streamed": _chunked(SMALL, 2)._replace(cap=0)}


def config_of(case: Case, batch_size: int) -> dict[str, Any]:
    """The config of a try as plain values."""
    config = settings.load(case.config, Job(tiny=False))
    for section, values in case.changes.items():
        config[section] |= values
    config["train"]["batch_size"] = batch_size
    return config


def search(
    fits: Callable[[int], bool], *, start: int, unit: int, cap: int = 0, tolerance: float = TOLERANCE
) -> tuple[int, int]:
    """(the largest batch that fits, 0 if none; the smallest that was seen not to, 0 if none was).

    Args:
        fits: tries a batch.
        start: the first one.
        unit: all are multiples of it.
        cap: none is larger, 0 for no limit.
        tolerance: of the distance between both, as a share of the first.
    """
    highest = cap // unit * unit if cap else sys.maxsize
    batch, low, high, step = min(max(start // unit, 1) * unit, highest), 0, 0, 0.1
    while True:
        if fits(batch):
            low = batch
        else:
            high = batch
        if low == highest or high == unit or (low and high and high - low <= max(unit, tolerance * low)):
            return low, high
        if low and high:
            batch = (low + high) // 2 // unit * unit
        elif low:
            batch = min(max(int(low * (1 + step)) // unit * unit, low + unit), highest)
        else:
            batch = max(min(int(high / (1 + step)) // unit * unit, high - unit), unit)
        step *= 2


def data_shape(case: Case, config: Mapping[str, Any]) -> Any:
    """The training split's shape; a capped case has it on the device."""
    side = config["data"]["canvas_size"] or 32
    return program_lib.DataShape(case.num_examples, case.num_classes, (side, side), not case.cap)


def predict(case: Case, *, kind: str, memory: int) -> tuple[int, Callable[[int], int]]:
    """(the largest batch by the model of `plan`, the modelled peak in bytes of a batch)."""
    config = config_of(case, case.unit)
    shape, form = data_shape(case, config), config["method"]["loss_form"]
    network, _ = plan.measure(config, shape, kind=kind)
    placement = plan.place(config, kind=kind, devices=1, shape=shape)

    def peak(batch: int) -> int:
        dense = form == "dense" or (form == "auto" and batch <= 1024)
        source = placement.source_bytes if case.cap else placement.source_bytes // case.unit * batch
        at = placement._replace(batch_size=batch, source_bytes=source, loss="dense" if dense else "blockwise")
        return estimate.peak_bytes(network, at)

    largest, _ = search(lambda batch: peak(batch) <= memory, start=case.unit, unit=case.unit, cap=case.cap, tolerance=0)
    return largest, peak


def attempt(case: Case, batch_size: int) -> dict[str, Any]:
    """Two updates with a batch, in this process: {"peak_bytes", "limit_bytes", "seconds" of the last update}."""
    config, mesh = config_of(case, batch_size), sharding.make_mesh(1)
    shape = data_shape(case, config)
    count = 2 if case.cap else 1  # in one dispatch, as with resident data; a streamed one holds a single update
    program = program_lib.make_program(config, mesh, shape=shape, steps_per_dispatch=count, seed=0)
    steps, planned = program.train_steps, None
    if case.budget is not None:
        sizes = {"shape": shape, "batch_size": batch_size, "steps_per_dispatch": count}
        steps = steps.lower(*program_lib.abstract_arguments(program, mesh, **sizes)).compile()
        found = steps.memory_analysis()
        planned = found.argument_size_in_bytes + found.temp_size_in_bytes
        if planned > case.budget:
            raise MemoryError(f"RESOURCE_EXHAUSTED: {planned} bytes of {case.budget}")
    rows = batch_size if shape.is_streamed else shape.num_examples
    images = jax.jit(lambda: jax.lax.broadcasted_iota(jnp.uint8, (rows, *shape.canvas, 3), 2))()
    sizes, labels = np.full((rows, 2), shape.canvas[0], np.int32), np.zeros(rows, np.int32)
    source = resident.SplitArrays(images, jnp.asarray(sizes), jnp.asarray(labels))
    indices = np.arange(count * batch_size, dtype=np.int32).reshape(count, batch_size) % rows
    state = sharding.jit_once(program.init, mesh, placement=program.placement)()
    key, number = sharding.make_key(mesh, 0), jnp.asarray(count, jnp.int32)
    for _ in range(1 if count > 1 else 2):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(steps(state, key, source, sharding.put_rows(mesh, indices, axis=1), number))
    stats = jax.local_devices()[0].memory_stats() or {}
    peak, limit = stats.get("peak_bytes_in_use", planned), stats.get("bytes_limit", case.budget)
    return {"peak_bytes": peak, "limit_bytes": limit, "seconds": (time.perf_counter() - begin) / count}


def probe() -> dict[str, Any]:
    """{"name", "kind" (a key of hardware.DEVICES), "limit_bytes"} of this machine's first device."""
    device = jax.local_devices()[0]
    name, stats = getattr(device, "device_kind", device.platform), device.memory_stats() or {}
    kinds = [kind for kind, known in hardware.DEVICES.items() if known.name.lower().startswith(name.lower())]
    if not kinds:
        raise RuntimeError(f"plan knows {', '.join(hardware.DEVICES)}; this is {name}")
    return {"name": name, "kind": kinds[0], "limit_bytes": stats.get("bytes_limit")}


def work(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """In a process of its own: a try, or what the first device is."""
    yield attempt(Case(**given["case"]), given["batch"]) if given else probe()


def in_own_process(given: Mapping[str, Any], clock: children.Clock) -> dict[str, Any]:
    """What `work` tells; {"exhausted": why} if memory ran out, in its own words or by a kill.

    Raises:
        RuntimeError: it failed in another way or took too long.
    """
    command, environment = children.worker("memory", given), children.environment(_ENVIRONMENT)
    ended = children.run(command, clock, environment=environment)
    if ended.status in (-9, 137) and not ended.late:
        return {"exhausted": "killed"}
    if ended.status and any(word in ended.errors for word in _EXHAUSTED):
        return {"exhausted": ended.reason.partition(": ")[2]}
    if ended.reason:
        raise RuntimeError(ended.reason)
    return ended.lines[-1]


class OutOfTime(Exception):
    """The call is over; the tries so far are kept."""


def find(name: str, case: Case, found: dict[str, Any], *, clock: children.Clock, file: pathlib.Path) -> dict[str, Any]:
    """A row of the table; `found` holds the device and the tries of earlier calls and takes new ones."""
    memory = case.budget or found["device"]["limit_bytes"]
    predicted, peak = predict(case, kind=found["device"]["kind"], memory=memory)
    tries = found["tries"].setdefault(name, {})

    def fits(batch: int) -> bool:
        if str(batch) not in tries:
            longest = max((t["wall"] for of in found["tries"].values() for t in of.values()), default=0.0)
            if clock.left < max(_LEAST_SECONDS, 1.2 * longest):
                raise OutOfTime
            begin = time.monotonic()
            result = in_own_process({"case": case._asdict(), "batch": batch}, clock)
            tries[str(batch)] = {**result, "wall": time.monotonic() - begin}
            workdir_lib.write_json(file, found)
            print(f"{name}, batch {batch}: {result.get('exhausted') or 'fits'}", flush=True)
        return "exhausted" not in tries[str(batch)]

    largest, _ = search(fits, start=predicted, unit=case.unit, cap=case.cap)
    measured = tries[str(largest)]["peak_bytes"] if largest else None
    row = {"predicted_batch": predicted, "batch": largest, "cap": case.cap, "peak_bytes": measured}
    return {**row, "predicted_bytes": peak(largest) if largest else None, "tries": len(tries)}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows in Markdown; deviations are (predicted - measured) / measured."""
    head = ("program", "largest batch, predicted", "measured", "off by", "peak at it, measured", "predicted", "off by")
    lines = []
    for name, row in rows.items():
        cells = ["none fits", *"----"]
        if row["batch"]:
            capped = " (all images)" if row["batch"] == row["cap"] else ""
            cells = [f"{row['batch']:,}{capped}", off_by(row["predicted_batch"], row["batch"])]
            cells += [f"{row[key] / 1e9:.3g} GB" for key in ("peak_bytes", "predicted_bytes")]
            cells.append(off_by(row["predicted_bytes"], row["peak_bytes"]))
        lines.append((name, f"{row['predicted_batch']:,}", *cells, str(row["tries"])))
    return page.table((*head, "tries"), lines)


def off_by(predicted: float, measured: float) -> str:
    """For a table: by how much the prediction is above what was measured."""
    return f"{100 * (predicted / measured - 1):+.0f} %"


def run(cases: Mapping[str, Case], file: pathlib.Path, clock: children.Clock) -> bool:
    """Goes on with the tries kept in `file` and prints the table; returns whether all cases are at their end."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"tries": {}}
    file.parent.mkdir(parents=True, exist_ok=True)
    if "device" not in found:
        found["device"] = in_own_process({}, clock)
    budget = next((case.budget for case in cases.values()), None)
    if found["device"]["kind"] == "cpu" and budget is None:
        print("There is no GPU here; --tiny proves the search on a CPU.")
        return False
    rows: dict[str, Any] = {}
    try:
        for name, case in cases.items():
            rows[name] = find(name, case, found, clock=clock, file=file)
    except OutOfTime:
        pass
    workdir_lib.write_json(file, {**found, "rows": rows})
    memory = f"{found['device']['name']}, {(budget or found['device']['limit_bytes']) / 1e9:.4g} GB for the program"
    print(f"\n{page.about(timing.describe(pieces.PACKAGES), hardware=memory)}\n\n{table(rows)}")
    return len(rows) == len(cases)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The search's own."""
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/gpu_memory"))
    parser.add_argument("--only", default="", help="cases whose name has this in it")


def main(options: argparse.Namespace) -> int:
    """Runs a call of the search; returns the exit code."""
    clock = children.Clock(options.minutes)
    if options.tiny:
        os.environ.update(pieces.QUICK)
        return 0 if run(TINY, pieces.tiny_folder(None) / "gpu_memory.json", clock) else 1
    cases = {name: case for name, case in CASES.items() if options.only in name}
    if not run(cases, options.workdir / "gpu_memory.json", clock):
        print("The search is not over: go on with the same command.")
    return 0
