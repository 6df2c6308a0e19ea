"""A key that came later does not have kept rows made again, another value does."""

import json
import pathlib

from benchmarks import ablations, kept_rows

FOLDER = pathlib.Path(ablations.__file__).parent


def test_a_key_that_a_row_lacks_has_its_default():
    row = {"row": "simclr", "optimizer": {"name": "adamw"}, "method": {"name": "simclr"}}
    assert kept_rows.are_same(row, {**row, "optimizer": {"name": "adamw", "b2": 0.999}})
    assert not kept_rows.are_same(row, {**row, "optimizer": {"name": "adamw", "b2": 0.98}})
    assert not kept_rows.are_same(row, {**row, "method": {"name": "byol"}})
    newer = {**row, "optimizer": {"name": "adamw", "eps": 1e-8}}
    assert kept_rows.are_same({"seed": 0, "config": row}, {"seed": 0, "config": newer})
    assert not kept_rows.are_same({"seed": 0, "config": row}, {"seed": 1, "config": row})


def test_the_kept_rows_of_the_ablations_are_those_asked_for_today():
    rows = json.loads((FOLDER / "ablations.json").read_text())
    what = rows[0]["what"]
    asked = ablations.Asked(what["data"]["name"], None, what["split"]["train"], what["split"]["test"], 1.0, 1.0)
    asked = asked._replace(num_epochs=what["train"]["num_epochs"], width=what["encoder"]["width_multiplier"])
    today = ablations.what_of(what["axis"], what["value"], what["seed"], asked)
    assert kept_rows.are_same(what, today)
