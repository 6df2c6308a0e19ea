"""Saving and restoring the training state: orbax for the arrays, a manifest so that damage is seen.

A step folder holds the state and a manifest with one SHA-256 per leaf, computed from the host's copy of the bytes, not
from what was written. Orbax alone restores flipped bits in silence; here a step that differs from its manifest is left
out, with a warning, and the newest intact one is restored. `checkpoint_files` knows the folders and the manifest.

In a run of several processes all of them save and restore together. Digests are those of whole arrays, so that a
state comes back on any number of devices and processes, in whichever placement.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from simclr_jax import atomic_files, base
from simclr_jax.run import checkpoint_files, checkpoint_step, paths

saved_steps = checkpoint_files.saved_steps
DoesNotFit, MayNotRead = checkpoint_step.DoesNotFit, checkpoint_files.MayNotRead


@dataclasses.dataclass
class Checkpoints:
    """A folder of checkpoints that is open: see `open_checkpoints`.

    steps: that were there when it was opened, and those saved since. pending: the one that may still be written.
    writer: None for those who only read.
    """

    directory: pathlib.Path
    keep: int
    scores: Mapping[int, float]
    writer: ocp.AsyncCheckpointer | None
    steps: list[int] = dataclasses.field(default_factory=list)
    pending: int | None = None

    def all_steps(self) -> list[int]:
        """The steps on disk, in order."""
        return saved_steps(self.directory)

    def latest_step(self) -> int | None:
        """The newest step, None if there is none."""
        return max(self.all_steps(), default=None)

    def wait_until_finished(self) -> None:
        """Waits until what was saved last is on disk, and removes what is not to be kept."""
        if self.writer is not None:
            self.writer.wait_until_finished()
            _finish(self)


@contextlib.contextmanager
def open_checkpoints(
    folder: str | pathlib.Path, *, keep: int = 3, scores: Mapping[int, float] | None = None, read_only: bool = False
) -> Iterator[Checkpoints]:
    """The run's checkpoints: writes in the background, atomically; keeps the last `keep` and the best by score.

    Args:
        folder: made if it is not there, unless `read_only`.
        keep: the newest ones, at least 1.
        scores: step -> score, higher is better. Looked at after every save, so entries may be added meanwhile.
        read_only: nothing below the folder is touched, not even what another process has half written.

    Raises:
        base.InputError: `keep` is below 1, Orbax takes the folder for a pattern, it cannot be one, or what was saved
            last is not written.
    """
    paths.check_plain(folder, flag="workdir")
    if keep < 1:
        raise base.InputError(f"train.keep_checkpoints must be at least 1; got {keep}. Use 1 or more.")
    path = pathlib.Path(folder).absolute()
    if read_only:
        yield Checkpoints(path, keep, {}, None)
        return
    with atomic_files.one_line(path, rule="checkpoints are kept in a folder that can be written"):
        path.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        checkpoint_files.remove_half_written(path)
    writer = checkpoint_step.make_writer()
    checkpoints = Checkpoints(path, keep, {} if scores is None else scores, writer, saved_steps(path))
    try:
        yield checkpoints
        finish(checkpoints)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to show
            checkpoints.wait_until_finished()
        if jax.process_index() == 0:
            checkpoint_files.remove_failed(path)
        raise
    finally:
        with contextlib.suppress(Exception):
            writer.close()


def save(checkpoints: Checkpoints, state: base.TrainState, *, step: int) -> None:
    """Starts saving `state` as `step`; returns when the host has its copy, so the state may then be donated.

    Args:
        checkpoints: from `open_checkpoints`.
        state: global arrays in any placement; its own step is `step`.
        step: number of updates made.

    Raises:
        base.InputError: this state, or the one that was being written before, could not be saved.
    """
    if step in checkpoints.steps:
        return
    assert checkpoints.writer is not None, "opened to read only"
    folder = checkpoints.directory
    with checkpoint_step.writing(folder):
        checkpoints.wait_until_finished()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there any more")
        checkpoint_step.start_writing(checkpoints.writer, folder, state._asdict(), step=step)
    checkpoints.steps.append(step)
    checkpoints.pending = step


def finish(checkpoints: Checkpoints) -> None:
    """Waits until what was saved last is on disk; InputError where it cannot be."""
    with checkpoint_step.writing(checkpoints.directory):
        checkpoints.wait_until_finished()


def is_written(checkpoints: Checkpoints) -> bool:
    """Whether everything that was saved is on disk."""
    return checkpoints.pending is None or (checkpoints.directory / str(checkpoints.pending)).is_dir()


def check(checkpoints: Checkpoints) -> None:
    """Raises as soon as it is known that the state being written cannot be; costs next to nothing.

    Raises:
        base.InputError: it could not be saved.
    """
    if checkpoints.pending is None or checkpoints.writer is None:
        return
    with checkpoint_step.writing(checkpoints.directory):
        checkpoints.writer.check_for_errors()
        if is_written(checkpoints):
            _finish(checkpoints)


def _finish(checkpoints: Checkpoints) -> None:
    """What there is to do once a step is on disk."""
    if checkpoints.pending is None:
        return
    if is_written(checkpoints):  # else it has failed, and the ones before are needed
        _remove_outdated(checkpoints)
    checkpoints.pending = None


def _remove_outdated(checkpoints: Checkpoints) -> None:
    if jax.process_index() == 0:
        there = saved_steps(checkpoints.directory)
        best = _best(there, checkpoints.scores)
        old = checkpoint_files.outdated(there, keep=checkpoints.keep, best=best)
        checkpoint_files.remove_steps(checkpoints.directory, old)


def read_back(checkpoints: Checkpoints, like: base.TrainState, *, step: int) -> None:
    """Waits until `step` is on disk and reads it once, on the host: a disk that does not give back what it was given
    is found out at the first save and not when the state is needed.

    In a run of several processes all of them must call it.

    Raises:
        base.InputError: it could not be written, or comes back otherwise than it was saved.
    """
    folder = checkpoints.directory
    with checkpoint_step.writing(folder):
        checkpoints.wait_until_finished()
    # Arrays of NumPy, which orbax then makes too: the device may have no room for a second state.
    on_host = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like._asdict())
    try:
        _restore(checkpoints, on_host, step=step)
    except base.InputError as error:
        raise base.InputError(
            f"What is saved must be readable again; the disk of {folder} does not give it back: {error} Use a "
            "--workdir on another disk."
        ) from error


def restore_latest(
    checkpoints: Checkpoints,
    like: base.TrainState,
    *,
    warn: Callable[[str], None] = warnings.warn,
    any_process: Callable[[bool], bool] = bool,
) -> base.TrainState | None:
    """The newest intact state, placed like `like` (arrays or ShapeDtypeStructs with shardings); None if there is none.

    Newer ones, which are damaged or hold NaN or infinity, are moved into the folder NAME.damaged beside the
    checkpoints.

    Args:
        checkpoints: from `open_checkpoints`.
        like: the target.
        warn: called with a line for every damaged step.
        any_process: flag -> whether it is true in any process of the run; see `distributed.Peers.any`. A step that one
            process cannot read is passed over by all.

    Raises:
        base.InputError: checkpoints exist and none of them is intact.
        MayNotRead: the newest one may not be read by this user; it stays where it is.
        DoesNotFit: the newest intact one is of another network or optimizer; see `restore`.
    """
    folder, steps, damaged = checkpoints.directory, sorted(checkpoints.steps, reverse=True), list[int]()
    target = _abstract(like._asdict())
    for step in steps:
        # Two parts: a process that could not read would be missed while split arrays are collected for their digests.
        saved, problem = _together(functools.partial(checkpoint_step.read, folder, target, step=step), any_process)
        if not problem:
            _, problem = _together(functools.partial(checkpoint_step.check, folder, saved, step=step), any_process)
        if not problem:
            _set_aside(checkpoints, damaged, any_process)
            _remove_outdated(checkpoints)  # there are more where fewer are to be kept now, and the disk may be full
            return base.TrainState(**saved)
        warn(f"{problem} Trying the one before.")
        damaged.append(step)
    if steps:
        raise base.InputError(
            f"A run resumes from an intact checkpoint; all {len(steps)} in {folder} are damaged. "
            "Restore the folder from a copy or start in a new workdir."
        )
    return None


def best_step(checkpoints: Checkpoints, scores: Mapping[int, float]) -> int:
    """The step of the checkpoint with the highest score, or of the latest one where none was scored.

    Raises:
        base.InputError: there is no checkpoint.
    """
    best = _best(checkpoints.all_steps(), scores)
    step = checkpoints.latest_step() if best is None else best
    if step is None:
        raise base.InputError(f"A trained run has a checkpoint; none in {checkpoints.directory}. Train it first.")
    return step


def _best(steps: Iterable[int], scores: Mapping[int, float]) -> int | None:
    scored = [(scores[step], step) for step in steps if math.isfinite(scores.get(step, math.nan))]
    return max(scored)[1] if scored else None


def restore(checkpoints: Checkpoints, like: base.TrainState, *, step: int) -> base.TrainState:
    """The state saved as `step`, placed like `like`.

    Raises:
        base.InputError: unreadable, or not what its manifest says.
        DoesNotFit: arrays are missing, left over, or of another shape or type; the first ones are named.
    """
    return base.TrainState(**_restore(checkpoints, _abstract(like._asdict()), step=step))


def restore_any(checkpoints: Checkpoints, *, step: int) -> dict[str, base.PyTree]:
    """The state saved as `step` as nested dicts on the first local device, without knowing method or optimizer.

    For those who only want the weights: `["params"]["encoder"]`, `["method_state"]["batch_stats"]["encoder"]`.

    Raises:
        base.InputError: unreadable, or not what its manifest says.
    """
    saved = checkpoint_step.saved_shapes(checkpoints.directory, step=step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved)
    return _restore(checkpoints, like, step=step)


def read_chosen(
    folder: pathlib.Path, which: str, *, scores: Mapping[int, float], warn: Callable[[str], None] = warnings.warn
) -> tuple[int, dict[str, base.PyTree]]:
    """(step, its state as `restore_any` gives it) of the checkpoint `which`, for verbs that only read a run.

    Args:
        folder: of the checkpoints. The run may be training: nothing there is touched.
        which: "latest", "best" (by `scores`) or a step. Where the first two are damaged the one before is taken.
        scores: step -> score, higher is better.
        warn: called with a line for every damaged step.

    Raises:
        base.InputError: no such checkpoint, or none that is intact.
    """
    with open_checkpoints(folder, read_only=True) as checkpoints:
        passed = set[int]()
        while steps := [step for step in checkpoints.all_steps() if step not in passed]:
            best = _best(steps, scores) if which == "best" else None
            if which in ("latest", "best"):
                step = steps[-1] if best is None else best
            elif which.isdigit() and int(which) in steps:
                return int(which), restore_any(checkpoints, step=int(which))
            else:
                listed = ", ".join(map(str, steps))
                raise base.InputError(f"checkpoint must be latest, best or one of the steps {listed}; got {which!r}.")
            try:
                return step, restore_any(checkpoints, step=step)
            except base.InputError as error:
                if step in checkpoints.all_steps():  # else the run has removed it by now
                    passed.add(step)
                    warn(f"{error} Trying the one before.")
        if passed:
            raise base.InputError(
                f"A run is read from an intact checkpoint; all {len(passed)} in {folder} are damaged."
            )
    raise base.InputError(f"A trained run has a checkpoint; none in {folder}. Train it first.")


def _set_aside(checkpoints: Checkpoints, steps: list[int], any_process: Callable[[bool], bool]) -> None:
    checkpoints.steps[:] = [step for step in checkpoints.steps if step not in steps]
    if steps:
        if jax.process_index() == 0:
            checkpoint_files.set_aside(checkpoints.directory, steps)
        any_process(False)  # not before they are gone


def _abstract(tree: base.PyTree) -> base.PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), tree)


def _restore(checkpoints: Checkpoints, like: base.PyTree, *, step: int) -> base.PyTree:
    saved = checkpoint_step.read(checkpoints.directory, like, step=step)
    checkpoint_step.check(checkpoints.directory, saved, step=step)
    return saved


def _together(part: Callable[[], Any], any_process: Callable[[bool], bool]) -> tuple[Any, str]:
    """(result of `part`, "") if it succeeded in every process, else (None, why not)."""
    result, problem = None, ""
    try:
        result = part()
    except (DoesNotFit, MayNotRead):
        raise
    except base.InputError as error:
        problem = str(error)
    if any_process(bool(problem)):
        return None, problem or "Another process cannot read the newest checkpoint."
    return result, ""
