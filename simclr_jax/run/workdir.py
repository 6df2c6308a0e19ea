"""What a run writes for users and tools beside its checkpoints, written and read here only.

A workdir holds: config.json (the resolved config), metrics.jsonl (one JSON object a line), events.* (TensorBoard),
results.json (probes and summary), lock (the process that trains in it; .lock is what it holds), checkpoints/ and
report.html. .config.json is a copy of config.json, for the case that it is damaged. Who reads a run writes nothing of
these; who trains holds the lock.
"""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from simclr_jax import atomic_files, base
from simclr_jax.run import checkpoint_files, locking, paths, progress, small_files

_CONFIG, _METRICS, _RESULTS = "config.json", "metrics.jsonl", "results.json"
_COPY, _CHECKPOINTS = ".config.json", "checkpoints"
# What results.json holds, beside numbers and text.
_KINDS = {"probes": list, "transfer": dict, "guards": dict, "label_free": dict, "diagnosis": list, "environment": dict}
_PACKAGES = ("simclr-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunLog(NamedTuple):
    """Open files of a run: the metrics file, the TensorBoard events, and the seconds trained before this process.

    warn: called once with a line when a row could not be written; a log never stops the training.
    """

    metrics: Any
    events: Any
    seconds_before: float
    warn: Callable[[str], None]


def require_run(workdir: str | pathlib.Path) -> pathlib.Path:
    """The workdir as a path; InputError unless a run was started in it."""
    path = pathlib.Path(workdir)
    if not has_config(path):
        raise base.InputError(
            f"workdir must be the folder of a run (it holds {_CONFIG}); got {path}. "
            "Start one: simclr-jax train --config=demo --workdir=" + str(path)
        )
    return path


def has_config(workdir: pathlib.Path) -> bool:
    """Whether a run was started in the workdir."""
    return (workdir / _CONFIG).is_file()


def seed_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of the runs that `train --seeds` made in `folder`, by seed; empty if there are none."""
    found = [path for path in folder.glob("seed-*") if path.name[5:].isdigit() and has_config(path)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def write_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Keeps the resolved config with the run, and a copy of it."""
    for name in (_CONFIG, _COPY):
        small_files.write(workdir / name, config)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The resolved config that the run was started with; where its file is damaged, that of its copy, with a line.

    Raises:
        base.InputError: both are damaged, or hold something else than sections.
    """
    try:
        return _checked_config(workdir / _CONFIG)
    except (FileNotFoundError, base.InputError) as error:
        reason = str(error) if isinstance(error, base.InputError) else f"{workdir / _CONFIG} is not there."
    try:
        config = _checked_config(workdir / _COPY)
    except (FileNotFoundError, base.InputError) as error:
        raise base.InputError(
            f"{reason} Put back a copy of it; or remove it and start the run again with its --config: the checkpoints "
            "stay."
        ) from error
    progress.say(f"{reason} Its copy {_COPY} is used. (To keep a change made by hand, remove the entry sha256.)")
    return config


def _checked_config(path: pathlib.Path) -> dict[str, Any]:
    config = small_files.read(path)
    wrong = [name for name in ("data", "encoder", "method", "train") if not isinstance(config.get(name, {}), dict)]
    if wrong:
        raise small_files.Damaged(f"{path} must have the section {wrong[0]}; it holds something else.")
    return config


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the workdir for this process; the system frees it however the process ends.

    Raises:
        base.InputError: the folder cannot be written or hold checkpoints, or another process holds it.
    """
    paths.check_plain(workdir, flag="workdir")
    with atomic_files.one_line(workdir, rule="workdir must be a folder that can be written"):
        workdir.mkdir(parents=True, exist_ok=True)
    for name in (_CONFIG, _METRICS, _RESULTS):
        small_files.check_place(workdir / name)
    rule, remedy = "One process at a time may train in a workdir", "Wait for it, stop it, or use another --workdir."
    with locking.only_process(workdir, flag="workdir", rule=rule, remedy=remedy):
        checkpoint_files.remove_half_written(workdir / _CHECKPOINTS)
        yield


def lock_holder(workdir: pathlib.Path) -> str:
    """What the process that holds the workdir has written into its lock; empty if there is none."""
    return locking.holder(workdir)


@contextlib.contextmanager
def open_log(
    workdir: pathlib.Path, *, resumed_step: int, warn: Callable[[str], None] = warnings.warn
) -> Iterator[RunLog]:
    """Opens the metrics for appending, dropping rows after `resumed_step`: they will be computed again."""
    # The synchronous half of tensorboardX: its thread ends on a full disk, and waiting for it would never end.
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2

    path = workdir / _METRICS
    rows, damaged = small_files.read_rows(path)
    kept = [row for row in rows if row["step"] <= resumed_step]
    if damaged:
        warn(f"{damaged} lines of {path} were torn or damaged and are left out.")
    small_files.check_place(path)
    atomic_files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    events = event_file_writer.EventsWriter(str(workdir / "events"))
    if resumed_step:
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        events.write_event(event_pb2.Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))
    with open(path, "a", buffering=1) as metrics:
        log = RunLog(metrics, events, max((row.get("seconds", 0.0) for row in kept), default=0.0), _once(warn))
        try:
            yield log
        finally:
            with _not_deciding(log):
                events.close()


