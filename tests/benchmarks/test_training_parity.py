"""The rule of `benchmarks/training_parity.py`, its page, and all of its trainings at tiny size."""

import json
import math
import os
import pathlib
import subprocess

import numpy as np
import pytest

from benchmarks import kept_rows, training_page, training_parity
from benchmarks.training_rows import settings


def row(program, seed, loss, *, comparison="own"):
    window, curves = 20, {"loss": [9.0, 8.0, 8.0, loss], "contrastive_accuracy": [0.1, 0.2, 0.3, 0.4 + seed / 100]}
    config = {"data": {"name": "photo-patches"}, "split": {"train": "train", "test": "test"}}
    config |= {"train": {"batch_size": 16}, "encoder": {"width_multiplier": 0.25}}
    what = {"comparison": comparison, "program": program, "seed": seed, "window": window, "config": config}
    facts = {"date": "2026-11-28", "commit": "abc", "python": "3.11", "versions": {"jax": "0.10.2"}}
    return {"what": what, "curves": curves, "knn": 0.5 + seed / 50, "cpu_seconds": 8.0, **facts}


def rows(theirs):
    ours = [row("ours", seed, loss) for seed, loss in enumerate((7.9, 8.0, 8.1))]
    return [*ours, *(row("official", seed, loss) for seed, loss in enumerate(theirs))]


def test_the_rule_is_students_t_at_two_sigma_shared_by_the_numbers():
    verdict = training_page.compare("loss", [7.9, 8.0, 8.1], [8.1, 8.2, 8.3], count=1)
    assert verdict.apart == pytest.approx(0.2 / (0.1 * math.sqrt(2 / 3)))
    assert verdict.allowed == pytest.approx(2.869, abs=2e-3)  # t of 4 degrees, 4.55 % on both sides: tables
    assert training_page.compare("loss", [7.9, 8.0, 8.1], [8.1, 8.2, 8.3], count=4).allowed > verdict.allowed
    assert training_page.compare("loss", [8.0], [8.1, 8.2], count=1) is None
    assert training_page.compare("loss", [8.0, 8.0], [8.0, 8.0], count=1).agrees
    assert not training_page.compare("loss", [8.0, 8.0], [8.1, 8.1], count=1).agrees


def test_the_page_says_what_differs_and_the_status_is_1(tmp_path):
    page = tmp_path / "page.md"
    assert training_page.write(rows((7.95, 8.05, 8.1)), page) == 0
    assert "**differs**" not in page.read_text() and "page_own.svg" in page.read_text()
    drawn = (tmp_path / "page_own.svg").read_bytes()
    assert training_page.write(rows((9.9, 10.0, 10.1)), page) == 1
    (line,) = [line for line in page.read_text().splitlines() if "**differs**" in line]
    assert line.startswith("| loss, last quarter |") and "10.0000 ± 0.1000" in line and "8.0000 ± 0.1000" in line
    assert (tmp_path / "page_own.svg").read_bytes() != drawn and len(drawn) < 150_000


def test_rounding_must_explain_how_far_trainings_on_the_same_views_part(tmp_path):
    what = {"comparison": "follow", "seed": 0}
    of = [
        {"what": {**what, "program": name}, "curves": {"loss": [8.0, 7.0 + extra]}}
        for name, extra in (("official", 1e-5), ("ours float32", 1e-6), ("ours float64", 0.0))
    ]
    far = {"what": {**what, "program": "distances"}, "steps": [1, 2]}
    near = {**far, "distances": {"official": [0.0, 2e-6], "ours float32": [0.0, 1e-6]}}
    assert training_page.write([*of, near], tmp_path / "page.md") == 0
    assert "2.00 times as far" in (tmp_path / "page.md").read_text()
    far |= {"distances": {"official": [0.0, 2e-5], "ours float32": [0.0, 1e-6]}}
    assert training_page.write([*of, far], tmp_path / "page.md") == 1


def test_a_distance_is_relative_and_over_all_weights():
    exact, weights = (
        {"a": np.asarray([3.0]), "b": np.asarray([[4.0]])},
        {"a": np.asarray([3.5]), "b": np.asarray([[4.0]])},
    )
    assert training_page.relative_distance(weights, exact) == pytest.approx(0.1)


def test_all_programs_are_given_the_same_numbers():
    official, ours = settings.official(settings.FULL)["flags"], settings.ours(settings.FULL)["config"]
    assert official["learning_rate"] == ours["schedule"]["base_learning_rate"]
    assert official["temperature"] == ours["method"]["temperature"]
    assert official["warmup_epochs"] == ours["schedule"]["warmup_epochs"]
    # The reference's counts of steps.
    assert int(ours["train"]["num_epochs"] * 10000 // 128) + 1 == official["train_steps"] == 400
    assert round(official["warmup_epochs"] * 10000 // 128) == 40


def test_a_training_is_not_made_again_with_the_same_settings(tmp_path):
    place = training_parity.Place(tmp_path, None, "python", "python")
    asked = training_parity.plan(settings.TINY, place, seeds=1, only=("own",))
    (tmp_path / "rows.json").write_text(json.dumps([{"what": one.what} for one in asked]))
    rows = kept_rows.Rows(tmp_path / "rows.json", training_parity.KEYS)
    training_parity.make(asked, rows, place, size=settings.TINY, at_once=1)  # would fail: there is no such Python
    assert not rows.has(asked[0]._replace(given={**asked[0].given, "k": 1}).what) and rows.has(asked[0].what)


@pytest.mark.slow
def test_all_trainings_at_tiny_size(tmp_path):
    pythons = {name: os.environ.get(variable) for name, variable in PYTHONS.items()}
    if not (all(pythons.values()) and os.environ.get("SIMCLR_TF2_FOLDER")):
        pytest.skip(f"needs SIMCLR_TF2_FOLDER, and Pythons with TensorFlow and torch in {', '.join(PYTHONS.values())}")
    given = [f"--{name}={path}" for name, path in pythons.items()]
    given += [f"--rows={tmp_path}/rows.json", f"--output={tmp_path}/page.md", "--tiny", "--seeds=2"]
    program = pathlib.Path(training_parity.__file__)
    done = subprocess.run([os.sys.executable, str(program), *given], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # two seeds of some steps may differ by chance
    made = {
        (row["what"]["comparison"], row["what"]["program"]) for row in json.loads((tmp_path / "rows.json").read_text())
    }
    assert len(made) == 8, done.stderr
    assert (tmp_path / "page.md").read_text().count(".svg)") == 3


PYTHONS = {"tf_python": "SIMCLR_TF_PYTHON", "peers_python": "SIMCLR_PEERS_PYTHON"}
