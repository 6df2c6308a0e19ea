"""Runs of `simclr-jax train` in pieces: each call trains for some minutes, the next one goes on, a log adds it all up.

A run is a folder with the run itself (`run/`), its compiled programs (`compiled/`, so that only the first piece
compiles) and `calls.json`, the clock of every call: from the start of the process to its end, with importing,
compiling and evaluating in it. A piece ends at the deadline (SIGTERM; the run saves itself), at a score that is
enough, or with the run.
"""

import json
import pathlib
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks import children
from simclr_jax.run import workdir as workdir_lib

PACKAGES = ("jax", "jaxlib", "flax", "optax")
# A stopped run finishes its dispatch, may be evaluating, and saves; whoever does not within this is ended.
PATIENCE_SECONDS = 45.0
# No piece begins with less than this left: it would hardly have compiled.
LEAST_SECONDS = 60.0
_STARTED = ("Compiling the training step", "Going on from step")
_SCORED = "kNN accuracy on the test split"
_DEVICES = re.compile(r" steps, (\d+ x .+)\. A loss of ")

# Environment and overrides of a run that a CPU makes within a minute; what is measured means nothing.
QUICK = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
TINY: Mapping[str, Any] = {
    "data.name": "photo-patches",
    "split.label_fraction": 0.1,
    "encoder.name": "resnet10",
    "encoder.width_multiplier": 0.125,
    "encoder.dtype": "float32",
}

# (folder of the run, line that it said) -> what to stop it for, "" to let it go on.
Verdict = Callable[[pathlib.Path, str], str]


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
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.ended in ("reached", "finished")

    @property
    def best(self) -> float | None:
        """The best accuracy so far."""
        return max((accuracy for _, _, accuracy in self.scores), default=None)

    def first(self, target: float) -> tuple[float, int, float] | None:
        """The first score of at least `target`, in [0, 1]."""
        return next((score for score in self.scores if score[2] >= target), None)


class Plan(NamedTuple):
    """Some runs, one after another.

    folder: of all of them. runs: name of its folder -> (config, seed). overrides: section.key -> value of the configs.
    verdict: may stop a run. environment: added to that of the runs.
    """

    folder: pathlib.Path
    runs: Mapping[str, tuple[str, int]]
    overrides: Mapping[str, Any]
    verdict: Verdict = lambda folder, line: ""
    environment: Mapping[str, str] = {}

    @property
    def folders(self) -> list[pathlib.Path]:
        """Of all runs, in their order."""
        return [self.folder / name for name in self.runs]


def make_all(plan: Plan, clock: children.Clock, *, then: Callable[[pathlib.Path], bool] = lambda folder: True) -> bool:
    """Goes on with the runs of a plan until the clock has run down; returns whether all are at their end.

    `then` is called for every run that is, and tells whether it has done what it does. A run that fails is an error.
    """
    for folder in plan.folders:
        if not read(folder).is_over:
            if clock.left < LEAST_SECONDS:
                return False
            ended = go_on(folder, plan, clock)
            if ended.ended and not ended.is_over:
                raise RuntimeError(f"{folder.name}: {ended.ended}")
            if not ended.ended:
                return False
        if not then(folder):
            return False
    return True


def train_words(config: str, overrides: Mapping[str, Any]) -> list[str]:
    """The words of `simclr-jax train` but for the workdir."""
    return ["-m", "simclr_jax", "train", f"--config={config}"] + [f"--config.{k}={v}" for k, v in overrides.items()]


