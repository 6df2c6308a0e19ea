"""The table of all methods: its settings are those of methods that exist, its stars stand where they should."""

from benchmarks import methods_table
from simclr_jax.methods import METHODS


def row(method, accuracy, seconds, *, seed=0):
    what = {"method": method, "seed": seed, "data": "photo-patches", "train": {"batch_size": 64}}
    scores = {f"{probe} {share}": accuracy for probe, share in methods_table.COLUMNS}
    facts = {"date": "2026-11-28", "commit": "abc", "python": "3.11", "versions": {"jax": "0.10.2"}}
    more = {"num_steps": 99, "step_seconds": seconds, "cpu_seconds": 30.0, "load": 9.0, "facts": facts}
    return {"what": what, "accuracy": scores, **more}


def test_every_method_has_settings():
    assert set(methods_table.SETTINGS) == set(METHODS)


def test_scores_below_the_margin_have_a_star_and_steps_are_relative_to_simclr():
    rows = [row("untrained", 30.0, None), row("simclr", 41.0, 0.2), row("byol", 39.9, 0.3), row("byol", 39.9, 0.5)]
    rows[-1]["what"]["seed"] = 1
    lines = {line.split(" | ")[0].strip("|` "): line for line in methods_table.render(rows).splitlines()}
    assert "*" not in lines["untrained"] and lines["untrained"].endswith("| - |")
    assert "*" not in lines["simclr"] and lines["simclr"].endswith("| 1.00 |")
    assert lines["byol"].count("39.9 ± 0.0 *") == 4 and lines["byol"].endswith("| 2.00 |")


def test_a_row_is_not_made_again_with_the_same_settings(monkeypatch, tmp_path):
    asked = methods_table.Asked("photo-patches", None, 1.0, 64, tmp_path)
    config = methods_table.make_config("swav", 0, asked)
    made = []
    monkeypatch.setattr(methods_table, "train", lambda *args, **kwargs: made.append(args) or 1 / 0)
    known = {"what": methods_table.what_of("swav", config), "accuracy": {}}
    assert methods_table.measure("swav", 0, asked, [known]) == known and not made
    try:
        methods_table.measure("swav", 0, asked._replace(num_epochs=2.0), [known])
    except ZeroDivisionError:
        assert made


def test_classifiers_see_one_view_and_distillation_the_network_of_the_supervised_row(tmp_path):
    asked = methods_table.Asked("photo-patches", None, 1.0, 64, tmp_path)
    config = methods_table.make_config("distill", 0, asked)
    assert config["augment"]["num_views"] == 1 and config["teacher"]["num_classes"] == 18
    assert config["teacher"]["encoder"] == config["encoder"]
