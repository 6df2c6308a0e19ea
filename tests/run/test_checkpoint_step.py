"""Faults of a step's files, the clock, the folder and the state: each is one line, and an intact step is used."""

import json
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import base
from simclr_jax.run import checkpoint, checkpoint_files
from tests.run.test_checkpoint import aside, assert_same_bits, flip_bit, make_state, restored_step, state_files, write


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoints"), steps=(1, 2))


@pytest.fixture
def folder(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "copy")


def change_manifest(folder, change, *, step=2):
    path = folder / str(step) / "digests" / "metadata"
    path.write_text(change(json.loads(path.read_text())))


def as_older(content, *, names=lambda names: names):
    """The manifest as older runs have it: name -> digest."""
    return json.dumps({name: content["arrays"][name][1] for name in names(sorted(content["arrays"]))})


MANIFESTS = {
    "empty": lambda content: "{}",
    "cut": lambda content: json.dumps(content)[:300],
    "a list": lambda content: "[1, 2]",
    "no arrays": lambda content: json.dumps({**content, "arrays": {}}),
    "older, but for one array": lambda content: as_older(content, names=lambda names: names[1:]),
    "another step": lambda content: json.dumps(checkpoint_files.make_manifest(40, {"a": "b"}, {"a": "c"})),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_that_proves_nothing_is_damage(folder, manifest):
    change_manifest(folder, MANIFESTS[manifest])
    step, warnings = restored_step(folder)
    assert step == 1 and len(warnings) == 1 and "Checkpoint 2" in warnings[0] and "\n" not in warnings[0]


@pytest.mark.parametrize("place", ["digests/metadata", "state/manifest.ocdbt"])
def test_a_pipe_in_the_place_of_a_file_is_damage_and_nobody_waits_for_it(folder, place):
    (folder / "2" / place).unlink()
    os.mkfifo(folder / "2" / place)
    step, warnings = restored_step(folder)
    assert step == 1 and len(warnings) == 1 and f"{place} is no plain file" in warnings[0]


def test_folders_with_names_that_no_save_gives_are_no_steps(folder):
    for name in ("0500", "9\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT FIVE}", "7.orbax-checkpoint-tmp", "8x"):
        (folder / name).mkdir()
    assert checkpoint.saved_steps(folder) == [1, 2] and restored_step(folder) == (2, [])
    assert (folder / "0500").is_dir()


def test_a_run_of_before_goes_on(folder):
    for step in (1, 2):
        change_manifest(folder, as_older, step=step)
    (folder / "2" / "metrics").mkdir()
    (folder / "2" / "metrics" / "metrics").touch()  # orbax kept a score there, whose damage once blocked everything
    assert restored_step(folder) == (2, [])


@pytest.mark.parametrize("change", [json.dumps, as_older], ids=["its manifest", "its state"])
def test_a_state_in_the_folder_of_another_step_is_not_that_step(folder, change):
    shutil.copytree(folder / "1", folder / "43")
    change_manifest(folder, change, step=43)
    step, warnings = restored_step(folder)
    assert step == 2 and len(warnings) == 1 and "Checkpoint 43" in warnings[0] and "not that step" in warnings[0]
    with checkpoint.open_checkpoints(folder) as checkpoints:  # and later steps can be saved again
        checkpoint.save(checkpoints, make_state(3), step=3)
    assert restored_step(folder) == (3, [])


def test_orbax_list_of_arrays_that_is_damaged_is_not_another_network(folder):
    """A digit of a shape changed: by orbax alone the checkpoint would be one of a wider network."""
    path = folder / "2" / "state" / "_METADATA"
    assert "37" in path.read_text()
    path.write_text(path.read_text().replace("37", "38"))
    step, warnings = restored_step(folder)
    assert (step, len(warnings)) in ((1, 1), (2, 0))


def test_a_state_with_nan_is_never_gone_on_from_nor_given_to_readers(tmp_path):
    folder = write(tmp_path / "run", steps=(1,))
    state = make_state(2)
    state.params["encoder"]["bn"]["scale"] = jnp.ones(37).at[3].set(jnp.nan)
    with checkpoint.open_checkpoints(folder) as checkpoints:
        checkpoint.save(checkpoints, state, step=2)
    said = []
    assert checkpoint.read_chosen(folder, "latest", scores={}, warn=said.append)[0] == 1
    step, warnings = restored_step(folder)
    assert step == 1
    for lines in (said, warnings):
        assert len(lines) == 1 and "NaN or infinity in 1 arrays, the first is params/encoder/bn/scale" in lines[0]


def test_readers_fall_back_as_training_does_and_touch_nothing(folder):
    flip_bit(state_files(folder, 2)[0])
    before, said = sorted(folder.rglob("*")), []
    for which in ("latest", "best"):
        step, state = checkpoint.read_chosen(folder, which, scores={2: 0.9, 1: 0.1}, warn=said.append)
        assert step == 1
        assert_same_bits(state["params"], make_state(1).params)
    assert len(said) == 2 and all("Trying the one before" in line for line in said)
    with pytest.raises(base.InputError, match=r"Checkpoint 2 in .* is damaged"):
        checkpoint.read_chosen(folder, "2", scores={})
    flip_bit(state_files(folder, 1)[0])
    with pytest.raises(base.InputError, match=r"all 2 in .* are damaged"):
        checkpoint.read_chosen(folder, "latest", scores={}, warn=said.append)
    assert sorted(folder.rglob("*")) == before and not aside(folder).exists()


def test_a_run_may_be_read_while_it_saves_every_step(tmp_path):
    folder = write(tmp_path / "run", steps=(1,))
    states = {step: make_state(step) for step in (7, 8)}
    with checkpoint.open_checkpoints(folder, keep=1) as checkpoints:
        for step in range(2, 12):
            state = states[7]._replace(step=jnp.asarray(step, jnp.int32))
            checkpoint.save(checkpoints, state, step=step)
            found, read = checkpoint.read_chosen(folder, "latest", scores={}, warn=pytest.fail)
            assert found in (step - 1, step) and int(read["step"]) == found
    assert checkpoint.saved_steps(folder) == [11]


def test_a_clock_that_jumps_does_not_end_a_save(tmp_path, monkeypatch):
    began, calls = time.time(), iter(range(10**6))
    with checkpoint.open_checkpoints(tmp_path / "run") as checkpoints:
        monkeypatch.setattr(time, "time", lambda: began + 400 * 86400.0 * (next(calls) % 2))
        for step in (1, 2):
            checkpoint.save(checkpoints, make_state(step), step=step)
            checkpoints.wait_until_finished()
        monkeypatch.undo()
    assert restored_step(tmp_path / "run") == (2, [])


def test_a_step_that_may_not_be_read_is_named_and_stays_where_it_is(folder, monkeypatch):
    def refuse(path, *args, **how):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: "metadata" not in str(path))
    with pytest.raises(checkpoint.MayNotRead, match="metadata: permission denied"):
        restored_step(folder)
    assert not aside(folder).exists()


