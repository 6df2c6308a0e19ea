"""Saving and restoring the training state: orbax for the arrays, digests so that damage is seen.

A step folder holds the state and a manifest with one SHA-256 per leaf, computed from the host's copy of the bytes
before anything is written. Orbax alone restores flipped bits in silence; here a step whose digests differ is passed
over for the newest intact one, with a warning.

In a run of several processes all of them save and restore together. Digests are those of whole arrays, so that a
state comes back on any number of devices and processes, in whichever placement.
"""

import contextlib
import functools
import hashlib
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from simclr_jax import base

Checkpoints: TypeAlias = ocp.CheckpointManager
_SCORE = "score"


def open_checkpoints(folder: str | pathlib.Path, *, keep: int = 3) -> Checkpoints:
    """The run's checkpoints: writes in the background, atomically; keeps the last `keep` and the best by score.

    Raises:
        base.InputError: `keep` is below 1.
    """
    if keep < 1:
        raise base.InputError(f"keep_checkpoints must be at least 1; got {keep}. Use 1 or more.")
    policy = checkpoint_managers.AnyPreservationPolicy(
        [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[_SCORE], n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=lambda metrics: metrics[_SCORE],  # without it orbax does not write the metrics to disk
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
    )
    return ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options)


def save(checkpoints: Checkpoints, state: base.TrainState, *, step: int, score: float | None = None) -> None:
    """Starts saving `state` as `step`; returns when the host has its copy, so the state may then be donated.

    Args:
        checkpoints: from `open_checkpoints`.
        state: global arrays in any placement.
        step: number of updates made.
        score: higher is better; decides which checkpoint is the best one. None = not a candidate.
    """
    if step in checkpoints.all_steps():
        return
    checkpoints.save(
        step,
        args=ocp.args.Composite(
            # Orbax writes JSON from process 0 only: the others need not compute what they would not write.
            state=ocp.args.StandardSave(state._asdict()),
            digests=ocp.args.JsonSave(_digests(state._asdict(), compute=jax.process_index() == 0)),
        ),
        metrics=None if score is None else {_SCORE: float(score)},
    )


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
        warn: told of every damaged step.
        any_process: flag -> whether it is true in any process of the run; see `launch.Peers.any`. A step that one
            process cannot read is passed over by all.

    Raises:
        base.InputError: checkpoints exist and none of them is intact.
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


def best_step(checkpoints: Checkpoints) -> int:
    """The step of the checkpoint with the highest score, or of the latest one where none was scored.

    Raises:
        base.InputError: there is no checkpoint.
    """
    scores = {step: (checkpoints.metrics(step) or {}).get(_SCORE) for step in checkpoints.all_steps()}
    scored = [(score, step) for step, score in scores.items() if score is not None]
    step = max(scored)[1] if scored else checkpoints.latest_step()
    if step is None:
        raise base.InputError(f"A trained run has a checkpoint; none in {checkpoints.directory}. Train it first.")
    return step


def restore(checkpoints: Checkpoints, like: base.TrainState, *, step: int) -> base.TrainState:
    """The state saved as `step`, placed like `like`.

    Raises:
        base.InputError: unreadable, of another shape, or its bytes differ from the recorded digests.
    """
    return base.TrainState(**_restore(checkpoints, _abstract(like._asdict()), step=step))


def restore_any(checkpoints: Checkpoints, *, step: int) -> dict[str, base.PyTree]:
    """The state saved as `step` as nested dicts on the first local device, without knowing method or optimizer.

    For those who only want the weights: `["params"]["encoder"]`, `["method_state"]["batch_stats"]["encoder"]`.

    Raises:
        base.InputError: unreadable, or its bytes differ from the recorded digests.
    """
    with _reading(checkpoints, step), ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(checkpoints.directory / str(step) / "state").item_metadata.tree
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved)
    return _restore(checkpoints, like, step=step)


def leaf_digests(tree: base.PyTree) -> dict[str, str]:
    """SHA-256 of every leaf's dtype, shape and bytes, by its path; equal trees have equal digests.

    Arrays that are split over processes are collected one after the other: all processes must call it then.
    """
    return _digests(tree, compute=True)


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


def _read(checkpoints: Checkpoints, like: base.PyTree, *, step: int) -> dict[str, Any]:
    """{"state": ..., "digests": as recorded}."""
    with _reading(checkpoints, step):
        restored = checkpoints.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like), digests=ocp.args.JsonRestore())
        )
    return {"state": restored["state"], "digests": restored["digests"]}


def _check_digests(checkpoints: Checkpoints, saved: dict[str, Any], *, step: int) -> None:
    expected, found = saved["digests"], leaf_digests(saved["state"])
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
        reason = " ".join(str(error).split())[:200]
        raise base.InputError(f"Checkpoint {step} in {checkpoints.directory} cannot be read: {reason}.") from error


def _name(path: tuple[Any, ...]) -> str:
    """A leaf's path, the same whether its parent is a NamedTuple, a dict or, as orbax returns tuples, a list."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _digests(tree: base.PyTree, *, compute: bool) -> dict[str, str]:
    """Digests by path; without `compute` this process only takes part where an array has to be collected."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if compute or not _is_at_hand(leaf):
            array = _whole(leaf)
            found[_name(path)] = _digest(array) if compute else ""
    return found


def _is_at_hand(leaf: Any) -> bool:
    """Whether this process holds all of the array."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _whole(leaf: Any) -> np.ndarray:
    """A leaf as a host array; one whose parts other processes hold is collected first."""
    if not _is_at_hand(leaf):
        assert isinstance(leaf.sharding, jax.sharding.NamedSharding)
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.sharding.PartitionSpec())
        leaf = jax.jit(_same, out_shardings=everywhere)(leaf)
    return np.asarray(leaf)


def _same(x: jax.Array) -> jax.Array:
    """A function of its own, so that JAX compiles it once for every shape and not at every call."""
    return x


def _digest(array: np.ndarray) -> str:
    header = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()
