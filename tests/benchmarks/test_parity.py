"""The parity page: what a comparison is, what a failing one does to the run, and what the page says of it."""

import math
import re

import numpy as np
import pytest

from benchmarks import parity as program
from tests import parity
from tests import test_architecture as architecture

FILES = [
    architecture.ROOT / file for file in program.files_of(" ".join([*program.GROUPS.values(), program.DIFFERENCES]))
]
GOLDEN = sorted(path.stem for path in (architecture.ROOT / "tests/golden").glob("*.npz"))


def holds(ours, theirs, **tolerance) -> bool:
    return parity.measure("thing", ours, theirs, **tolerance).holds


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_no_number_does_not_hold(bad):
    assert not holds([1.0, bad], [1.0, 1.0], limit=1e-3)


def test_arrays_of_other_shapes_are_an_error_and_not_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        holds(np.ones((2, 3)), np.ones(3), limit=1.0)


def test_tolerances_are_relative_to_what_they_say():
    ours, theirs = [100.0, 1.0], [100.0, 1.01]
    assert holds(ours, theirs, limit=1e-3, of=parity.LARGEST)
    assert not holds(ours, theirs, limit=1e-3, of=parity.EACH)
    assert not holds(ours, theirs, limit=1e-3)
    assert holds(1.0, 1.5, limit=1e-3, of="of the peak", scale=1000.0)
    with pytest.raises(ValueError, match="'of the peak' needs a scale"):
        holds(1.0, 1.0, limit=1e-3, of="of the peak")


def test_without_a_tolerance_equality_is_asked_for():
    assert holds(3, 3) and not holds(3, 3 + 1e-15)


def test_errors_are_the_largest_ones():
    found = parity.measure("thing", [1.0, 4.5], [1.0, 4.0], limit=1.0, source="NumPy")
    assert found == ("thing", "NumPy", 1.0, "absolute", 0.5, 0.125, 0.5)


def test_pytests_workers_can_send_what_is_recorded():
    found = parity.measure("thing", np.float32(1), np.ones(()), limit=np.float64(1e-3), scale=np.float32(2))
    assert {type(value) for value in found} == {str, float}


class Node:
    """What the fixture needs of a test."""

    def __init__(self):
        self.node, self.user_properties = self, []


def test_a_failing_comparison_fails_the_test_and_is_recorded_all_the_same():
    test = Node()
    compare = parity.compare.__wrapped__(test)
    compare("thing", 1.0, 1.0)
    with pytest.raises(AssertionError, match=r"thing, TF2: 1\.00e-02"):
        compare("thing", 1.01, 1.0, limit=1e-3)
    assert [kind for kind, _ in test.user_properties] == ["compared"] * 2


def make_found(*compared, **changes):
    found = program.Found()
    for one in compared:
        found.rows.setdefault(program.Row("NT-Xent", one.component, one.source), []).append(one)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


GOOD = parity.measure("loss", 1.0005, 1.0, limit=1e-3)
PAGE = program.PAGE.read_text()


def test_the_page_of_fixed_comparisons():
    bad = parity.measure("gradient", 2.0, 1.0, source="TF1")
    found = make_found(GOOD, bad, GOOD, failed={"test_x": "AssertionError"}, not_run={"test_y": "no torch"})
    page = program.render(PAGE, found)
    assert "| loss | TF2 | 2 | 5.0e-04 | 5.0e-04 | 1.0e-03 absolute | pass |" in page
    assert "| gradient | TF1 | 1 | 1.0e+00 | 1.0e+00 | exact | **FAIL** |" in page
    assert "**1 tests FAIL.**" in page and "| not run | test_y: no torch |" in page
    assert program.rows_of(page) == {program.Row("NT-Xent", "loss", "TF2"), program.Row("NT-Xent", "gradient", "TF1")}
    assert program.topics(page).keys() == program.topics(PAGE).keys()


def test_measured_effects_take_their_place_beside_the_words():
    page = program.with_effects(PAGE, {"crop sampler": "a new effect"})
    cells = program.topics(page)
    assert cells["crop sampler"][3] == "a new effect" and cells["smallest crop"][3] == "not run"
    assert cells["crop sampler"][:3] == program.topics(PAGE)["crop sampler"][:3]


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Runs the program on what was found: the exit code, and the page if it was written."""

    def run(found, *words):
        monkeypatch.setattr(program, "run", lambda words: found)
        out = tmp_path / "parity.md"
        return program.main([f"--out={out}", *words]), out

    monkeypatch.setattr(program, "PAGE", tmp_path / "page.md")
    program.PAGE.write_text(program.render(PAGE, make_found(GOOD)))
    return run


def test_a_failure_a_row_that_is_gone_and_an_effect_without_a_line_fail_the_run(report, capsys):
    assert report(make_found(GOOD))[0] == 0
    assert report(make_found(GOOD, failed={"test_x": "why"}))[0] == 1
    assert report(make_found(GOOD, effects={"a topic": "1"}))[0] == 1
    assert report(make_found(GOOD._replace(component="another")))[0] == 1
    assert "not compared any more: Row(group='NT-Xent', component='loss', source='TF2')" in capsys.readouterr().out
    # Without a peer some rows are missing, which is no failure.
    assert report(make_found(GOOD._replace(component="another"), not_run={"test_y": "no torch"}))[0] == 0


def test_a_selection_writes_nothing_and_an_empty_one_fails(monkeypatch):
    monkeypatch.setattr(program, "run", lambda words: make_found(GOOD) if words == ["-k", "loss"] else make_found())
    monkeypatch.setattr(program, "render", lambda *_: pytest.fail("the page was written"))
    assert program.main(["--only=loss"]) == 0
    assert program.main(["--only=nothing at all"]) == 1


@pytest.mark.parametrize("name", GOLDEN)
def test_every_golden_file_is_compared(name):
    source = "".join(path.read_text() for path in FILES)
    # Training steps and checkpoints are loaded under a name that is put together.
    known = {name, name.removeprefix("train_step_"), re.sub(r"^(ckpt)_(tf\d)_(.*)$", r"\3", name)}
    assert any(f'"{word}"' in source for word in known)


def test_every_file_that_compares_belongs_to_a_group():
    asks = re.compile(r"def test_\w+\([^)]*\b(compare|effect)\b")
    folders = architecture.ROOT / "tests", architecture.ROOT / "benchmarks"
    assert {path for folder in folders for path in folder.rglob("*.py") if asks.search(path.read_text())} == set(FILES)


def test_every_topic_of_the_page_is_measured_and_no_other():
    source = "".join(path.read_text() for path in FILES if path.parent.name == "differences")
    topics = program.topics(PAGE)
    assert len(topics) > 30 and [topic for topic in topics if f'"{topic}"' not in source] == []
