"""Checkpoints come back bit for bit, the right ones are kept, and a damaged one is never used."""

import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, optim
from simclr_jax.run import checkpoint, tree_digests


def make_state(seed=0, *, width=37):
    """A state with nested NamedTuples (LARS keeps its momentum in some), several dtypes and an empty part."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "encoder": {"conv": {"kernel": jax.random.normal(keys[0], (3, 3, 3, width))}, "bn": {"scale": jnp.ones(width)}},
        "projection_head": {"kernel": jax.random.normal(keys[1], (width, 5)).astype(jnp.bfloat16)},
    }
    tx = optim.make_optimizer("lars", learning_rate=lambda step: 0.1, weight_decay=1e-4)
    _, opt_state = tx.update(params, tx.init(params), params)
    method_state = {"batch_stats": {"encoder": {"mean": jax.random.normal(keys[2], (width,))}, "projection_head": {}}}
    return base.TrainState(jnp.asarray(seed, jnp.int32), params, method_state, opt_state)


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def write(folder, *, steps, keep=3, scores=None):
    known = {step: score for step, score in (scores or {}).items() if step < min(steps)}
    with checkpoint.open_checkpoints(folder, keep=keep, scores=known) as checkpoints:
        for step in steps:
            checkpoint.save(checkpoints, make_state(step), step=step)
            known.update({key: score for key, score in (scores or {}).items() if key <= step})
    return folder


def aside(folder):
    """Where damaged checkpoints are kept."""
    return folder.with_name(f"{folder.name}.damaged")


def state_files(folder, step):
    """The files that hold the arrays of a step and their index, the largest first."""
    files = [path for path in (pathlib.Path(folder) / str(step) / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def restored_step(folder, like=None):
    """(step restored or None, warnings)."""
    warnings = []
    with checkpoint.open_checkpoints(folder) as checkpoints:
        state = checkpoint.restore_latest(checkpoints, make_state() if like is None else like, warn=warnings.append)
    if state is not None and like is None:
        assert_same_bits(state, make_state(int(state.step)))
    return (None if state is None else int(state.step)), warnings


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoints"), steps=(1, 2))


@pytest.fixture
def folder(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "copy")


def test_a_state_comes_back_bit_for_bit(two_steps):
    with checkpoint.open_checkpoints(two_steps) as checkpoints:
        for step in (1, 2):
            assert_same_bits(checkpoint.restore(checkpoints, make_state(), step=step), make_state(step))


def test_the_newest_state_is_restored_without_a_warning(two_steps):
    assert restored_step(two_steps) == (2, [])


def test_shapes_are_enough_to_restore_into(two_steps):
    like = jax.eval_shape(make_state)
    with checkpoint.open_checkpoints(two_steps) as checkpoints:
        assert_same_bits(checkpoint.restore_latest(checkpoints, like), make_state(2))


def test_an_empty_folder_has_no_state(tmp_path):
    assert restored_step(tmp_path / "none") == (None, [])


def test_restore_any_needs_no_target(two_steps):
    with checkpoint.open_checkpoints(two_steps) as checkpoints:
        state = checkpoint.restore_any(checkpoints, step=2)
    expected = make_state(2)
    assert_same_bits(state["params"], expected.params)
    assert_same_bits(state["method_state"]["batch_stats"]["encoder"], expected.method_state["batch_stats"]["encoder"])
    assert int(state["step"]) == 2


def test_the_last_and_the_best_are_kept_also_after_reopening(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.3, 4: 0.4, 5: 0.5, 6: float("nan")}
    write(tmp_path, steps=range(1, 5), keep=2, scores=scores)
    write(tmp_path, steps=(5, 6), keep=2, scores=scores)
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        assert sorted(checkpoints.all_steps()) == [2, 5, 6]
        assert checkpoint.best_step(checkpoints, scores) == 2
        assert_same_bits(checkpoint.restore(checkpoints, make_state(), step=2), make_state(2))


def test_without_scores_the_best_is_the_latest(two_steps, tmp_path):
    with checkpoint.open_checkpoints(two_steps) as checkpoints:
        assert checkpoint.best_step(checkpoints, {}) == 2
    with checkpoint.open_checkpoints(tmp_path) as checkpoints, pytest.raises(base.InputError, match="none in"):
        checkpoint.best_step(checkpoints, {1: 0.5})


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": flip_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": pathlib.Path.unlink,
}


@pytest.mark.few(1)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_never_changes_a_bit_and_the_step_before_it_is_used(folder, damage):
    """`restored_step` compares every bit. Orbax leaves files that it does not read again: those may be damaged."""
    noticed = []
    for path in state_files(folder, 2):
        content = path.read_bytes()
        DAMAGE[damage](path)
        step, warnings = restored_step(folder)
        assert (step, len(warnings)) in ((1, 1), (2, 0))
        assert all("\n" not in warning and "Checkpoint 2" in warning for warning in warnings)
        if warnings:
            noticed.append(path)
            shutil.move(aside(folder) / "2", folder / "2")
        path.write_bytes(content)
    assert state_files(folder, 2)[0] in noticed and folder / "2" / "state" / "manifest.ocdbt" in noticed
    assert restored_step(folder) == (2, [])


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "digests"])
def test_a_step_with_a_missing_part_is_passed_over(folder, name):
    parts = list((folder / "2").rglob(name))
    assert parts
    for part in parts:
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    step, warnings = restored_step(folder)
    assert step == 1 and len(warnings) == 1


def test_when_every_checkpoint_is_damaged_the_user_is_told(folder):
    for step in (1, 2):
        flip_bit(state_files(folder, step)[0])
    with pytest.raises(base.InputError) as caught:
        restored_step(folder)
    assert "\n" not in str(caught.value)
    with checkpoint.open_checkpoints(folder) as checkpoints, pytest.raises(base.InputError, match="Checkpoint 2"):
        checkpoint.restore_any(checkpoints, step=2)


def test_a_state_of_another_shape_does_not_fit_and_is_not_called_damaged(folder):
    with checkpoint.open_checkpoints(folder) as checkpoints:
        for restore in (checkpoint.restore_latest, lambda *args: checkpoint.restore(*args, step=2)):
            with pytest.raises(checkpoint.DoesNotFit) as caught:
                restore(checkpoints, make_state(width=38))
            message = str(caught.value)
            assert (
                "projection_head/kernel" in message or "encoder/mean: float32[37] there, float32[38] asked" in message
            )
            assert "damaged" not in message and "\n" not in message
    assert restored_step(folder) == (2, []) and not aside(folder).exists()


def test_missing_and_additional_arrays_and_other_types_do_not_fit(two_steps):
    state = make_state()
    more = state._replace(params={**state.params, "supervised_head": {"bias": jnp.zeros(3)}})
    fewer = state._replace(params={"encoder": state.params["encoder"]})
    wider = state._replace(step=jnp.zeros((), jnp.uint32))
    expected = {
        "params/supervised_head/bias: nothing there, float32[3] asked": more,
        "params/projection_head/kernel: bfloat16[37, 5] there, nothing asked": fewer,
        "step: int32[] there, uint32[] asked": wider,
    }
    with checkpoint.open_checkpoints(two_steps, read_only=True) as checkpoints:
        for said, like in expected.items():
            with pytest.raises(checkpoint.DoesNotFit) as caught:
                checkpoint.restore(checkpoints, like, step=2)
            assert said in str(caught.value)


def test_readers_leave_a_save_in_progress_alone(folder):
    half = folder / "3.orbax-checkpoint-tmp"
    half.mkdir()
    before = sorted(path for path in folder.rglob("*"))
    with checkpoint.open_checkpoints(folder, read_only=True) as checkpoints:
        assert_same_bits(checkpoint.restore(checkpoints, make_state(), step=2), make_state(2))
    assert sorted(path for path in folder.rglob("*")) == before


def test_what_is_saved_is_read_back(tmp_path):
    with checkpoint.open_checkpoints(tmp_path / "good") as checkpoints:
        checkpoint.save(checkpoints, make_state(1), step=1)
        checkpoint.read_back(checkpoints, make_state(), step=1)
    with (
        pytest.raises(base.InputError, match="must be readable again"),
        checkpoint.open_checkpoints(tmp_path / "bad") as checkpoints,
    ):
        checkpoint.save(checkpoints, make_state(1), step=1)
        checkpoints.wait_until_finished()
        flip_bit(state_files(tmp_path / "bad", 1)[0])
        checkpoint.read_back(checkpoints, make_state(), step=1)


FILLED = """
import pathlib, resource, sys, time
from simclr_jax import base
from simclr_jax.run import checkpoint, progress
from tests.run.test_checkpoint import make_state
progress.quiet_libraries()
try:
    with checkpoint.open_checkpoints(sys.argv[1], keep=1) as checkpoints:
        checkpoint.save(checkpoints, make_state(1), step=1)
        checkpoints.wait_until_finished()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as if the disk took no more
        checkpoint.save(checkpoints, make_state(2), step=2)
        for _ in range(1000):  # the updates meanwhile
            checkpoint.check(checkpoints)
            time.sleep(0.02)
        print("not noticed")
