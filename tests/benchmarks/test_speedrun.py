"""The race: its order, its table and its picture with fake runs; the tiny form as a slow test."""

import pytest

from benchmarks import children, gpu
from benchmarks.gpu_rows import pieces, speedrun
from tests.devices import run_tiny

RUN = pieces.Summary(
    minutes=10.0,
    starting=6.0,
    compiling=60.0,
    evaluating=30.0,
    scores=((4.0, 100, 0.8), (8.0, 200, 0.901), (9.0, 300, 0.91)),
    epochs=12.0,
    peak_bytes=None,
    images_per_second=100.0,
    devices="1 x fake (gpu)",
    ended="reached",
)


@pytest.fixture
def contest(tmp_path, monkeypatch):
    """(a plan of two seeds, the runs that were started, what each ends with)."""
    started, ends, logs = [], {}, {}

    def go_on(folder, plan, clock):
        started.append((folder.name, plan.runs[folder.name]))
        logs[folder.name] = RUN._replace(ended=ends.get(folder.name, "reached"))
        return logs[folder.name]

    empty = RUN._replace(ended="", scores=(), minutes=0.0)
    monkeypatch.setattr(pieces, "go_on", go_on)
    monkeypatch.setattr(pieces, "read", lambda folder: logs.get(folder.name, empty))
    return speedrun.make_plan(tmp_path, "ours", (3, 4), target=0.9, overrides={"data.name": "digits"}), started, ends


def test_seeds_run_one_after_another_and_none_twice(contest):
    asked, started, _ = contest
    assert pieces.make_all(asked, children.Clock(9)) and pieces.make_all(asked, children.Clock(9))
    assert started == [("ours-seed3", ("cifar10_speedrun", 3)), ("ours-seed4", ("cifar10_speedrun", 4))]


def test_a_seed_that_was_stopped_goes_on_before_the_next_begins(contest, tmp_path):
    asked, started, ends = contest
    ends["ours-seed3"] = ""
    assert not pieces.make_all(asked, children.Clock(9))
    ends["ours-seed3"] = "finished"
    asked = speedrun.make_plan(tmp_path, "ours", (3, 4), target=0.9, overrides={}, epochs=7)
    assert pieces.make_all(asked, children.Clock(9))
    assert [name for name, _ in started] == ["ours-seed3", "ours-seed3", "ours-seed4"]
    assert started[-1][1] == ("cifar10_speedrun:epochs=7", 4)


def test_no_run_begins_with_too_little_left_and_a_failure_is_told(contest):
    asked, started, ends = contest
    assert not pieces.make_all(asked, children.Clock(pieces.LEAST_SECONDS / 60 - 0.1)) and not started
    ends["ours-seed3"] = "exit 1: no data"
    with pytest.raises(RuntimeError, match="ours-seed3: exit 1: no data"):
        pieces.make_all(asked, children.Clock(9))


def test_what_went_wrong_is_one_line(contest, capsys, tmp_path):
    contest[2]["ours-seed0"] = "exit 2: simclr-jax train: no such data"
    assert gpu.main(["speedrun", f"--workdir={tmp_path}"]) == 1
    assert capsys.readouterr().err == "gpu.py speedrun: ours-seed0: exit 2: simclr-jax train: no such data\n"


FOUND = {"ours": {0: RUN, 1: RUN._replace(scores=((5.0, 1, 0.95),))}, "peer": {0: RUN._replace(scores=(), ended="")}}


def test_the_table_of_fixed_numbers():
    assert speedrun.table(FOUND, 0.9).splitlines() == [
        "| recipe | seed | minutes to 90 % | epochs | best kNN | starting | compiling | evaluating |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| ours | 0 | 8.0 | 12 | 91.00 | 6 s (1 %) | 60 s (10 %) | 30 s (5 %) |",
        "| ours | 1 | 5.0 | 12 | 95.00 | 6 s (1 %) | 60 s (10 %) | 30 s (5 %) |",
        "| ours | 2 of 2 seeds | 6.5 ± 2.1 |  | 93.00 ± 2.83 |  |  |  |",
        "| peer | 0 | not in 10.0, goes on | 12 | - | 6 s (1 %) | 60 s (10 %) | 30 s (5 %) |",
        "| peer | 0 of 1 seeds | - |  | - |  |  |  |",
    ]


def test_the_picture_is_drawn_also_for_runs_without_a_score(tmp_path):
    from PIL import Image

    speedrun.draw(FOUND, 0.9, title="digits", path=tmp_path / "speedrun.png")
    with Image.open(tmp_path / "speedrun.png") as picture:
        # Lines of both recipes' colours but the peer's, which has no score, and marks in the legend for both.
        colors = {color for _, color in picture.convert("RGB").getcolors(2**20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colors


def test_without_a_run_there_is_no_report_and_without_a_folder_no_run(tmp_path, capsys):
    plan = speedrun.make_plan(tmp_path, "ours", (0,), target=0.9, overrides={})
    assert speedrun.report(plan, 0.9, output=tmp_path) == ""
    assert gpu.main(["speedrun"]) == 2 and "--workdir is required" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tiny_form_stops_goes_on_and_reaches_its_target(tmp_path):
    done = run_tiny("speedrun", f"--workdir={tmp_path}")
    assert "Going on from step" in done.stderr and "| ours | 2 of 2 seeds |" in done.stdout
    assert {"speedrun.png", "speedrun.md"} <= {path.name for path in (tmp_path / "tiny").iterdir()}