@contextlib.contextmanager
def silent_log() -> Iterator[RunLog]:
    """A log that writes nothing, for the processes of a run which do not write."""
    yield RunLog(None, None, 0.0, warnings.warn)


def write_metrics(log: RunLog, row: Mapping[str, float]) -> None:
    """Appends one row (it has a "step") to metrics.jsonl and to the TensorBoard events."""
    if log.metrics is None:
        return
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2

    with _not_deciding(log):
        log.metrics.write(json.dumps(row) + "\n")
        now, step = time.time(), int(row["step"])
        for name, value in row.items():
            if name != "step":
                event = event_pb2.Event(wall_time=now, step=step, summary=summary.scalar(name, value))
                log.events.write_event(event)
        log.events.flush()


@contextlib.contextmanager
def _not_deciding(log: RunLog) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warn(f"Metrics cannot be written, the training goes on without: {error.strerror or error}.")


def _once(warn: Callable[[str], None]) -> Callable[[str], None]:
    said: list[str] = []

    def warn_once(line: str) -> None:
        if line not in said:
            said.append(line)
            warn(line)

    return warn_once


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
    """All rows of metrics.jsonl; lines that are torn by a kill, or damaged, are left out."""
    return small_files.read_rows(workdir / _METRICS)[0]


def read_scores(workdir: pathlib.Path) -> dict[int, float]:
    """Step -> kNN accuracy while training, of all steps that were evaluated."""
    return {int(row["step"]): row["knn_accuracy"] for row in read_metrics(workdir) if "knn_accuracy" in row}


def read_evaluated(workdir: pathlib.Path) -> set[int]:
    """The steps that were evaluated while training, with labels or without."""
    return {int(row["step"]) for row in read_metrics(workdir) if "evaluation_seconds" in row}


def update_results(workdir: pathlib.Path, **entries: Any) -> dict[str, Any]:
    """Merges entries into results.json and returns the whole."""
    results = {**read_results(workdir), **entries}
    small_files.write(workdir / _RESULTS, results)
    return results


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """The content of results.json; empty if there is none, or if it is damaged, which a line says."""
    path = workdir / _RESULTS
    try:
        results = small_files.read(path)
        wrong = [name for name, kind in _KINDS.items() if not isinstance(results.get(name, kind()), kind)]
        if wrong or not all(isinstance(row, dict) for row in results.get("probes", [])):
            raise small_files.Damaged(f"{path} holds something else than results in {(*wrong, 'probes')[0]}.")
        return results
    except FileNotFoundError:
        return {}
    except base.InputError as error:
        progress.say(f"{error} It is left out; simclr-jax evaluate writes it anew.")
        return {}


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON; readers see the old or the new file, never half of one."""
    atomic_files.write_text(path, json.dumps(value, indent=2) + "\n")


def environment() -> dict[str, str]:
    """Versions of what computes the numbers, for the record of a run."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}", **versions}
