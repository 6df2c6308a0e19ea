"""Saving and restoring the training state: orbax for the arrays, digests so that damage is seen.

A step folder holds the state and a manifest with one SHA-256 per leaf, computed from the host's copy of the bytes
before anything is written. Orbax alone restores flipped bits in silence; here a step whose digests differ is left out,
with a warning, and the newest intact one is restored.

In a run of several processes all of them save and restore together. Digests are those of whole arrays, so that a
state comes back on any number of devices and processes, in whichever placement.
"""

import contextlib
import functools
import math
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from simclr_jax import base
from simclr_jax.run import paths, tree_digests

Checkpoints: TypeAlias = ocp.CheckpointManager


class DoesNotFit(base.InputError):
    """An intact checkpoint of another network, optimizer or number of classes than the run's."""


class _Best(NamedTuple):
    """Keeps the checkpoint with the highest score; a policy of orbax."""

    scores: Mapping[int, float]

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: checkpoint_managers.PreservationContext
    ) -> list[bool]:
        del context
        best = _best((checkpoint.step for checkpoint in checkpoints), self.scores)
        return [checkpoint.step == best for checkpoint in checkpoints]


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
        base.InputError: `keep` is below 1, Orbax takes the folder for a pattern, or what was saved last is not written.
    """
    paths.check_plain(folder, flag="workdir")
    if keep < 1:
        raise base.InputError(f"train.keep_checkpoints must be at least 1; got {keep}. Use 1 or more.")
    kept = [checkpoint_managers.LatestN(keep), _Best({} if scores is None else scores)]
    path = pathlib.Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(
        preservation_policy=None if read_only else checkpoint_managers.AnyPreservationPolicy(kept),
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=True,
    )
    checkpoints = ocp.CheckpointManager(path, options=options)
    try:
        yield checkpoints
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to show
            checkpoints.close()
        if not read_only:
            _remove_half_written(path)
        raise
    try:
        with _writing(path):
            checkpoints.close()
    finally:
        if not read_only:
            _remove_half_written(path)


def save(checkpoints: Checkpoints, state: base.TrainState, *, step: int) -> None:
    """Starts saving `state` as `step`; returns when the host has its copy, so the state may then be donated.

    Args:
        checkpoints: from `open_checkpoints`.
        state: global arrays in any placement.
        step: number of updates made.

    Raises:
        base.InputError: this state, or the one that was being written before, could not be saved.
    """
    if step in checkpoints.all_steps():
        return
    with _writing(pathlib.Path(checkpoints.directory)):
        checkpoints.save(
            step,
            args=ocp.args.Composite(
                # Orbax writes JSON from process 0 only: the others need not compute what they would not write.
                state=ocp.args.StandardSave(state._asdict()),
                digests=ocp.args.JsonSave(tree_digests.leaf_digests(state._asdict(), compute=jax.process_index() == 0)),
            ),
        )


def read_back(checkpoints: Checkpoints, like: base.TrainState, *, step: int) -> None:
    """Waits until `step` is on disk and reads it once, on the host: a disk that does not give back what it was given
    is found out at the first save and not when the state is needed.

    In a run of several processes all of them must call it.

    Raises:
        base.InputError: it could not be written, or comes back otherwise than it was saved.
    """
    folder = pathlib.Path(checkpoints.directory)
    with _writing(folder):
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


def saved_steps(folder: pathlib.Path) -> list[int]:
    """The steps with a state in the folder, in order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit() and path.is_dir())


