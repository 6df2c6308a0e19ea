"""lightly's rows of the table of methods: what its process is told, its weights by our names, the page."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import methods_lightly, methods_table
from benchmarks import page as page_lib
from benchmarks.training_rows import views
from simclr_jax import models
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import program as program_lib
from simclr_jax.run import setup
from tests.benchmarks.test_methods_table import row


def asked(folder, **changes):
    return methods_table.Asked("photo-patches", None, "train", 1.0, 64, folder)._replace(**changes)


def pairs(ours, theirs):
    """Rows of every method for the scores of all seeds."""
    made = []
    for name in methods_lightly.NAMES:
        made += [row(name, score, 0.2, seed=seed) for seed, score in enumerate(ours)]
        made += [row(methods_lightly.row_name(name), score, 0.2, seed=seed) for seed, score in enumerate(theirs)]
    return made


def test_the_page_has_a_verdict_a_method():
    near = methods_lightly.render(pairs((50.0, 51.0, 52.0), (51.0, 52.0, 53.0)), methods_table.COLUMNS)
    # The pooled standard deviation is 1, that of the difference sqrt(2 / 3).
    assert near.count("| 1.2 | 1.2 | 1.2 | 1.2 |") == 3 and near.count("in all 4 numbers") == 3
    assert "| `byol` | lightly | 3 | 52.0 ± 1.0 |" in near and "beyond" not in near
    far = methods_lightly.render(pairs((50.0, 51.0, 52.0), (52.0, 53.0, 54.0)), methods_table.COLUMNS)
    told = " ".join(far.split())
    assert told.count("**beyond two standard deviations** in 4 numbers: kNN 10 %, by -2.0 points for ours (2.4;") == 3


def test_rows_that_are_missing_leave_no_verdict():
    assert methods_lightly.render([row("byol", 50.0, 0.2)], methods_table.COLUMNS) == "Not made yet."
    page = methods_lightly.render([row("byol of lightly", 50.0, 0.2)], methods_table.COLUMNS)
    assert "| `byol` | lightly | 1 | 50.0 |" in page and "| `byol` | ours | 0 | - |" in page
    assert page.count("no verdict yet") == 3


def test_the_table_of_our_methods_is_the_same_beside_lightlys():
    rows = [row("untrained", 30.0, None), *(row("simclr", 41.0, 0.2, seed=seed) for seed in range(3))]
    alone = methods_table.render(rows)
    assert methods_table.render([*rows, row("simclr of lightly", 90.0, 0.9)]) == alone
    assert "1 to 3 seeds a row" in " ".join(alone.split())


def test_lightlys_row_is_kept_apart_from_ours_and_not_made_again(monkeypatch, tmp_path):
    told = {"losses": [3.0, 2.0], "step_seconds": [0.1, 0.3, 0.2], "cpu_seconds": 9.0}
    told |= row("simclr", 1.0, 0.1)["facts"] | {"hardware": "2 CPU cores"}
    monkeypatch.setattr(methods_lightly, "train", lambda config, python: ("features", told))
    rest = {"scored": lambda given: {"kNN 10 %": given}, "python": "python"}
    made = methods_table.measure_lightly("simclr", 0, asked(tmp_path), known=[], **rest)
    assert made["accuracy"] == {"kNN 10 %": "features"} and (made["num_steps"], made["step_seconds"]) == (2, 0.2)
    assert made["what"]["row"] == "simclr of lightly" and made["facts"]["commit"] == "abc"
    monkeypatch.setattr(methods_lightly, "train", lambda config, python: pytest.fail("it is known"))
    assert methods_table.measure_lightly("simclr", 0, asked(tmp_path), known=[made], **rest) is made


def test_a_python_without_lightly_leaves_the_row_empty(monkeypatch, tmp_path, capsys):
    def fail(config, python):
        raise RuntimeError("exit 1: ModuleNotFoundError: No module named 'lightly'")

    monkeypatch.setattr(methods_lightly, "train", fail)
    monkeypatch.setattr(methods_table, "make_scored", lambda asked: None)
    monkeypatch.setattr(methods_table, "measure", lambda name, seed, *rest, **more: row(name, 50.0, 0.2, seed=seed))
    which = [(0, "simclr"), (0, "vicreg")]
    rows = methods_table.make_all(which, asked(tmp_path), path=tmp_path / "rows.json", peers_python="python")
    assert [one["what"]["row"] for one in rows] == ["simclr", "vicreg"]
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert capsys.readouterr().err == "simclr of lightly 0: exit 1: ModuleNotFoundError: No module named 'lightly'\n"


def test_a_python_that_is_not_there_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        methods_table.main([f"--peers_python={tmp_path}/python"])
    assert f"got {tmp_path}/python. Name one." in capsys.readouterr().err


def test_lightly_is_told_our_whole_recipe(tmp_path):
    config = methods_table.make_config("barlow_twins", 3, asked(tmp_path))
    given = methods_lightly.settings(config, num_examples=6344, num_steps=100)
    assert given["seed"] == 3 and given["widths"] == [16, 32, 64, 128]
    assert given["method"]["redundancy_weight"] == 0.0051 and given["method"]["proj_hidden_dim"] == 256
    assert len(given["rates"]) == 100 and given["rates"][0] == 0.0 and max(given["rates"]) == pytest.approx(2e-3)
    assert (given["weight_decay"], given["momentum"]) == (1e-4, 0.9)
    json.dumps(given)


@pytest.mark.slow
def test_the_views_are_those_that_our_run_trains_on(tmp_path):
    config = methods_table.make_config("simclr", 0, asked(tmp_path, num_epochs=0.002, batch_size=8))
    config["schedule"]["warmup_epochs"] = 0.0
    assert views.save_of_run(tmp_path / "views.npy", config) == 2
    saved, run = np.load(tmp_path / "views.npy"), setup.make_run(config)
    method = program_lib.make_method(program_lib.make_encoder(config, run.mesh), config, run.mesh, num_classes=18)

    @jax.jit
    def loss_of(state, of_step):
        return method.loss(*method.embed(state.params, state.method_state, of_step, {}, jax.random.key(0)))[0]

    state, key = sharding.jit_once(run.init, run.mesh, placement=run.placement)(), sharding.make_key(run.mesh, 0)
    for step in range(2):
        right, wrong = (float(loss_of(state, saved[number])) for number in (step, 1 - step))
        state, metrics = run.train_steps(state, key, *run.feed.draw(step), jnp.asarray(1, jnp.int32))
        # Rounding of another compilation.
        assert float(metrics["loss"][0]) == pytest.approx(right, rel=1e-4) != pytest.approx(wrong, rel=1e-3)
    run.feed.close()


def test_weights_of_torch_come_by_our_names(tmp_path):
    config = methods_table.make_config("simclr", 0, asked(tmp_path))
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    ours = jax.eval_shape(lambda: encoder.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False))
    arrays = {}
    for path, leaf in jax.tree.leaves_with_path(ours):
        _, *modules, name = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
        of = {"mean": "running_mean", "var": "running_var", "scale": "weight", "kernel": "weight", "bias": "bias"}[name]
        shape = [leaf.shape[axis] for axis in ((3, 2, 0, 1) if name == "kernel" else range(leaf.ndim))]
        arrays["weights:" + ".".join([*modules, of])] = np.zeros(shape, np.float32)
        arrays["weights:" + ".".join([*modules, "num_batches_tracked"])] = np.zeros(())
    theirs = methods_lightly.by_our_names({**arrays, "train": np.zeros((4, 4)), "test": np.zeros((4, 4))})
    assert jax.tree.map(np.shape, theirs) == jax.tree.map(np.shape, dict(ours))


def test_features_of_another_encoder_are_refused():
    h = np.linspace(0, 2, 8).reshape(2, 4)
    methods_lightly.check_twin(h, h + 1e-5)
    with pytest.raises(RuntimeError, match=r"features differ by 5\.0e-01 of the largest"):
        methods_lightly.check_twin(h, h + np.asarray([0, 1, 0, 0]))
    with pytest.raises(RuntimeError, match="differ by nan"):
        methods_lightly.check_twin(h, h * np.nan)


@pytest.mark.slow
def test_all_rows_of_lightly_with_few_steps(tmp_path):
    python = os.environ.get("SIMCLR_PEERS_PYTHON")
    if not python:
        pytest.skip("needs a Python with torch and lightly in SIMCLR_PEERS_PYTHON")
    page = tmp_path / "page.md"
    marks = (methods_table.STEM, methods_lightly.STEM)
    page.write_text("\n".join(f"<!-- {s}: from here on written by a program -->\n<!-- end of {s} -->" for s in marks))
    given = [f"--peers_python={python}", f"--rows={tmp_path}/rows.json", f"--page={page}", "--num_epochs=0.02"]
    command = [sys.executable, str(pathlib.Path(methods_table.__file__)), *given, "--batch_size=8", "--only"]
    done = subprocess.run([*command, *methods_lightly.NAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    rows = {one["what"]["row"]: one for one in json.loads((tmp_path / "rows.json").read_text())}
    for name in methods_lightly.NAMES:
        assert rows[name]["num_steps"] == rows[methods_lightly.row_name(name)]["num_steps"] == 16
    assert page_lib.replace_part(page.read_text(), methods_lightly.STEM, "") != page.read_text()
