"""Recorded runs on a CPU: settings are valid, each run finds those it starts from, the page says what came out."""

import json

import pytest

from benchmarks import cpu_runs
from simclr_jax.run import config as config_lib

FACTS = {"date": "2026-11-29", "commit": "abc", "python": "3.11", "versions": {"jax": "0.10.2"}, "load": 3.0}


def row(run, seed, **scores):
    what = {"set": "imagenette", "run": run, "seed": seed, "words": list(cpu_runs.plan("imagenette", "RUNS")[run])}
    return {"what": what, "scores": scores, "cpu_seconds": 90.0, **FACTS}


@pytest.mark.parametrize("name", cpu_runs.SETS)
def test_the_configs_have_the_keys_and_runs_start_from_earlier_ones(name):
    made = []
    for run, words in cpu_runs.plan(name, "runs").items():
        named, *values = words
        arg = named.partition(":")[2]
        config = config_lib.load_file(named.removeprefix("--config=")).to_dict()
        for word in values:
            section, key = word.partition("=")[0].removeprefix("--config.").split(".")
            assert key in config[section], word
        folder = arg.split(",")[0].removeprefix("runs/") if arg.startswith("runs/") else ""
        assert not folder or folder in made
        made.append(run)
    assert made == list(cpu_runs.WHAT)


def test_the_page_has_means_of_the_seeds_and_the_commands():
    scores = {f"{of}, linear, {labels}": 30.0 for of in ("pixels", "untrained") for labels in ("1%", "10%", "100%")}
    found = [row("pretrained", 0, **scores, **{f"simclr, linear, {labels}": 50.0 for labels in ("1%", "10%", "100%")})]
    found += [row("tuned10", seed, classifier=accuracy) for seed, accuracy in ((0, 40.0), (1, 43.0))]
    page = cpu_runs.render(found)
    # The sample's standard deviation by hand: sqrt(2 * 1.5 ** 2 / 1).
    assert "| the same network fine-tuned with 10 % of the labels | 10 % | 41.5 ± 2.1 | 2 |" in page
    assert "| a linear probe on pixels | 1 % | 30.0 | 1 |" in page
    assert "| a new network of the same size" in page and "| of the teacher |" not in page
    assert "--config=finetune:RUNS/pretrained,labels=10" in page and "4 minutes of CPU" in page
    assert cpu_runs.render([]) == "No run has been made yet."


def test_what_is_kept_of_the_results():
    probes = [{"features": "simclr", "probe": probe, "labels": "10%", "accuracy": 0.5} for probe in ("knn", "ridge")]
    assert cpu_runs.scores_of({"probes": probes, "classifier": {"top_1": 0.25}}) == {
        "simclr, knn, 10%": 50.0,
        "classifier": 25.0,
    }


def test_a_row_is_not_made_again_with_the_same_command(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(cpu_runs, "make_row", lambda name, run, *of: made.append(run) or row(run, 0, classifier=1.0))
    page, rows = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text("<!-- cpu_runs: from here on written by a program -->\n<!-- end of cpu_runs -->\n")
    kept = [row(run, 0, classifier=1.0) for run in cpu_runs.WHAT if run not in ("pretrained", "student")]
    old = row("student", 0, classifier=2.0)
    rows.write_text(json.dumps([*kept, {**old, "what": {**old["what"], "words": ["--config=other"]}}]))
    monkeypatch.setattr(cpu_runs, "render", lambda rows: f"{len(rows)} rows")
    given = [f"--workdir={tmp_path}", f"--rows={rows}", f"--output={page}", "--only", "imagenette"]
    assert cpu_runs.main(given) == 0
    assert made == ["pretrained", "student"] and "6 rows" in page.read_text()