def restore_latest(
    checkpoints: Checkpoints,
    like: base.TrainState,
    *,
    warn: Callable[[str], None] = warnings.warn,
    any_process: Callable[[bool], bool] = bool,
) -> base.TrainState | None:
    """The newest intact state, placed like `like` (arrays or ShapeDtypeStructs with shardings); None if there is none.

    Newer ones, which are damaged, are moved into the folder NAME.damaged beside the checkpoints: orbax would not save
    the same steps, nor any older one, again.

    Args:
        checkpoints: from `open_checkpoints`.
        like: the target.
        warn: called with a line for every damaged step.
        any_process: flag -> whether it is true in any process of the run; see `distributed.Peers.any`. A step that one
            process cannot read is passed over by all.

    Raises:
        base.InputError: checkpoints exist and none of them is intact.
        DoesNotFit: the newest intact one is of another network or optimizer; see `restore`.
    """
    steps, damaged = sorted(checkpoints.all_steps(), reverse=True), list[int]()
    target = _abstract(like._asdict())
    for step in steps:
        # Two parts: a process that could not read would be missed while split arrays are collected for their digests.
        saved, problem = _together(functools.partial(_read, checkpoints, target, step=step), any_process)
        if not problem:
            check = functools.partial(_check_digests, checkpoints, saved, step=step)
            _, problem = _together(check, any_process)
        if not problem:
            _set_aside(checkpoints, damaged, any_process)
            return base.TrainState(**saved["state"])
        warn(f"{problem} Trying the one before.")
        damaged.append(step)
    if steps:
        raise base.InputError(
            f"A run resumes from an intact checkpoint; all {len(steps)} in {checkpoints.directory} are damaged. "
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
        base.InputError: unreadable, or its bytes differ from the recorded digests.
        DoesNotFit: arrays are missing, left over, or of another shape or type; the first ones are named.
    """
    return base.TrainState(**_restore(checkpoints, _abstract(like._asdict()), step=step))


def restore_any(checkpoints: Checkpoints, *, step: int) -> dict[str, base.PyTree]:
    """The state saved as `step` as nested dicts on the first local device, without knowing method or optimizer.

    For those who only want the weights: `["params"]["encoder"]`, `["method_state"]["batch_stats"]["encoder"]`.

    Raises:
        base.InputError: unreadable, or its bytes differ from the recorded digests.
    """
    saved = _saved_shapes(checkpoints, step=step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved)
    return _restore(checkpoints, like, step=step)


def _set_aside(checkpoints: Checkpoints, steps: list[int], any_process: Callable[[bool], bool]) -> None:
    folder = pathlib.Path(checkpoints.directory)
    for step in steps if jax.process_index() == 0 else []:
        target = folder.with_name(f"{folder.name}.damaged") / str(step)
        shutil.rmtree(target, ignore_errors=True)  # an older one of the same step
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder / str(step), target)
    if steps:
        any_process(False)  # not before they are gone
        checkpoints.reload()


def _abstract(tree: base.PyTree) -> base.PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), tree)


def _restore(checkpoints: Checkpoints, like: base.PyTree, *, step: int) -> base.PyTree:
    saved = _read(checkpoints, like, step=step)
    _check_digests(checkpoints, saved, step=step)
    return saved["state"]


def _saved_shapes(checkpoints: Checkpoints, *, step: int) -> base.PyTree:
    """The tree of what was saved as `step`, with shapes and types for leaves."""
    with _reading(checkpoints, step), ocp.StandardCheckpointer() as reader:
        tree = reader.metadata(checkpoints.directory / str(step) / "state").item_metadata.tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _check_fits(checkpoints: Checkpoints, like: base.PyTree, *, step: int) -> None:
    saved, wanted = (tree_digests.leaf_shapes(tree) for tree in (_saved_shapes(checkpoints, step=step), like))
    differing = [
        f"{name}: {saved.get(name, 'nothing')} there, {wanted.get(name, 'nothing')} asked"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise DoesNotFit(
            f"Checkpoint {step} in {checkpoints.directory} is intact but of another network or optimizer; "
            f"{'; '.join(differing[:3])}{more}. Ask for what the run was started with, or start in a new --workdir."
        )


def _read(checkpoints: Checkpoints, like: base.PyTree, *, step: int) -> dict[str, Any]:
    """{"state": ..., "digests": as recorded}."""
    _check_fits(checkpoints, like, step=step)
    with _reading(checkpoints, step):
        restored = checkpoints.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like), digests=ocp.args.JsonRestore())
        )
    return {"state": restored["state"], "digests": restored["digests"]}


def _check_digests(checkpoints: Checkpoints, saved: dict[str, Any], *, step: int) -> None:
    expected, found = saved["digests"], tree_digests.leaf_digests(saved["state"])
    damaged = [name for name in expected if expected[name] != found.get(name)]
    if damaged:
        raise base.InputError(
            f"Checkpoint {step} in {checkpoints.directory} is damaged: {len(damaged)} arrays differ from their "
            f"digests, the first is {damaged[0]}."
        )


def _together(part: Callable[[], Any], any_process: Callable[[bool], bool]) -> tuple[Any, str]:
    """(result of `part`, "") if it succeeded in every process, else (None, why not)."""
    result, problem = None, ""
    try:
        result = part()
    except DoesNotFit:
        raise
    except base.InputError as error:
        problem = str(error)
    if any_process(bool(problem)):
        return None, problem or "Another process cannot read the newest checkpoint."
    return result, ""


@contextlib.contextmanager
def _reading(checkpoints: Checkpoints, step: int) -> Iterator[None]:
    """Turns whatever orbax raises while reading (it raises many kinds) into one line that names the checkpoint."""
    try:
        yield
    except Exception as error:
        reason = base.one_line(error, 200) or type(error).__name__
        raise base.InputError(f"Checkpoint {step} in {checkpoints.directory} cannot be read: {reason}.") from error


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """Turns whatever a save in the background has failed with into one line that says what is left."""
    try:
        yield
    except base.InputError:
        raise
    except Exception as error:
        steps = saved_steps(folder)
        newest = f"the newest good one is step {steps[-1]}" if steps else "none was saved before"
        raise base.InputError(
            f"A checkpoint could not be written to {folder}: {_reason(error, folder)}; {newest}. Make room or mend the "
            "disk; the same command then goes on from there."
        ) from error


def _reason(error: Exception, folder: pathlib.Path) -> str:
    """Why a write failed. Where the disk is full, the libraries' words are pages about which file was the first."""
    free = shutil.disk_usage(folder).free if folder.is_dir() else None
    if "No space left" in str(error) or (free is not None and free < 2**16):
        return f"no space is left on the disk ({(free or 0) / 1e6:.1f} MB free)"
    return base.one_line(error, 300) or type(error).__name__


def _remove_half_written(folder: pathlib.Path) -> None:
    """Frees what a save that failed has left; only who holds the run's lock may call it."""
    tries = 40 if jax.process_index() == 0 else 0  # a writer in the background that has not failed yet may add files
    while tries and (left := list(folder.glob("*.orbax-checkpoint-tmp*"))):
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        tries -= 1
        time.sleep(0.05)
