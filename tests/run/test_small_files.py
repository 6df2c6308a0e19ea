"""The small files of a run: whatever is in them, it is read, or left out with a line, or refused in one line."""

import contextlib
import json
import os
import random

import pytest

from simclr_jax import base
from simclr_jax.run import small_files
from simclr_jax.run import workdir as workdir_lib

CONFIG = {"seed": 0, "augment": {"jitter_probability": 0.8}, "data": {"name": "ü"}, "train": {}}
RESULTS = {"probes": [{"accuracy": 0.5}], "evaluated_step": 4}
ROWS = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0, "knn_accuracy": 0.5}]
DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "no text": lambda content: b"\xff" + content[1:],
    "a list": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"7\n",
    "deep": lambda content: b"[" * 100_000,
    "zeros": lambda content: bytes(len(content)),
}


@pytest.fixture
def folder(tmp_path):
    workdir_lib.write_config(tmp_path, CONFIG)
    workdir_lib.update_results(tmp_path, **RESULTS)
    with workdir_lib.open_log(tmp_path, resumed_step=0) as log:
        for row in ROWS:
            workdir_lib.write_metrics(log, row)
    return tmp_path


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


def test_what_is_written_comes_back_without_its_digest(folder):
    assert workdir_lib.read_config(folder) == CONFIG
    assert workdir_lib.read_results(folder) == RESULTS
    assert workdir_lib.read_metrics(folder) == ROWS
    assert json.loads((folder / "config.json").read_text()).keys() == {*CONFIG, "sha256"}


def test_files_of_older_runs_have_no_digest(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert workdir_lib.read_config(tmp_path) == CONFIG


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_and_never_a_traceback(folder, kind, capsys):
    for name in ("config.json", "results.json", "metrics.jsonl"):
        damage(folder / name, DAMAGE[kind])
    assert workdir_lib.read_config(folder) == CONFIG  # of its copy
    assert workdir_lib.read_results(folder) == {}
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and "its copy" in said.lower() and "evaluate writes it anew" in said
    assert [row for row in workdir_lib.read_metrics(folder) if row not in ROWS] == []
    lines = []
    with workdir_lib.open_log(folder, resumed_step=9, warn=lines.append) as log:
        workdir_lib.write_metrics(log, {"step": 10, "loss": 1.0})
    assert workdir_lib.read_metrics(folder)[-1]["step"] == 10
    assert len(lines) <= 1 and all("left out" in line for line in lines)
    damage(folder / ".config.json", DAMAGE[kind])
    with pytest.raises(base.InputError, match="Put back a copy") as caught:
        workdir_lib.read_config(folder)
    assert "\n" not in str(caught.value)


def test_every_letter_that_flips_in_a_config_is_noticed(folder):
    path, rng = folder / "config.json", random.Random(0)
    content = path.read_bytes()
    for at in rng.sample(range(len(content) - 1), 60):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.randrange(7)
        path.write_bytes(bytes(changed))
        with contextlib.suppress(small_files.Damaged):
            assert small_files.read(path) == CONFIG  # white space


def test_rows_of_something_else_are_counted_and_left_out(folder):
    path = folder / "metrics.jsonl"
    bad = ['{"step": "3"}', '{"loss": 1.0}', '{"step": 3, "loss": null}', '{"step": NaN}', '{"step": 3, "lo']
    path.write_text("\n".join([json.dumps(ROWS[0]), *bad[:2], json.dumps(ROWS[1]), *bad[2:]]))
    assert small_files.read_rows(path) == (ROWS, len(bad))
    assert workdir_lib.read_scores(folder) == {2: 0.5}


@pytest.mark.parametrize("results", [{"probes": {}}, {"probes": [1]}, {"transfer": []}, {"guards": 3}])
def test_results_of_another_kind_are_left_out(folder, results, capsys):
    (folder / "results.json").write_text(json.dumps(results))
    assert workdir_lib.read_results(folder) == {}
    assert "something else than results" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json", "lock", ".lock"])
@pytest.mark.parametrize("what", ["folder", "link", "dangling", "pipe"])
def test_something_else_in_the_place_of_a_file_is_refused_and_never_written_through(tmp_path, name, what):
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    path = run / name
    {
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(foreign),
        "dangling": lambda: path.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(path),
    }[what]()
    with pytest.raises(base.InputError, match="plain files of its own") as caught, workdir_lib.lock(run):
        pass
    assert "\n" not in str(caught.value)
    assert workdir_lib.lock_holder(run) == "" or what == "link"
    assert foreign.read_text() == "mine" and not (tmp_path / "nowhere").exists()
