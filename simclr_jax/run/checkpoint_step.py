"""One step of a run's checkpoints: its arrays through orbax, its manifest, and one line for what is wrong with it.

Whatever orbax raises (it raises many kinds) is one line here. Which step is used is decided in `checkpoint`.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from simclr_jax import base
from simclr_jax.run import checkpoint_files, tree_digests

# Ten years: orbax takes the time of a save by the wall clock, which jumps when a computer wakes up or finds a server.
# Processes that wait for one that is stuck are ended by `distributed.Peers`.
_NO_TIME_LIMIT = 10 * 365 * 24 * 3600


class DoesNotFit(base.InputError):
    """An intact checkpoint of another network, optimizer or number of classes than the run's."""


class _ManifestHandler(ocp.AsyncCheckpointHandler):
    """Lets orbax write the manifest among the step's files once its digests are computed, in the background."""

    async def async_save(self, directory: Any, args: Any) -> list[Any]:
        """Returns what orbax has to wait for before the step may appear."""
        return [ocp.future.CommitFutureAwaitingContractedSignals(self._write(directory, args.make))]

    async def _write(self, directory: Any, make: Callable[[], dict[str, Any]]) -> None:
        if jax.process_index() == 0:
            (directory / "metadata").write_text(json.dumps(make()))

    def save(self, directory: Any, args: Any) -> None:
        """The same for those who wait; part of orbax's protocol."""
        (directory / "metadata").write_text(json.dumps(args.make()))

    def restore(self, directory: Any, args: Any = None) -> Any:
        """The manifest; part of orbax's protocol."""
        return base.parse_json((directory / "metadata").read_text())


@ocp.args.register_with_handler(_ManifestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _Manifest(ocp.args.CheckpointArgs):
    """What `_ManifestHandler` writes, made when it is written."""

    make: Callable[[], dict[str, Any]]


def make_writer() -> ocp.AsyncCheckpointer:
    """What writes steps in the background, one after the other."""
    options = ocp.AsyncOptions(timeout_secs=_NO_TIME_LIMIT, create_directories_asynchronously=False)
    composite = ocp.CompositeOptions(async_options=options)
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(composite_options=composite), async_options=options)


def start_writing(writer: ocp.AsyncCheckpointer, folder: pathlib.Path, tree: base.PyTree, *, step: int) -> None:
    """Starts writing `tree` as `step`; returns when the host has its copies, so the arrays may then be donated."""
    digests = tree_digests.start_digests(tree, compute=jax.process_index() == 0)
    make = functools.partial(_manifest, step, tree_digests.leaf_shapes(tree), digests)
    args = {checkpoint_files.STATE: ocp.args.StandardSave(tree), checkpoint_files.MANIFEST: _Manifest(make)}
    writer.save(folder / str(step), args=ocp.args.Composite(**args), force=True)


def _manifest(step: int, shapes: Mapping[str, str], digests: Callable[[], dict[str, str]]) -> dict[str, Any]:
    return checkpoint_files.make_manifest(step, shapes, digests())


def saved_shapes(folder: pathlib.Path, *, step: int) -> base.PyTree:
    """The tree of what was saved as `step`, with shapes and types for leaves."""
    with _reading(folder, step):
        path = epath.Path(folder / str(step) / checkpoint_files.STATE)
        tree = ocp.StandardCheckpointHandler().metadata(path).tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _check_fits(folder: pathlib.Path, like: base.PyTree, *, step: int) -> None:
    wanted = tree_digests.leaf_shapes(like)
    # By the manifest, which has a digest of its own: orbax's list of arrays may be what is damaged.
    saved = checkpoint_files.read_manifest(folder, step).shapes
    saved = saved or tree_digests.leaf_shapes(saved_shapes(folder, step=step))
    differing = [
        f"{name}: {saved.get(name, 'nothing')} there, {wanted.get(name, 'nothing')} asked"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise DoesNotFit(
            f"Checkpoint {step} in {folder} is intact but of another network or optimizer; "
            f"{'; '.join(differing[:3])}{more}. Ask for what the run was started with, or start in a new --workdir."
        )


def read(folder: pathlib.Path, like: base.PyTree, *, step: int) -> dict[str, Any]:
    """The arrays saved as `step`, typed and placed like `like`; not yet compared with the manifest, see `check`.

    Raises:
        base.InputError: it cannot be read.
        checkpoint_files.MayNotRead: this user may not.
        DoesNotFit: arrays are missing, left over, or of another shape or type.
    """
    _check_fits(folder, like, step=step)
    with _reading(folder, step):
        # The handler itself: a checkpointer would let the other processes wait where one cannot read.
        path = epath.Path(folder / str(step) / checkpoint_files.STATE)
        return ocp.StandardCheckpointHandler().restore(path, args=ocp.args.StandardRestore(like))


def check(folder: pathlib.Path, saved: base.PyTree, *, step: int) -> None:
    """Raises InputError unless the state is the one that was saved as `step`, all of it, and finite."""
    expected = checkpoint_files.read_manifest(folder, step).digests
    found = tree_digests.leaf_digests(saved)
    where = f"Checkpoint {step} in {folder}"
    differing = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if differing:
        raise base.InputError(
            f"{where} is damaged: {len(differing)} arrays differ from its manifest, the first is {differing[0]}."
        )
    if int(saved["step"]) != step:
        raise base.InputError(f"{where} is not that step: the state in it is that of step {int(saved['step'])}.")
    bad = tree_digests.nonfinite_leaves(saved)
    if bad:
        raise base.InputError(f"{where} has NaN or infinity in {len(bad)} arrays, the first is {bad[0]}.")


@contextlib.contextmanager
def _reading(folder: pathlib.Path, step: int) -> Iterator[None]:
    """Turns whatever orbax raises while reading (it raises many kinds) into one line that names the checkpoint."""
    try:
        yield
    except Exception as error:
        checkpoint_files.check_readable(folder, step)
        reason = base.one_line(error, 200) or type(error).__name__
        raise base.InputError(f"Checkpoint {step} in {folder} cannot be read: {reason}.") from error


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Turns whatever a save has failed with into an InputError of one line that says what is left."""
    try:
        yield
    except base.InputError:
        raise
    except Exception as error:
        steps = checkpoint_files.saved_steps(folder)
        newest = f"the newest good one is step {steps[-1]}" if steps else "none was saved before"
        raise base.InputError(
            f"A checkpoint could not be written to {folder}: {_reason(error, folder)}; {newest}. Make room or mend the "
            "disk; the same command then goes on from there."
        ) from error


def _reason(error: Exception, folder: pathlib.Path) -> str:
    """Why a write failed. Where the disk is full, the libraries' words are pages about which file was the first."""
    if not folder.is_dir():
        return "the folder is not there any more"
    free = shutil.disk_usage(folder).free
    if "No space left" in str(error) or free < 2**16:
        return f"no space is left on the disk ({free / 1e6:.1f} MB free)"
    return base.one_line(error, 300) or type(error).__name__
