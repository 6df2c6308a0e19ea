"""Runs of `simclr-jax train` in pieces: each call trains for some minutes, the next one goes on, a log adds it all up.

A run is a folder with the run itself (`run/`), its compiled programs (`compiled/`, so that only the first piece
compiles) and `calls.json`, the clock of every call: from the start of the process to its end, with importing,
compiling and evaluating in it. A piece ends at the deadline (SIGTERM; the run saves itself), at a score that is
enough, or with the run.
"""

import contextlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import timing
from simclr_jax.run import workdir as workdir_lib

# A stopped run finishes its dispatch, may be evaluating, and saves; whoever does not within this is ended.
PATIENCE_SECONDS = 45.0
_STARTED = ("Compiling the training step", "Going on from step")
_SCORED = "kNN accuracy on the test split"
_DEVICES = re.compile(r" steps, (\d+ x .+)\. A loss of ")

# Overrides of a run that a CPU makes within a minute; what is measured means nothing.
TINY: Mapping[str, Any] = {
    "data.name": "photo-patches",
    "split.label_fraction": 0.1,
    "encoder.name": "resnet10",
    "encoder.width_multiplier": 0.125,
    "encoder.dtype": "float32",
}

# line that the run said -> what to stop it for, "" to let it go on.
Verdict = Callable[[str], str]


class Summary(NamedTuple):
    """All calls of a run together; seconds are on the clock.

    minutes: of all calls. starting, compiling, evaluating: seconds of them. scores: (minutes since the run's first
    start, step, accuracy), in their order. epochs: made. peak_bytes: of device memory, None where it is not told.
    images_per_second: median of the log's lines, None before the first. devices: what the last call ran on.
    ended: "" while there is more to do, "reached" with a score that was enough, "finished" after the last step, else
    what went wrong.
    """

    minutes: float
    starting: float
    compiling: float
    evaluating: float
    scores: tuple[tuple[float, int, float], ...]
    epochs: float
    peak_bytes: int | None
    images_per_second: float | None
    devices: str
    ended: str

    @property
    def best(self) -> float | None:
        """The best accuracy so far."""
        return max((accuracy for _, _, accuracy in self.scores), default=None)

    def first(self, target: float) -> tuple[float, int, float] | None:
        """The first score of at least `target`, in [0, 1]."""
        return next((score for score in self.scores if score[2] >= target), None)


class Clock:
    """The seconds that are left of a call of this many minutes."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds, negative afterwards."""
        return self._end - time.monotonic()

    def stop(self) -> None:
        """Nothing is left of it from now on."""
        self._end = min(self._end, time.monotonic())


class _Child:
    """The process of a run, which is asked to stop once only: a second signal would end it without saving."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        # In a session of its own, so that Ctrl-C reaches it through this process alone.
        self.process = subprocess.Popen(
            command, env=dict(environment), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._asked = False

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, the first time."""
        if not self._asked and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._asked = True


def tiny_folder(workdir: pathlib.Path | None) -> pathlib.Path:
    """An empty folder for a tiny form: below the workdir, where it cannot be taken for a run, or a temporary one."""
    if workdir is None:
        return pathlib.Path(tempfile.mkdtemp(prefix="tiny-"))
    folder = workdir / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def child_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `more`; this checkout is imported first, then what came on PYTHONPATH."""
    paths = [str(timing.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def train_words(config: str, overrides: Mapping[str, Any]) -> list[str]:
    """The words of `simclr-jax train` but for the workdir."""
    return ["-m", "simclr_jax", "train", f"--config={config}"] + [f"--config.{k}={v}" for k, v in overrides.items()]


def go_on(
    folder: pathlib.Path,
    words: Sequence[str],
    *,
    clock: Clock,
    verdict: Verdict = lambda line: "",
    environment: Mapping[str, str] | None = None,
) -> Summary:
    """One piece of the run in `folder`, noted in its log; returns all pieces together.

    Args:
        folder: of the run.
        words: behind the interpreter; see `train_words`.
        clock: of this call; the run is asked to stop when nothing is left of it.
        verdict: asked about every line that the run says; what it answers is why the run is stopped.
        environment: added to this process's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    calls, before = _read_calls(folder), workdir_lib.read_metrics(folder / "run")
    begin = time.monotonic()
    call: dict[str, Any] = {"began": time.strftime("%Y-%m-%d %H:%M:%S"), "seconds": 0.0, "scores": [], "ended": ""}
    more = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), **(environment or {})}
    command = [sys.executable, *words, f"--workdir={folder / 'run'}"]
    child, last = _Child(command, child_environment(more)), ""
    with _ended_with_this(child, clock):
        for line in _lines(child, clock):
            last, call["seconds"] = line or last, time.monotonic() - begin
            if line.startswith(_STARTED):
                call["starting"] = call["seconds"]
            if found := _DEVICES.search(line):
                call["devices"] = found[1]
            if _SCORED in line:
                call["scores"].append((call["seconds"], int(line.split()[1].partition("/")[0])))
            call["ended"] = call["ended"] or (verdict(line) if line else "")
            if call["ended"]:
                child.ask_to_stop()
            _note(folder, calls, call, before)
    call["seconds"], status = time.monotonic() - begin, child.process.returncode
    if status == 0:
        call["ended"] = call["ended"] or "finished"
    elif status not in (128 + signal.SIGTERM, -signal.SIGTERM):  # the latter before it had begun to listen
        call["ended"] = f"exit {status}: {last[:200]}"
    _note(folder, calls, call, before)
    return read(folder)


