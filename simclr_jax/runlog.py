"""What a run writes for people and tools beside its checkpoints, written and read here only.

A workdir holds: config.json (the resolved config), metrics.jsonl (one JSON object a line), events.* (TensorBoard),
results.json (probes and summary), lock (the process that trains in it; .lock is what it holds), checkpoints/ and
report.html.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from simclr_jax import atomic_files, base, paths

_CONFIG, _METRICS, _RESULTS = "config.json", "metrics.jsonl", "results.json"
# What the system locks and what says who did: on Windows nobody else can read a locked file.
_LOCK, _HOLDER = ".lock", "lock"
_PACKAGES = ("simclr-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunLog(NamedTuple):
    """Open files of a run: the metrics file, a tensorboardX writer, and the seconds trained before this process."""

    metrics: Any
    events: Any
    seconds_before: float


def require_run(workdir: str | pathlib.Path) -> pathlib.Path:
    """The workdir as a path; InputError unless a run was started in it."""
    path = pathlib.Path(workdir)
    if not (path / _CONFIG).is_file():
        raise base.InputError(
            f"workdir must be the folder of a run (it holds {_CONFIG}); got {path}. "
            "Start one: simclr-jax train --config=demo --workdir=" + str(path)
        )
    return path


def check_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Compares the config with that of the run which is there, if one is.

    Raises:
        base.InputError: the workdir was made with another config; the keys that differ are named.
    """
    path = workdir / _CONFIG
    mine = json.loads(json.dumps(config))
    if not path.exists():
        return
    theirs = json.loads(path.read_text())
    old, new = flat(theirs), flat(mine)
    changed = [
        f"{key}: {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} asked"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "absent") != new.get(key, "absent")
    ]
    if changed:
        raise base.InputError(
            f"A workdir belongs to one config; {workdir} was made with another: {'; '.join(changed)}. "
            "Use the same values to go on with that run, or another --workdir."
        )


def write_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Keeps the resolved config with the run."""
    write_json(workdir / _CONFIG, config)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The resolved config that the run was started with."""
    return json.loads((workdir / _CONFIG).read_text())


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the workdir for this process; the system frees it however the process ends.

    Raises:
        base.InputError: the folder cannot be written or hold checkpoints, or another process holds it.
    """
    paths.check_plain(workdir, flag="workdir")
    import filelock

    atomic_files.make_folder(workdir, flag="workdir")
    held = filelock.FileLock(str(workdir / _LOCK))
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        raise base.InputError(
            f"One process at a time may train in a workdir; {workdir} is in use by process {lock_holder(workdir)}. "
            "Wait for it, stop it, or use another --workdir."
        ) from error
    except NotImplementedError:
        print(f"{workdir} is on a disk without locks: let no other process train in it.", file=sys.stderr)
    except OSError as error:
        raise base.InputError(f"workdir must be a folder that can be written; {workdir}: {error.strerror}.") from error
    try:
        atomic_files.write_text(workdir / _HOLDER, f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        held.release()


def lock_holder(workdir: pathlib.Path) -> str:
    """What the process that holds the workdir has written into its lock; empty if there is none."""
    path = workdir / _HOLDER
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


@contextlib.contextmanager
def open_log(workdir: pathlib.Path, *, resumed_step: int) -> Iterator[RunLog]:
    """Opens the metrics for appending, dropping rows after `resumed_step`: they will be computed again."""
    import tensorboardX

    path = workdir / _METRICS
    kept = [row for row in read_metrics(workdir) if row["step"] <= resumed_step]
    atomic_files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    events = tensorboardX.SummaryWriter(str(workdir), purge_step=resumed_step + 1 if resumed_step else None)
    with open(path, "a", buffering=1) as metrics:
        try:
            yield RunLog(metrics, events, max((row.get("seconds", 0.0) for row in kept), default=0.0))
        finally:
            events.close()


@contextlib.contextmanager
def silent_log() -> Iterator[RunLog]:
    """A log that writes nothing, for the processes of a run which do not write."""
    yield RunLog(None, None, 0.0)


def write_metrics(log: RunLog, row: Mapping[str, float]) -> None:
    """Appends one row (it has a "step") to metrics.jsonl and to the TensorBoard events."""
    if log.metrics is None:
        return
    log.metrics.write(json.dumps(row) + "\n")
    for name, value in row.items():
        if name != "step":
            log.events.add_scalar(name, value, int(row["step"]))


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
    """All rows of metrics.jsonl; a last line torn by a kill is left out."""
    path = workdir / _METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def update_results(workdir: pathlib.Path, **entries: Any) -> dict[str, Any]:
    """Merges entries into results.json and returns the whole."""
    results = {**read_results(workdir), **entries}
    write_json(workdir / _RESULTS, results)
    return results


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """The content of results.json, empty if there is none."""
    path = workdir / _RESULTS
    return json.loads(path.read_text()) if path.exists() else {}


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


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """section.key -> value of a config."""
    entries: dict[str, Any] = {}
    for key, value in tree.items():
        entries.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return entries
