"""Which scores are ranked, and the table, page and picture of runs side by side."""

import dataclasses
import re

import pytest

from simclr_jax.html_report import comparison

KNN, TWENTY, RIDGE = "knn.k200.t0.1.v1", "knn.k20.t0.1.v1", "ridge.standardized.v1"
FAMILIES = {KNN: "knn", TWENTY: "knn", RIDGE: "ridge"}


def score(protocol, value, *, labels="100%", data="digits 1a", error=0.01):
    return comparison.Score(protocol, FAMILIES[protocol], labels, data, value, error)


def run(name, *scores, **changes):
    curves = {"loss": ([1.0, 2.0], [3.0, 2.0]), "knn_accuracy": ([2.0], [0.5])}
    return comparison.ComparedRun(name, {"method": "simclr", "steps": "7"}, scores, curves, **changes)


def test_only_scores_of_one_protocol_share_and_data_are_ranked():
    runs = [
        run("a", score(KNN, 0.8), score(RIDGE, 0.7), score(RIDGE, 0.5, labels="1%")),
        run("b", score(TWENTY, 0.9), score(RIDGE, 0.9), score(RIDGE, 0.6, data="photos 2b")),
    ]
    lines = comparison.score_lines(runs)
    assert [(line.protocol, line.labels, line.data) for line in lines] == [
        (KNN, "100%", "digits 1a"),
        (RIDGE, "100%", "digits 1a"),
        (RIDGE, "1%", "digits 1a"),
        (TWENTY, "100%", "digits 1a"),
        (RIDGE, "100%", "photos 2b"),
    ]
    assert [line.best for line in lines] == [[], [1], [], [], []]
    said = comparison.not_ranked(runs)
    assert f"different protocols: {KNN}, {TWENTY}." in said[0] and RIDGE not in said[0]
    assert said[1] == f"Scores of {RIDGE} are on different data and stand on lines of their own." and len(said) == 2


def test_runs_within_the_error_of_the_best_share_the_first_place():
    # The error of a difference is sqrt(2) * 1 point here.
    values = (0.80, 0.773, 0.770)
    (line,) = comparison.score_lines([run(str(value), score(KNN, value)) for value in values])
    assert line.best == [0, 1]
    (exact,) = comparison.score_lines([run(str(value), score(KNN, value, error=None)) for value in values])
    assert exact.best == [0]
    assert comparison.not_ranked([run("a", score(KNN, 0.5)), run("b", score(KNN, 0.5))]) == []


def test_the_page_holds_every_score_escapes_names_and_loads_nothing(tmp_path):
    runs = [run("<b>a</b>", score(KNN, 0.8), num_seeds=3), run("b", score(KNN, 0.5))]
    comparison.write_page(runs, tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    assert "&lt;b&gt;a&lt;/b&gt;" in page and "<b>a" not in page and "3 seeds" in page
    assert "★ 80.0 ± 1.0" in page and "50.0 ± 1.0" in page and KNN in page and page.count("<svg") == 2
    assert "<script" not in page and not re.search(r"(href|src)=\"http", page)
    one = ([1.0, 2.0], [3.0, 2.0])
    seeds = dataclasses.replace(run("s"), seed_curves={"loss": [one, one]}, num_seeds=2)
    comparison.write_page([seeds], tmp_path / "seeds.html")
    assert "a thin line for each" in (tmp_path / "seeds.html").read_text() and "a thin line" not in page
    assert (tmp_path / "seeds.html").read_text().count("stroke-opacity: 0.5") == 2
    comparison.write_page([run("a")], tmp_path / "empty.html")
    assert "No run has been evaluated." in (tmp_path / "empty.html").read_text()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_of_the_kind_that_its_name_ends_in(tmp_path, ending):
    comparison.write_picture([run("a", score(KNN, 0.8)), run("$b$", score(KNN, 0.5))], tmp_path / f"p.{ending}")
    start = (tmp_path / f"p.{ending}").read_bytes()[:100]
    assert start.startswith(b"\x89PNG") if ending == "png" else b"<svg" in start or b"<?xml" in start
