"""The table of all methods: its settings are those of methods that exist, its stars stand where they should."""

import pytest

from benchmarks import methods_story, methods_table
from simclr_jax import base
from simclr_jax.distributed import sharding
from simclr_jax.methods import IMAGE_TEXT, METHODS
from simclr_jax.run import program as program_lib


def row(method, accuracy, seconds, *, seed=0):
    what = {"row": method, "seed": seed, "data": {"name": "photo-patches"}, "split": {"train": "train"}}
    what |= {"train": {"batch_size": 64}}
    scores = dict.fromkeys(methods_table.COLUMNS, accuracy)
    facts = {"date": "2026-11-28", "commit": "abc", "python": "3.11", "versions": {"jax": "0.10.2"}}
    more = {"num_steps": 99, "step_seconds": seconds, "cpu_seconds": 30.0, "load": 9.0, "facts": facts}
    return {"what": what, "accuracy": scores, **more}


def test_every_method_has_settings():
    assert set(methods_table.SETTINGS) == set(METHODS) - set(IMAGE_TEXT), "the patches have no texts"


def test_scores_below_the_margin_have_a_star_and_steps_are_relative_to_simclr():
    rows = [row("untrained", 30.0, None), row("simclr", 41.0, 0.2), row("byol", 39.9, 0.3), row("byol", 39.9, 0.5)]
    rows[-1]["what"]["seed"] = 1
    lines = {line.split(" | ")[0].strip("|` "): line for line in methods_table.render(rows).splitlines()}
    assert "*" not in lines["untrained"] and lines["untrained"].endswith("| - |")
    assert "*" not in lines["simclr"] and lines["simclr"].endswith("| 1.00 |")
    assert lines["byol"].count("39.9 ± 0.0 *") == 4 and lines["byol"].endswith("| 2.00 |")


def test_rows_that_are_missing_are_named():
    page = methods_table.render([row("untrained", 30.0, None), row("simclr", 41.0, 0.2)])
    assert "Not made yet: " in page and "`byol`" in page.partition("Not made yet: ")[2]
    everything = methods_table.render([row(name, 41.0, 0.2) for name in methods_table.ROWS])
    assert "Not made yet" not in everything


def test_the_story_is_in_the_order_of_years_and_its_picture_has_a_bar_a_row(tmp_path):
    rows = [row("simclr", 41.0, 0.2), row("rotation", 36.5, 0.2), row("pixels", 30.0, None)]
    told = methods_story.render(rows, methods_table.COLUMNS)
    names = [line.split(" | ")[0].strip("|` ") for line in told.splitlines()[2:5]]
    assert names == ["pixels", "rotation", "simclr"] and "`jigsaw`" in told.partition("Not run: ")[2]
    methods_story.draw(rows, tmp_path / "bars.svg")
    text = (tmp_path / "bars.svg").read_text()
    assert len(text) < 150_000 and all(score in text for score in ("41.0", "36.5", "30.0"))
    shown = [name for group in methods_story.GROUPS.values() for name in group]
    assert sorted(shown) == sorted(methods_story.YEARS) and set(shown) <= set(methods_table.ROWS)


def test_pixels_are_scored_as_they_are(monkeypatch, tmp_path):
    asked = methods_table.Asked("photo-patches", None, "train", 1.0, 64, tmp_path)
    monkeypatch.setattr(methods_table, "train", lambda config, **_: pytest.fail("nothing is trained"))
    made = methods_table.measure("pixels", 0, asked, known=[], scored=lambda variables: {"given": variables})
    assert made["accuracy"] == {"given": None} and made["num_steps"] == 0


def test_a_row_is_not_made_again_with_the_same_settings(monkeypatch, tmp_path):
    asked = methods_table.Asked("photo-patches", None, "train", 1.0, 64, tmp_path)
    known = {"what": methods_table.what_of("swav", methods_table.make_config("swav", 0, asked)), "accuracy": {}}
    made = []
    monkeypatch.setattr(methods_table, "train", lambda config, **_: made.append(config) or (fake_state(), [0.1] * 4))
    rest = {"known": [known], "scored": lambda variables: {"kNN 10 %": 50.0}}
    assert methods_table.measure("swav", 0, asked, **rest) == known and not made
    fresh = methods_table.measure("swav", 0, asked._replace(num_epochs=2.0), **rest)
    assert len(made) == 1 and fresh["accuracy"] == {"kNN 10 %": 50.0} and fresh["step_seconds"] == 0.1


def fake_state():
    return base.TrainState(0, {"encoder": {}}, {"batch_stats": {"encoder": {}}}, None)


@pytest.mark.parametrize("name", methods_table.SETTINGS)
def test_the_settings_of_a_row_are_valid(name, tmp_path):
    config = methods_table.make_config(name, 0, methods_table.Asked("photo-patches", None, "train", 1.0, 64, tmp_path))
    program_lib.check_sections(config, sharding.make_mesh())


def test_classifiers_see_one_view_and_distillation_the_network_of_the_supervised_row(tmp_path):
    asked = methods_table.Asked("photo-patches", None, "train", 1.0, 64, tmp_path)
    config = methods_table.make_config("distill", 0, asked)
    assert config["augment"]["num_views"] == 1 and config["teacher"]["num_classes"] == 18
    assert config["teacher"]["encoder"] == config["encoder"]