def go_on(folder: pathlib.Path, plan: Plan, clock: children.Clock) -> Summary:
    """One piece of a run, noted in its log, asked to stop at the end of the clock; returns all pieces together."""
    config, seed = plan.runs[folder.name]
    folder.mkdir(parents=True, exist_ok=True)
    calls, begin = _read_calls(folder), time.monotonic()
    call: dict[str, Any] = {"began": time.strftime("%Y-%m-%d %H:%M:%S"), "seconds": 0.0, "scores": [], "ended": ""}

    def listen(line: str) -> bool:
        call["seconds"] = time.monotonic() - begin
        if line:
            print(line, file=sys.stderr, flush=True)
        if line.startswith(_STARTED):
            call["starting"] = call["seconds"]
        if found := _DEVICES.search(line):
            call["devices"] = found[1]
        if _SCORED in line:
            call["scores"].append((call["seconds"], int(line.split()[1].partition("/")[0])))
        call["ended"] = call["ended"] or (plan.verdict(folder, line) if line else "")
        # Now, so that the time is not lost should this process be killed.
        workdir_lib.write_json(folder / "calls.json", [*calls, call])
        return bool(call["ended"])

    environment = children.environment({"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), **plan.environment})
    words = train_words(config, {**plan.overrides, "seed": seed})
    command = [sys.executable, *words, f"--workdir={folder / 'run'}"]
    ended = children.run(command, clock, environment=environment, listen=listen, patience=PATIENCE_SECONDS)
    call["seconds"] = time.monotonic() - begin
    if ended.status == 0:
        call["ended"] = call["ended"] or "finished"
    elif ended.status not in (128 + signal.SIGTERM, -signal.SIGTERM):  # the latter before it had begun to listen
        call["ended"] = ended.reason
    workdir_lib.write_json(folder / "calls.json", [*calls, call])
    return read(folder)


def read(folder: pathlib.Path) -> Summary:
    """All pieces of the run in `folder` together; of one that was never started, zeros."""
    calls, rows = _read_calls(folder), workdir_lib.read_metrics(folder / "run")
    accuracies, before = workdir_lib.read_scores(folder / "run"), 0.0
    scores: dict[int, tuple[float, int, float]] = {}
    for call in calls:
        for seconds, step in call["scores"]:
            if step in accuracies:  # a step that was done again after a kill counts when it was done again
                scores[step] = ((before + seconds) / 60, step, accuracies[step])
        before += call["seconds"]

    def values(name: str) -> list[float]:
        return [row[name] for row in rows if name in row]

    rates = values("images_per_second")
    return Summary(
        minutes=before / 60,
        starting=sum(call.get("starting", 0.0) for call in calls),
        compiling=sum(values("first_dispatch_seconds")),
        evaluating=sum(values("evaluation_seconds")),
        scores=tuple(sorted(scores.values())),
        epochs=max(values("epoch"), default=0.0),
        peak_bytes=max(map(int, values("peak_bytes")), default=None),
        images_per_second=statistics.median(rates) if rates else None,
        devices=next((call["devices"] for call in reversed(calls) if "devices" in call), ""),
        ended=calls[-1]["ended"] if calls else "",
    )


def _read_calls(folder: pathlib.Path) -> list[dict[str, Any]]:
    path = folder / "calls.json"
    return json.loads(path.read_text()) if path.exists() else []


def reaching(target: float) -> Verdict:
    """Stops a run as "reached" once its newest kNN accuracy is at least `target`, in [0, 1]."""

    def verdict(folder: pathlib.Path, line: str) -> str:
        # The line is rounded, the log is not; it is written first.
        scores = list(workdir_lib.read_scores(folder / "run").values()) if _SCORED in line else []
        return "reached" if scores and scores[-1] >= target else ""

    return verdict


def data_title(overrides: Mapping[str, Any]) -> str:
    """What tables call a data set; the JPEG copy of CIFAR-10 must not be taken for CIFAR-10."""
    name = str(overrides.get("data.name", "tfds:cifar10"))
    if "cifar10" not in name.lower().replace("-", "").replace("_", ""):
        return name
    return "CIFAR-10" if name == "tfds:cifar10" else "CIFAR-10 (JPEG)"


def tiny_folder(workdir: pathlib.Path | None) -> pathlib.Path:
    """An empty folder for a tiny form: below the workdir, where it cannot be taken for a run, or a temporary one."""
    if workdir is None:
        return pathlib.Path(tempfile.mkdtemp(prefix="tiny-"))
    folder = workdir / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    return folder
