"""The paper's ablations: their settings are valid, rows are made once, and the page says which order came out."""

import json

import pytest

from benchmarks import ablations
from simclr_jax.distributed import sharding
from simclr_jax.run import program as program_lib

ASKED = ablations.Asked("photo-patches", None, "train", "test", 1.0, 0.25)


def row(axis, value, linear):
    what = ablations.what_of(axis, value, 0, ASKED)
    facts = {"date": "2026-11-28", "commit": "abc", "python": "3.11", "versions": {"jax": "0.10.2"}}
    return {"what": what, "accuracy": {"kNN": 30.0, "linear": linear}, "cpu_seconds": 9.0, "load": 2.0, **facts}


def test_the_page_says_where_the_order_is_the_papers():
    rows = [row("augmentation", value, linear) for value, linear in (("crop", 40.0), ("colour", 45.5))]
    page = " ".join(ablations.render([*rows, row("augmentation", "crop and colour", 45.0)]).split())
    # The errors by hand: 100 sqrt(0.45 0.55 / 2000 + 0.4 0.6 / 2000) and the same with 0.455.
    assert "crop and colour against crop +5.0 ± 1.6 points (as there)" in page
    assert "crop and colour against colour -0.5 ± 1.6 points (**not told apart**)" in page
    assert "| colour | 30.0 | 45.5 | 1 | 18.8 |" in page
    assert "A temperature in the middle is best. Not measured here yet." in page


@pytest.mark.parametrize("axis", ablations.AXES)
def test_the_settings_of_an_axis_are_valid_and_differ(axis):
    configs = [ablations.make_config(axis, value, 0, ASKED) for value in ablations.AXES[axis].values]
    for config in configs:
        program_lib.check_sections(config, sharding.make_mesh())
    assert len({json.dumps(config) for config in configs}) == len(configs)
    assert all({*pair} <= {*ablations.AXES[axis].values} for pair in ablations.AXES[axis].better)


def test_the_recipe_as_it_is_is_trained_once_for_all_axes(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(ablations, "make_row", lambda *of: made.append(of[:2]) or row(of[0], of[1], 50.0))
    monkeypatch.setattr(ablations, "PAGE", tmp_path / "page.md")
    given = ["--rows", str(tmp_path / "rows.json"), "--output", str(tmp_path / "page.md"), "--tiny"]
    monkeypatch.setattr(ablations, "Asked", lambda *of: ASKED)
    (tmp_path / "page.md").write_text(
        "<!-- ablations: from here on written by a program -->\n<!-- end of ablations -->\n"
    )
    assert ablations.main(given) == 0
    asked = [(axis, value) for axis, of in ablations.AXES.items() for value in of.values]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["what"]["axis"], row["what"]["value"]) for row in rows] == asked
    again = [("head", "non-linear"), ("batch size", "128")]
    assert made == [of for of in asked if of not in again]


def test_a_row_is_not_made_again_with_the_same_settings(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(ablations, "make_row", lambda *of: made.append(of) or row(of[0], of[1], 50.0))
    monkeypatch.setattr(
        ablations, "what_of", lambda axis, value, seed, asked: {"axis": axis, "value": value, "seed": 0, "of": value}
    )
    page = tmp_path / "page.md"
    page.write_text(ablations.PAGE.read_text())
    given = ["--tiny", "--only", "head", "--rows", str(tmp_path / "rows.json"), "--output", str(page)]
    monkeypatch.setattr(ablations, "render", lambda rows: f"{len(rows)} rows")
    assert ablations.main(given) == 0 and ablations.main(given) == 0
    assert [of[1] for of in made] == ["none", "linear", "non-linear"] and "3 rows" in page.read_text()


@pytest.mark.slow
def test_one_axis_at_tiny_size(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(ablations.PAGE.read_text())
    given = ["--tiny", "--only", "head", "--rows", str(tmp_path / "rows.json"), "--output", str(page)]
    assert ablations.main(given) == 0
    assert "non-linear against linear" in page.read_text()
