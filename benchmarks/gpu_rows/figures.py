"""A measurement, and how its time is told.

A row's function yields figures: dicts of JSON values, each with "name" and one of

- "value", the median over windows, with "unit" ("views/s", "ms" or "us", "TFLOP/s", "TB/s"), "low" and "high", the
  ends of the windows, and "windows", how many there were; beside it what applies of "views" (in one step or call),
  "ceiling" (views/s), "flops" (of a view, forward and backward), "peak_bytes" (the most the runtime held in this
  process so far), "planned_bytes" (of the program, by XLA's analysis), "modelled_bytes" (by `plan`),
  "compile_seconds", "note" and other facts;
- "left_out", why it was not measured, which is no failure.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Figure = dict[str, Any]
# run(n) makes n steps without waiting between them and returns when the last one is done.
Run = Callable[[int], None]

_MOST_STEPS = 2000


class Job(NamedTuple):
    """What a row is told.

    tiny: the smallest sizes, on whatever device there is: a test of the rows, whose figures mean nothing.
    flops, bandwidth: what this device reached in the probes, per second; None if they failed.
    until: time.monotonic() at which the process is ended.
    """

    tiny: bool
    flops: float | None = None
    bandwidth: float | None = None
    until: float = float("inf")

    @property
    def seconds_left(self) -> float:
        """How long the row may still take."""
        return self.until - time.monotonic()


class LeftOut(Exception):
    """Why the rest of a row cannot be measured here, which is no failure."""


class Times(NamedTuple):
    """Seconds of one step: the median, smallest and largest of some windows."""

    median: float
    low: float
    high: float
    windows: int


def clock(run: Run, job: Job) -> Times:
    """Times `run`: two steps to warm up, then at least five windows of half a second without a wait inside.

    Steps of more than three seconds get two windows of one step; a tiny job always does.
    """
    run(1)
    start = time.perf_counter()
    run(1)
    one = time.perf_counter() - start
    steps = 1 if job.tiny else min(max(round(0.5 / max(one, 1e-6)), 1), _MOST_STEPS)
    wanted, seconds = (2 if job.tiny or one > 3 else 5), []
    begin = time.perf_counter()
    while len(seconds) < wanted or (not job.tiny and len(seconds) < 9 and time.perf_counter() - begin < 4):
        start = time.perf_counter()
        run(steps)
        seconds.append((time.perf_counter() - start) / steps)
    return Times(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def repeat(call: Callable[[], Any]) -> Run:
    """A run that makes calls and waits for the last one."""

    def run(times: int) -> None:
        result = None
        for _ in range(times):
            result = call()
        jax.block_until_ready(result)

    return run


def carry(step: Callable[..., tuple[Any, ...]], *state: Any) -> Run:
    """A run whose steps take what the one before returned, and may donate it."""
    held = list(state)

    def run(times: int) -> None:
        for _ in range(times):
            held[:] = step(*held)
        jax.block_until_ready(held)

    return run


def alone(job: Job, function: Callable[..., Any], *arguments: Any) -> tuple[Times, int]:
    """(times, bytes that XLA plans) of a function that is compiled and called by itself."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return clock(repeat(lambda: compiled(*arguments)), job), planned_bytes(compiled)


def rate(name: str, times: Times, *, amount: float, unit: str = "views/s", **facts: Any) -> Figure:
    """The figure of something counted: `amount` of it are done in one step."""
    ends = {"value": amount / times.median, "low": amount / times.high, "high": amount / times.low}
    return _figure(name, {"unit": unit, **ends, "windows": times.windows, **facts})


def duration(name: str, times: Times, *, unit: str = "ms", **facts: Any) -> Figure:
    """The figure of a time, in milliseconds or microseconds."""
    value, low, high = ({"ms": 1e3, "us": 1e6}[unit] * seconds for seconds in times[:3])
    return _figure(name, {"unit": unit, "value": value, "low": low, "high": high, "windows": times.windows, **facts})


def _figure(name: str, facts: Mapping[str, Any]) -> Figure:
    """Without the facts that are not known."""
    return {"name": name, **{key: value for key, value in facts.items() if value is not None}}


def planned_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of a compiled program, by XLA's analysis."""
    memory = compiled.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    return int(arguments + outputs - memory.alias_size_in_bytes + memory.temp_size_in_bytes)


def left_out(name: str, reason: str) -> Figure:
    """The figure of what could not be measured here for a reason that is no failure."""
    return {"name": name, "left_out": reason}


def seconds_of(figure: Figure) -> float:
    """Seconds of one step or call of a figure that has a value."""
    if figure["unit"] == "views/s":
        return float(figure["views"] / figure["value"])
    return float(figure["value"] * {"ms": 1e-3, "us": 1e-6}[figure["unit"]])