except base.InputError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_the_steps_before(tmp_path):
    """The writers in the background print nothing, also while the interpreter ends."""
    command = [sys.executable, "-c", FILLED, str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == "" and ended.stdout.count("\n") == 1
    assert "could not be written" in ended.stdout and "the newest good one is step 1" in ended.stdout
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["1"]
    assert restored_step(tmp_path / "run") == (1, [])


def test_leaf_digests_tell_values_dtypes_shapes_and_names_apart():
    leaf = np.zeros((2, 3), np.float32)
    others = [leaf + 1e-45, leaf.view(np.int32), leaf.reshape(3, 2), leaf.astype(np.float64), -leaf]
    assert len({tree_digests.leaf_digests({"a": x})["a"] for x in [leaf, *others]}) == 1 + len(others)
    assert tree_digests.leaf_digests({"a": {"b": leaf}}).keys() == {"a/b"}
    assert tree_digests.leaf_digests({"a": jnp.asarray(leaf)}) == tree_digests.leaf_digests({"a": leaf})


def test_what_a_kill_left_half_written_is_removed(folder):
    half = folder / "3.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_text("half")
    assert restored_step(folder) == (2, [])
    assert not half.exists()


def test_a_step_is_saved_once_and_keep_is_checked(folder):
    with checkpoint.open_checkpoints(folder) as checkpoints:
        checkpoint.save(checkpoints, make_state(9), step=2)
    assert restored_step(folder) == (2, [])
    with (
        pytest.raises(base.InputError, match=r"train\.keep_checkpoints must be at least 1; got 0"),
        checkpoint.open_checkpoints(folder, keep=0),
    ):
        pass


def test_a_step_that_was_damaged_can_be_saved_again_and_the_damaged_one_is_kept_aside(folder):
    flip_bit(state_files(folder, 2)[0])
    with checkpoint.open_checkpoints(folder) as checkpoints:
        state = checkpoint.restore_latest(checkpoints, make_state(), warn=lambda line: None)
        assert int(state.step) == 1
        checkpoint.save(checkpoints, make_state(2), step=2)
    assert restored_step(folder) == (2, [])
    assert [path.name for path in aside(folder).iterdir()] == ["2"]