def read(folder: pathlib.Path) -> Summary:
    """All pieces of the run in `folder` together; of one that was never started, zeros."""
    calls, rows = _read_calls(folder), workdir_lib.read_metrics(folder / "run")
    scores: dict[int, tuple[float, int, float]] = {}
    before = 0.0
    for call in calls:
        for seconds, step, accuracy in call["scores"]:
            if accuracy is not None:  # a step that was done again after a kill counts when it was done again
                scores[step] = ((before + seconds) / 60, step, accuracy)
        before += call["seconds"]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    total = {name: sum(call.get(name, 0.0) for call in calls) for name in ("starting", "compiling", "evaluating")}
    return Summary(
        minutes=before / 60,
        **total,
        scores=tuple(sorted(scores.values())),
        epochs=max((row["epoch"] for row in rows if "epoch" in row), default=0.0),
        peak_bytes=max((int(row["peak_bytes"]) for row in rows if "peak_bytes" in row), default=None),
        images_per_second=statistics.median(rates) if rates else None,
        devices=next((call["devices"] for call in reversed(calls) if "devices" in call), ""),
        ended=calls[-1]["ended"] if calls else "",
    )


def reaching(folder: pathlib.Path, target: float) -> Verdict:
    """Stops a run as "reached" once its newest kNN accuracy is at least `target`, in [0, 1]."""

    def verdict(line: str) -> str:
        # The line is rounded, the log is not; it is written first.
        rows = (
            [row for row in workdir_lib.read_metrics(folder / "run") if "knn_accuracy" in row]
            if _SCORED in line
            else []
        )
        return "reached" if rows and rows[-1]["knn_accuracy"] >= target else ""

    return verdict


def minutes_and_share(seconds: float, minutes: float) -> str:
    """For a table: seconds of a run, and their share of its minutes."""
    return f"{seconds:.0f} s ({100 * seconds / 60 / minutes:.0f} %)" if minutes else "-"


def mean_and_spread(values: Sequence[float], form: str) -> str:
    """For a table: the mean, and the standard deviation of the sample where there are two or more."""
    if not values:
        return "-"
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def data_title(name: str) -> str:
    """What tables call a data set; the JPEG copy of CIFAR-10 must not be taken for CIFAR-10."""
    if "cifar10" not in name.lower().replace("-", "").replace("_", ""):
        return name
    return "CIFAR-10" if name == "tfds:cifar10" else "CIFAR-10 (JPEG)"


def _note(folder: pathlib.Path, calls: list[dict], call: dict[str, Any], before: list[dict]) -> None:
    """Writes the log with this call as far as it has come: should this process be killed, its time is not lost."""
    rows = workdir_lib.read_metrics(folder / "run")
    same = sum(1 for _ in _common(before, rows))
    new = rows[same:]
    accuracies = {int(row["step"]): row["knn_accuracy"] for row in new if "knn_accuracy" in row}
    scores = [(seconds, step, accuracies.get(step)) for seconds, step, *_ in call["scores"]]
    compiling = sum(row.get("first_dispatch_seconds", 0.0) for row in new)
    evaluating = sum(row.get("evaluation_seconds", 0.0) for row in new)
    noted = {**call, "scores": scores, "compiling": compiling, "evaluating": evaluating}
    workdir_lib.write_json(folder / "calls.json", [*calls, noted])


def _common(one: list[dict], other: list[dict]) -> Iterator[dict]:
    """The rows with which both begin."""
    for a, b in zip(one, other, strict=False):
        if a != b:
            return
        yield a


def _read_calls(folder: pathlib.Path) -> list[dict[str, Any]]:
    path = folder / "calls.json"
    return json.loads(path.read_text()) if path.exists() else []


def _lines(child: _Child, clock: Clock) -> Iterator[str]:
    """What the run says, line by line, and passed on; "" about once a second.

    At the end of the clock the run is asked to stop.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def read_on() -> None:
        assert child.process.stderr is not None
        with child.process.stderr as stream:
            for line in stream:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read_on, daemon=True).start()
    while True:
        if clock.left <= 0:
            child.ask_to_stop()
        if clock.left <= -PATIENCE_SECONDS:
            child.process.kill()
        try:
            line = lines.get(timeout=1.0)
        except queue.Empty:
            line = ""
        if line is None:
            child.process.wait()
            return
        if line:
            print(line, file=sys.stderr, flush=True)
        yield line


@contextlib.contextmanager
def _ended_with_this(child: _Child, clock: Clock) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the clock; whatever else ends this process ends the run."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    previous = {number: signal.signal(number, lambda number, frame: clock.stop()) for number in numbers}
    try:
        yield
    except BaseException:
        child.process.kill()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
