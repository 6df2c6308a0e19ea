"""Measuring one implementation in its process, and starting such processes in turns.

`alternate` starts the workers round by round, so that a busy minute of the machine falls on all of them. Time is told
twice: wall, and seconds of CPU, which a busy machine disturbs less. Memory is the peak resident size above that just
before the first call.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks import children

ROOT = children.ROOT

# One thread everywhere; OpenMP's threads must sleep when they wait, or they take the time that is measured.
ONE_THREAD = {
    **dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
# Files that results go to: a tree in which only they have changed is that of its commit.
_RESULTS = ("benchmarks/README.md", "benchmarks/aot.json", "docs/aot.md", "docs/plan.md")

Results = dict[str, list[dict[str, Any]]]


def measure(
    call: Callable[[], Any],
    *,
    repeats: int,
    ready: Callable[[Any], Any] = lambda result: result,
    uncounted: int = 1,
    seconds: float = 0.1,
) -> dict[str, Any]:
    """CPU and wall milliseconds of `repeats` calls after `uncounted` ones, and the peak of memory in MB.

    Args:
        call: the work; compiled beforehand, so that the compiler's memory is not counted.
        repeats: counted calls.
        ready: waits until a result is there.
        uncounted: calls before, 0 where the caller has made some itself.
        seconds: if the counted calls take less than this together, more are made: single calls of some milliseconds
            tell of the clock and of the caches, not of the work.

    Returns:
        "cpu_ms" and "wall_ms" of every counted call, "peak_mb", the largest resident size meanwhile, and "extra_mb",
        how much that is above the size before.
    """
    before = _status("VmRSS")
    reset = _reset_peak()
    for _ in range(uncounted):
        ready(call())
    cpu, wall = [], []
    while len(wall) < repeats or sum(wall) < 1e3 * seconds:
        start = time.process_time(), time.perf_counter()
        ready(call())
        cpu.append(1e3 * (time.process_time() - start[0]))
        wall.append(1e3 * (time.perf_counter() - start[1]))
    peak = _status("VmHWM") if reset else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_ms": cpu, "wall_ms": wall, "peak_mb": peak, "extra_mb": max(peak - before, 0.0)}


def _status(field: str) -> float:
    """A line of /proc/self/status in MB; 0 where there is none."""
    return float(_told("self/status", field, "0 kB").split()[0]) / 1024


def _told(file: str, field: str, otherwise: str) -> str:
    """What a file of Linux's /proc says of a field."""
    path = pathlib.Path("/proc") / file
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), otherwise)


def _reset_peak() -> bool:
    """Sets the recorded peak back to the present size, where Linux allows it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def alternate(
    jobs: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    timeout: float,
    seconds: float = float("inf"),
    environment: Mapping[str, str] | None = None,
) -> Results:
    """The results of every job, a name and the command of its process, round by round: the JSON it printed last.

    A job that fails is not started again, its result holds "error"; "absent" as well if that is because something is
    not installed. After the first, no round begins that would end later than `seconds` from now if it took as long as
    the longest one.
    """
    results: Results = {name: [] for name in jobs}
    start = begin = time.monotonic()
    longest = 0.0
    for number in range(rounds):
        longest, begin = max(longest, time.monotonic() - begin) if number else 0.0, time.monotonic()
        if number and begin + longest > start + seconds:
            break
        for name, command in jobs.items():
            if any("error" in result for result in results[name]):
                continue
            result = {"name": name, **_run(command, timeout, environment or {})}
            print(json.dumps(result), flush=True)
            results[name].append(result)
    return results


def _run(command: Sequence[str], timeout: float, more: Mapping[str, str]) -> dict[str, Any]:
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **more}
    ended = children.run(command, children.Clock(timeout / 60), environment=environment)
    if ended.reason or not ended.lines:
        reason = ended.reason or "no output"
        return {"error": reason, **({"absent": reason} if "ModuleNotFoundError" in reason else {})}
    return ended.lines[-1]


def summary(results: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float, float]:
    """(median, smallest, largest) of the numbers `key` of all calls of all rounds."""
    values = [value for result in results for value in result[key]]
    return statistics.median(values), min(values), max(values)


def describe(packages: Iterable[str]) -> dict[str, Any]:
    """What a result needs beside its numbers: commit, versions of `packages` that are installed, hardware, date."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpu = _told("cpuinfo", "model name", platform.machine())
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions,
        "hardware": f"{os.cpu_count()} CPU cores, {cpu}, load {os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
    }


def commit() -> str:
    """The commit of this checkout, "-dirty" behind it if a file differs from it, those apart that results go to."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    apart = [f":(exclude){path}" for path in _RESULTS]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *apart)
    return (git("describe", "--always") or "unknown") + ("-dirty" if changed else "")