def test_a_folder_that_vanishes_is_one_line(tmp_path):
    with (
        pytest.raises(base.InputError, match=r"could not be written .* not there any more") as caught,
        checkpoint.open_checkpoints(tmp_path / "run") as checkpoints,
    ):
        checkpoint.save(checkpoints, make_state(1), step=1)
        checkpoints.wait_until_finished()
        shutil.rmtree(tmp_path / "run")
        checkpoint.save(checkpoints, make_state(2), step=2)
    assert "\n" not in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "far")
    for name in ("run", "link"):
        with pytest.raises(base.InputError, match="can be written"), checkpoint.open_checkpoints(tmp_path / name):
            pass


def test_what_was_being_removed_when_a_kill_came_is_no_step(folder):
    os.replace(folder / "2", folder / "2.orbax-checkpoint-tmp-removed")
    assert restored_step(folder) == (1, [])
    assert [path.name for path in folder.iterdir()] == ["1"]


def test_digests_are_those_of_the_moment_of_saving(tmp_path):
    """The state may be donated as soon as `save` returns, and the digests are computed later."""
    with checkpoint.open_checkpoints(tmp_path / "run") as checkpoints:
        state = make_state(1)
        checkpoint.save(checkpoints, state, step=1)
        jax.tree.map(lambda leaf: leaf.delete(), state)
    assert restored_step(tmp_path / "run") == (1, [])
