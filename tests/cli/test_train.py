"""The whole training program on a run of seconds: resuming, stopping, diverging, refusing."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import __main__ as program
from simclr_jax import base
from simclr_jax.cli import train, train_run
from simclr_jax.run import checkpoint, setup, stopping, training_loop, tree_digests
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

# A step of this run takes milliseconds, so that a kill hits any phase of the program.
OVERRIDES = [
    "--config.augment.image_size=8",
    "--config.augment.color_jitter_probability=0.0",  # half of the time to compile
    "--config.augment.grayscale_probability=0.0",
    "--config.train.batch_size=32",
    "--config.train.log_every_steps=1",
    "--config.train.checkpoint_every_steps=5",
    "--config.train.evaluate_every_epochs=0.4",
]


def settings(*overrides: str) -> dict:
    return config_lib.load_file("smoke", *OVERRIDES, *overrides).to_dict()


def start(workdir: pathlib.Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "simclr_jax", "train", "--config=smoke", f"--workdir={workdir}"]
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [*command, *OVERRIDES, *overrides], env={**os.environ, **cache}, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(workdir: pathlib.Path, step: int) -> None:
    for _ in range(1200):
        if any(row["step"] >= step for row in workdir_lib.read_metrics(workdir)):
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached in two minutes")


def final_digests(workdir: pathlib.Path) -> tuple[int, dict[str, str]]:
    with checkpoint.open_checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
        assert step is not None
        return step, tree_digests.leaf_digests(checkpoint.restore_any(checkpoints, step=step))


@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_ends_with_the_same_bits_as_one_that_was_not(tmp_path):
    whole = start(tmp_path / "whole")
    said = whole.communicate(timeout=250)[1]
    assert whole.returncode == 0, said

    broken = tmp_path / "broken"
    moment = np.random.default_rng(time.time_ns()).uniform(0, 0.5)
    killed = start(broken)
    wait_for_step(broken, 6)
    time.sleep(moment)
    killed.kill()
    killed.communicate(timeout=60)

    stopped = start(broken)
    wait_for_step(broken, 20)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM
    assert "The same command goes on from here" in stopped.communicate()[1]

    ended = start(broken)
    said = ended.communicate(timeout=250)[1]
    assert ended.returncode == 0 and "Going on from step" in said, said
    assert final_digests(broken) == final_digests(tmp_path / "whole"), f"killed {moment:.3f} s after step 6"
    # A step that starts a process is left out of the log, as its rate would include compiling; the others agree.
    one, other = (
        [(row["step"], row["loss"]) for row in workdir_lib.read_metrics(folder) if "loss" in row]
        for folder in (tmp_path / "whole", broken)
    )
    assert len(other) == len(dict(other)) > 30 and set(other) <= set(one)


@pytest.fixture(scope="module")
def built():
    """The run of `settings()`, built once, so that every test here trains with the program that is compiled already."""
    return setup.make_run(settings())


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("train") / "whole"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(setup, "make_run", lambda values: built)
        assert train.main(config=settings(), workdir=str(folder)) == 0
    return folder


def test_training_lowers_the_loss_and_leaves_what_the_other_verbs_need(whole):
    rows = workdir_lib.read_metrics(whole)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert any("knn_accuracy" in row for row in rows)
    parts = {name: seconds for name, seconds in rows[-1].items() if name.endswith("_seconds")}
    wall = parts.pop("wall_seconds")
    assert len(parts) == 5 and min(parts.values()) >= 0 and parts["evaluating_seconds"] > 0
    assert 0 < rows[-1]["goodput"] < 1 and rows[-1]["goodput"] * wall + sum(parts.values()) == pytest.approx(wall)
    assert 0 < rows[-1]["idle_share"] < 1 and "roofline_share" not in rows[-1]  # nobody knows a CPU's peak
    kept = workdir_lib.read_config(whole)
    assert kept["seed"] == 0 and (settings()["feed"]["kind"], kept["feed"]["kind"]) == ("auto", "canvas")
    assert final_digests(whole)[0] == rows[-1]["step"] == 43  # 1348 * 1 // 32 + 1
    for index, row in enumerate(rows):  # an accuracy is that of a state which is saved already
        if "knn_accuracy" in row:
            assert all(later["step"] >= row["step"] for later in rows[index:])
    with pytest.raises(base.InputError, match=r"seed: 0 there, 1 asked"):
        train.main(config=settings("--config.seed=1"), workdir=str(whole))


def test_a_run_that_was_stopped_ends_with_the_same_bits_as_one_that_was_not(whole, built, tmp_path, monkeypatch):
    """Stopped by a signal between two checkpoints, and what is left then copied as a kill would leave it."""
    signals = {12: signal.SIGTERM}

    def draw(step):
        if step in signals:
            os.kill(os.getpid(), signals.pop(step))
        return built.feed.draw(step)

    monkeypatch.setattr(setup, "make_run", lambda values: built._replace(feed=built.feed._replace(draw=draw)))
    assert train.main(config=settings(), workdir=str(tmp_path)) == 128 + signal.SIGTERM
    assert final_digests(tmp_path)[0] == 13
    shutil.rmtree(tmp_path / "checkpoints" / "13")  # killed: the newest checkpoint is older than the log
    assert train.main(config=settings(), workdir=str(tmp_path)) == 0
    assert final_digests(tmp_path) == final_digests(whole)
    one, other = (
        [(row["step"], row["loss"]) for row in workdir_lib.read_metrics(folder) if "loss" in row]
        for folder in (whole, tmp_path)
    )
    # The step that starts a process is left out of the log.
    assert len(other) == len(dict(other)) and set(other) == {(step, loss) for step, loss in one if step != 11}


@pytest.mark.slow
def test_chunks_group_norm_and_streaming_train_together(tmp_path):
    overrides = ["--config.train.num_chunks=4", "--config.encoder.norm=group", "--config.encoder.remat=blocks"]
    streamed = ["--config.train.max_resident_gigabytes=1e-6", "--config.train.num_epochs=0.3"]
    assert train.main(config=settings(*overrides, *streamed), workdir=str(tmp_path)) == 0
    rows = [row["loss"] for row in workdir_lib.read_metrics(tmp_path) if "loss" in row]
    assert len(rows) > 5 and np.isfinite(rows).all()


@pytest.mark.slow
def test_a_diverging_run_stops_with_the_step_and_keeps_its_checkpoints_finite(tmp_path, capsys):
    overrides = ["--config.optimizer.name=sgd", "--config.schedule.base_learning_rate=1e30"]
    assert train.main(config=settings(*overrides), workdir=str(tmp_path)) == train_run.EXIT_DIVERGED
    said = capsys.readouterr().err
    assert "non-finite" in said and "seed 0" in said and "a lower schedule.base_learning_rate" in said
    with checkpoint.open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in checkpoints.all_steps():
            state = checkpoint.restore_any(checkpoints, step=step)
            leaves = [np.isfinite(leaf).all() for leaf in state["params"]["encoder"]["stem"]["conv1"].values()]
            assert all(leaves)


def test_a_state_that_an_update_made_non_finite_is_never_saved_nor_reported_as_done(
    built, tmp_path, monkeypatch, capsys
):
    """Loss and gradient of the last update are finite, and what it left is not."""

    def poisoned(state, *arguments):
        state, metrics = built.train_steps(state, *arguments)
        if int(state.step) == poisoned_step:
            state = state._replace(params=jax.tree.map(lambda leaf: leaf.at[...].set(jnp.nan), state.params))
        return state, metrics

    monkeypatch.setattr(setup, "make_run", lambda values: built._replace(num_steps=7, train_steps=poisoned))
    for poisoned_step, saved, remedy in ((5, [], "may use the same --workdir"), (7, [5], "--config.init.workdir=")):
        assert train.main(config=settings(), workdir=str(tmp_path)) == train_run.EXIT_DIVERGED
        said = capsys.readouterr().err
        assert f"the update to step {poisoned_step} made the state non-finite" in said and "seed 0" in said
        assert remedy in said and "Done" not in said
        assert checkpoint.saved_steps(tmp_path / "checkpoints") == saved


def test_a_rollback_goes_on_from_the_newest_checkpoint_with_the_images_that_follow(
    built, tmp_path, monkeypatch, capsys
):
    """Update 7 gives a loss of NaN, whatever it starts from: it is left out and the run comes to its end."""
    drawn = []

    def draw(step):
        drawn.append(step)
        return built.feed.draw(step)

    def poisoned(state, *arguments):
        state, metrics = built.train_steps(state, *arguments)
        return state, {**metrics, "loss": metrics["loss"] * (jnp.nan if drawn[-1] == 7 else 1.0)}

    changed = built._replace(num_steps=11, train_steps=poisoned, feed=built.feed._replace(draw=draw))
    monkeypatch.setattr(setup, "make_run", lambda values: changed)
    assert train.main(config=settings(), workdir=str(tmp_path)) == train_run.EXIT_DIVERGED
    noted = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (noted["update"], noted["seed"], noted["saved_steps"]) == (7, 0, [5]) and len(noted["examples"]) == 32
    drawn.clear()
    assert train.main(config=settings(), workdir=str(tmp_path), on_nonfinite="rollback") == 0
    assert drawn == [5, 6, 7, 8, 9, 10]
    assert "going back to step 5, on to step 8 without it" in capsys.readouterr().err
    assert final_digests(tmp_path)[0] == 11


def test_the_noted_command_replays_a_divergence_to_the_same_update_and_gradient(built, tmp_path, monkeypatch, capsys):
    """Weights that grow thirtyfold with every update overflow by themselves, after a checkpoint."""

    def growing(state, *arguments):
        state, metrics = built.train_steps(state, *arguments)
        return state._replace(params=jax.tree.map(lambda x: 30 * x, state.params)), metrics

    monkeypatch.setattr(setup, "make_run", lambda values: built._replace(num_steps=43, train_steps=growing))
    assert train.main(config=settings(), workdir=str(tmp_path)) == train_run.EXIT_DIVERGED
    noted = json.loads((tmp_path / "nonfinite.json").read_text())
    norms = noted["gradient_norms"]
    assert {"encoder/stem", "encoder/block_group1", "projection_head"} <= norms.keys()
    assert noted["saved_steps"] and noted["update"] >= noted["saved_steps"][-1]
    assert any(isinstance(norm, str) for norm in norms.values())  # which JSON has no number for
    (tmp_path / "nonfinite.json").unlink()
    assert program.main(shlex.split(noted["replay"])[1:]) == train_run.EXIT_DIVERGED
    assert json.loads((tmp_path / "nonfinite.json").read_text()) == noted
    assert f"Going on from step {noted['saved_steps'][-1]}" in capsys.readouterr().err


@pytest.fixture
def of_unlabelled(tmp_path):
    """The settings of a run on pictures that lie in no folder of a class."""
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (9 + number % 3, 12, 3), np.uint8)).save(photos / f"{number}.png")
    return settings(f"--config.data.name=folder:{photos}", "--config.data.cache_dir=", "--config.train.batch_size=8")


def test_a_run_on_an_unlabelled_folder_has_nothing_to_probe(of_unlabelled):
    run = setup.make_run(of_unlabelled)  # a tenth of the 40 pictures is held out, and not of use here
    assert run.test_set is None and len(run.train_set.images) == 36 and not (run.train_set.labels >= 0).any()


@pytest.mark.slow
def test_an_unlabelled_folder_trains_without_probes(of_unlabelled, tmp_path):
    assert train.main(config=of_unlabelled, workdir=str(tmp_path / "run")) == 0
    assert not any("knn_accuracy" in row for row in workdir_lib.read_metrics(tmp_path / "run"))


@pytest.mark.slow
def test_a_finished_run_goes_on_with_a_schedule_of_its_own(whole, tmp_path):
    longer = shutil.copytree(whole, tmp_path / "run")
    more = ["--config.train.num_epochs=1.4", "--config.schedule.restart_epochs=(1.0,)"]
    assert train.main(config=settings(*more, "--config.train.keep_checkpoints=1"), workdir=str(longer)) == 0
    before, after = ({row["step"]: row for row in workdir_lib.read_metrics(folder)} for folder in (whole, longer))
    assert max(after) == 59 and all(after[step] == before[step] for step in before)  # 1348 * 1.4 // 32 + 1
    rates = [after[step]["learning_rate"] for step in (45, 50, 57)]
    assert rates[0] < rates[1] > rates[2] > 0  # warmed up anew, and falling


def test_an_evaluation_never_costs_the_training_its_state(built, tmp_path, monkeypatch, capsys):
    """The state is on disk before kNN runs, and what kNN refuses ends nothing; a process later measures what is due."""
    monkeypatch.setattr(setup, "make_run", lambda values: built._replace(num_steps=22))
    saved = []

    def refuse(*args, **how):
        saved.append(sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()))
        raise base.InputError("no labels.")

    with monkeypatch.context() as patched:
        patched.setattr(training_loop.probes, "knn_accuracy", refuse)
        assert train.main(config=settings(), workdir=str(tmp_path)) == 0
    assert saved and saved[-1] and "the training goes on: no labels." in capsys.readouterr().err
    assert final_digests(tmp_path)[0] == 22 and not workdir_lib.read_scores(tmp_path)
    assert train.main(config=settings(), workdir=str(tmp_path)) == 0
    assert set(workdir_lib.read_scores(tmp_path)) == {22}


def test_a_hangup_saves_like_sigterm_unless_it_is_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with stopping.stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number == signal.SIGHUP and stop.name == "SIGHUP"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with stopping.stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.train.batch_size=1", "train.batch_size must be at least 2 for the method simclr"),
        ("--config.augment.num_views=1", "augment.num_views must be 2 for the method simclr"),
        ("--config.augment.num_views=3", "augment.num_views must be 2 for the method simclr"),
        ("--config.schedule.restart_epochs=(2.0,)", "schedule.restart_epochs must rise"),
        ("--config.train.batch_size=0", "batch_size"),
        ("--config.train.num_epochs=0.0", "num_epochs"),
        ("--config.train.num_chunks=3", "num_chunks must divide the images per device; got 3 chunks and 32 images"),
        ("--config.train.bn_group=chip", "bn_group must be one of global, host, device"),
        ("--config.encoder.norm=layer", "norm must be one of batch, group, frozen"),
        ("--config.method.name=simlcr", "method.name must be one of simclr"),
        ("--config.data.name=digit", "data set must be one of"),
    ],
)
def test_a_bad_value_is_refused_before_anything_is_written(tmp_path, override, said):
    with pytest.raises(base.InputError, match=said):
        train.main(config=settings(override), workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
