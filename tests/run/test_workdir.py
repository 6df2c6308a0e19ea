"""What a run writes beside its checkpoints survives kills, refuses mixtures, and can be read by others."""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.run import workdir as workdir_lib

CONFIG = {"seed": 0, "train": {"batch_size": 64, "num_epochs": 1.0}, "probe": {"label_fractions": (0.1, 1.0)}}
HOLD = """
import pathlib, sys, time
from simclr_jax.run import workdir as workdir_lib
with workdir_lib.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_without_a_run_is_refused_with_the_command_that_starts_one(tmp_path):
    with pytest.raises(base.InputError, match="simclr-jax train --config=demo --workdir="):
        workdir_lib.require_run(tmp_path)
    workdir_lib.write_config(tmp_path, CONFIG)
    assert workdir_lib.require_run(str(tmp_path)) == tmp_path


def write_rows(folder, steps, *, resumed_step=0):
    with workdir_lib.open_log(folder, resumed_step=resumed_step) as log:
        for step in steps:
            workdir_lib.write_metrics(log, {"step": step, "loss": 1.0 / step, "seconds": 10.0 * step})
        return log.seconds_before


def test_rows_come_back_as_they_were_written(tmp_path):
    assert write_rows(tmp_path, (1, 3)) == 0.0
    assert workdir_lib.read_metrics(tmp_path) == [
        {"step": 1, "loss": 1.0, "seconds": 10.0},
        {"step": 3, "loss": 1.0 / 3, "seconds": 30.0},
    ]


def test_a_last_line_torn_by_a_kill_is_left_out(tmp_path):
    write_rows(tmp_path, (1, 2))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in workdir_lib.read_metrics(tmp_path)] == [1, 2]
    with pytest.warns(UserWarning, match=r"1 lines of .* were torn or damaged"):
        write_rows(tmp_path, (3,), resumed_step=2)
    assert [row["step"] for row in workdir_lib.read_metrics(tmp_path)] == [1, 2, 3]


def test_rows_behind_the_step_gone_on_from_are_dropped_and_the_clock_goes_on(tmp_path):
    write_rows(tmp_path, (1, 2, 3, 4))
    assert write_rows(tmp_path, (3, 4, 5), resumed_step=2) == 20.0
    assert [row["step"] for row in workdir_lib.read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with workdir_lib.open_log(tmp_path, resumed_step=0) as log:
        workdir_lib.write_metrics(log, {"step": 7, "loss": 0.5})
        assert workdir_lib.read_metrics(tmp_path) == [{"step": 7, "loss": 0.5}]


def test_a_run_without_metrics_has_no_rows(tmp_path):
    assert workdir_lib.read_metrics(tmp_path) == []
    assert workdir_lib.read_results(tmp_path) == {}


def test_results_of_several_programs_are_merged(tmp_path):
    first = {"probes": [{"k": 1}], "environment": {"jax": "1"}}
    assert workdir_lib.update_results(tmp_path, **first) == first
    workdir_lib.update_results(tmp_path, probes=[{"k": 2}], summary="s")
    assert workdir_lib.read_results(tmp_path) == {"probes": [{"k": 2}], "environment": {"jax": "1"}, "summary": "s"}


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    workdir_lib.write_json(path, {"old": 1})

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        workdir_lib.write_json(path, {"new": "x" * 10_000})
    assert json.loads(path.read_text()) == {"old": 1}
    with pytest.raises(TypeError):
        workdir_lib.write_json(path, {"new": np.float32})
    assert json.loads(path.read_text()) == {"old": 1}


def test_the_lock_refuses_a_second_process_and_is_freed_by_a_kill(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(base.InputError, match=f"in use by process {holder.pid} "), workdir_lib.lock(tmp_path):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with workdir_lib.lock(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} on ")


def test_the_lock_makes_the_workdir_and_says_if_it_cannot(tmp_path):
    with workdir_lib.lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(base.InputError, match="workdir must be a folder"), workdir_lib.lock(tmp_path / "file"):
        pass


def records(path: pathlib.Path) -> list[bytes]:
    """The payloads of a TFRecord file: length (8 bytes), checksum (4), payload, checksum (4)."""
    content, payloads = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        payloads.append(content[12 : 12 + length])
        content = content[16 + length :]
    return payloads


def test_tensorboard_finds_every_number_but_the_step(tmp_path):
    write_rows(tmp_path, (1, 2))
    files = list(tmp_path.glob("events.*"))
    assert len(files) == 1
    content = b"".join(records(files[0]))
    names = re.findall(rb"loss|seconds|step", content)
    assert names.count(b"loss") == names.count(b"seconds") == 2 and b"step" not in names
    for value in (1.0, 0.5, 10.0, 20.0):
        assert np.float32(value).tobytes() in content


def test_the_environment_names_what_computes_the_numbers():
    environment = workdir_lib.environment()
    assert {"python", "system", "jax", "jaxlib", "flax", "optax", "numpy"} <= environment.keys()
    assert all(isinstance(value, str) for value in environment.values())


def test_a_silent_log_writes_nothing(tmp_path):
    with workdir_lib.silent_log() as log:
        workdir_lib.write_metrics(log, {"step": 1, "loss": 2.0})
    assert not list(tmp_path.iterdir())


def test_the_lock_tells_who_holds_the_folder(tmp_path):
    assert workdir_lib.lock_holder(tmp_path) == ""
    with workdir_lib.lock(tmp_path):
        assert workdir_lib.lock_holder(tmp_path).startswith(f"{os.getpid()} on ")


def test_a_log_that_cannot_be_written_does_not_end_a_training(tmp_path):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    said = []
    with workdir_lib.open_log(tmp_path, resumed_step=0, warn=said.append) as log:
        for step in (1, 2):
            workdir_lib.write_metrics(log._replace(metrics=Full()), {"step": step, "loss": 1.0})
        workdir_lib.write_metrics(log, {"step": 3, "loss": 1.0})
    assert said == ["Metrics cannot be written, the training goes on without: No space left on device."]
    assert [row["step"] for row in workdir_lib.read_metrics(tmp_path)] == [3]


def test_scores_are_the_accuracies_of_the_log(tmp_path):
    with workdir_lib.open_log(tmp_path, resumed_step=0) as log:
        for row in ({"step": 1, "loss": 1.0}, {"step": 2, "knn_accuracy": 0.25}, {"step": 4, "knn_accuracy": 0.5}):
            workdir_lib.write_metrics(log, row)
    assert workdir_lib.read_scores(tmp_path) == {2: 0.25, 4: 0.5}


@pytest.mark.parametrize("name", ["a[1]", "a*b", "what?"])
def test_a_workdir_that_would_lose_its_checkpoints_is_refused_before_it_is_made(tmp_path, name):
    with pytest.raises(base.InputError, match="workdir must lie in folders without"), workdir_lib.lock(tmp_path / name):
        pass
    assert not list(tmp_path.iterdir())
