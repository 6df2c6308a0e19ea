"""The machinery of the parity report: what fails, what is reported as not run, and what the page says."""

import math
import re

import numpy as np
import pytest

from benchmarks import parity, parity_rows
from benchmarks.parity_rows import page, table
from tests import test_architecture as architecture

FILES = [*(architecture.ROOT / "benchmarks").glob("*.py"), *(architecture.ROOT / "benchmarks/parity_rows").glob("*.py")]
GOLDEN = sorted(path.stem for path in (architecture.ROOT / "tests/golden").glob("*.npz"))


def make_row(ours, reference, *, limit=1e-3, relative_to=table.ABSOLUTE, needs=(), component="thing"):
    return table.Row(component, "TF2", limit, relative_to, lambda: [table.Case(ours, reference)], needs)


def make_difference(value, *, needs=()):
    measure = lambda: table.Effect(value, 1.0, 2.0, f"measured {value}")  # noqa: E731
    return table.Difference("topic", "we", "they", measure, "no option", needs)


def verdict(row: table.Row) -> str:
    return table.run_row(row).verdict


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Runs the report on given rows and differences: (exit code, page)."""

    def run(rows=(), differences=()):
        monkeypatch.setattr(parity_rows, "GROUPS", {"Group": list(rows)} if rows else {})
        monkeypatch.setattr(parity_rows, "DIFFERENCES", {"Others": list(differences)} if differences else {})
        code = parity.main(["--out", str(tmp_path / "parity.md")])
        return code, (tmp_path / "parity.md").read_text()

    return run


def test_a_comparison_within_its_tolerance_passes(report):
    code, text = report([make_row(1.0005, 1.0)])
    assert code == 0
    assert "| thing | TF2 | 1 | 5.0e-04 | 5.0e-04 | 1.0e-03 absolute | pass |" in text
    assert "Everything agrees" in text


def test_a_comparison_outside_its_tolerance_fails_the_run(report):
    code, text = report([make_row(1.0, 1.0), make_row(1.01, 1.0, component="other")])
    assert code == 1
    assert "**1 of 2 lines FAIL.**" in text
    assert re.search(r"\| other \|.*\*\*FAIL\*\* \|", text)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_fails(bad):
    assert verdict(make_row([1.0, bad], [1.0, 1.0])) == table.FAIL


def test_arrays_of_other_shapes_are_an_error_and_not_broadcast(report):
    code, text = report([make_row(np.ones((2, 3)), np.ones(3))])
    assert code == 1
    assert "**ERROR: ValueError: shapes differ" in text


def test_a_row_without_cases_is_an_error():
    assert verdict(make_row(1, 1)._replace(cases=lambda: [])).startswith(table.ERROR)


def test_a_row_that_raises_is_an_error_with_its_reason(report, capsys):
    def cases():
        raise AttributeError("no such function")

    code, text = report([make_row(1, 1)._replace(cases=cases)])
    assert code == 1
    assert "ERROR: AttributeError: no such function" in text
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_package_is_named_and_does_not_fail_the_run(report):
    needs = ("a_package_that_is_not_there",)
    code, text = report([make_row(5.0, 1.0, needs=needs)], [make_difference(9.0, needs=needs)])
    assert code == 0
    assert text.count("not installed: a_package_that_is_not_there") == 2
    assert "0 failures, 2 not run" in text


def test_tolerances_are_relative_to_what_they_say():
    ours, reference = [100.0, 1.0], [100.0, 1.01]
    assert verdict(make_row(ours, reference, relative_to=table.LARGEST)) == table.PASS
    assert verdict(make_row(ours, reference, relative_to=table.EACH)) == table.FAIL
    assert verdict(make_row(ours, reference, relative_to=table.ABSOLUTE)) == table.FAIL
    with_scale = make_row(1, 1)._replace(relative_to="of the peak", cases=lambda: [table.Case(1.0, 1.5, 1000.0)])
    assert verdict(with_scale) == table.PASS
    assert verdict(make_row(1, 1, relative_to="of the peak")).startswith(table.ERROR)


def test_an_exact_row_passes_on_equality_only():
    assert verdict(make_row(3, 3, limit=0.0, relative_to=table.EXACT)) == table.PASS
    assert verdict(make_row(3, 3 + 1e-15, limit=0.0, relative_to=table.EXACT)) == table.FAIL


def test_a_difference_of_another_size_than_expected_fails_the_run(report):
    assert report(differences=[make_difference(1.5)])[0] == 0
    for value in (0.0, 3.0, math.nan):
        code, text = report(differences=[make_difference(value)])
        assert code == 1
        assert f"FAIL: {value:.3g} is not in [1, 2]" in text


def test_only_a_selection_runs_and_then_nothing_is_overwritten(monkeypatch, capsys):
    monkeypatch.setattr(parity_rows, "GROUPS", {"Group": [make_row(1, 1, component=name) for name in ("one", "two")]})
    monkeypatch.setattr(parity_rows, "DIFFERENCES", {})
    monkeypatch.setattr(page, "render", lambda *_: pytest.fail("the page was written"))
    assert parity.main(["--only", "TWO"]) == 0
    assert "two / TF2: pass" in (said := capsys.readouterr().out) and "one" not in said
    assert parity.main(["--only", "nothing at all"]) == 2


@pytest.mark.parametrize("word", ["brightness v1", "centre crop, window", "numbers of steps", "end of a run"])
def test_real_lines_pass(word, tmp_path):
    out = tmp_path / "parity.md"
    assert parity.main(["--only", word, "--out", str(out)]) == 0
    assert word in out.read_text()


def test_a_real_line_fails_when_ours_is_wrong(monkeypatch):
    from simclr_jax import optim

    right = optim.num_train_steps
    monkeypatch.setattr(optim, "num_train_steps", lambda **settings: right(**settings) + 1)
    assert parity.main(["--only", "numbers of steps"]) == 1


def test_every_line_has_its_own_name():
    names = [(g, row.component, row.reference) for g, rows in parity_rows.GROUPS.items() for row in rows]
    topics = [(g, d.topic) for g, group in parity_rows.DIFFERENCES.items() for d in group]
    assert len(set(names)) == len(names) > 150
    assert len(set(topics)) == len(topics) > 30


def test_no_word_of_a_line_breaks_the_table():
    for lines in [*parity_rows.GROUPS.values(), *parity_rows.DIFFERENCES.values()]:
        for line in lines:
            assert not [text for text in line if isinstance(text, str) and ("|" in text or "\n" in text or not text)]


@pytest.mark.parametrize("name", GOLDEN)
def test_every_golden_file_is_compared(name):
    source = "".join(path.read_text() for path in FILES)
    # Training steps and schedules are loaded under a name that is put together.
    assert f'"{name}"' in source or f'"{name.removeprefix("train_step_")}"' in source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_reports_files_keep_the_limits_of_size(path):
    assert architecture.what_is_too_long(path) == []
