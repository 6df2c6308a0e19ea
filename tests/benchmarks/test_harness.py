"""The programs of timings: they run without peers, refuse what computes something else, and make the right tables."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import (
    bench_all,
    bench_augment,
    bench_input,
    bench_nt_xent,
    bench_startup,
    bench_train_step,
    harness,
    step_table,
    timing,
)
from simclr_jax.run import config as config_lib
from tests import test_architecture as architecture

PROGRAMS = {
    module.PROGRAM.stem: module.PROGRAM for module in (bench_augment, bench_train_step, bench_input, bench_startup)
}
FILES = sorted((architecture.ROOT / "benchmarks").glob("*.py"))
ABOUT = {
    "commit": "abc1234",
    "python": "3.11.7",
    "versions": {"jax": "0.10.2"},
    "hardware": "2 CPU cores",
    "date": "2026-11-22",
}


def make_program(**changes):
    ours = harness.Implementation(lambda case, quick: harness.Work({}, lambda: None))
    peer = ours._replace(needs=("a_module_that_is_nowhere",), python="peers")
    settings = {
        "file": __file__,
        "cases": ("small", "large"),
        "quick": ["small"],
        "implementations": {"ours": ours, "peer": peer},
        "compare": lambda theirs, ours: "",
        "packages": ("jax",),
        "number": harness.per_second,
        "unit": "images per CPU second",
        "words": "What is\n    measured.",
    }
    return harness.Program(**{**settings, **changes})


def result(*cpu_ms, **changes):
    return {"cpu_ms": list(cpu_ms), "peak_mb": 200.0, "extra_mb": 20.0, "amount": 100.0, "versions": {}} | changes


RESULTS = {
    "small": {"ours": [result(10.0, 20.0), result(25.0, peak_mb=250.0)], "peer": [result(100.0), result(40.0)]},
    "large": {"ours": [result(50.0)], "peer": [{"error": "exit 1: ModuleNotFoundError", "absent": "peer"}]},
}


def test_the_table_of_fixed_numbers():
    # 100 images in 10, 20, 25 ms are 10000, 5000, 4000 a second; the peer's median is 1428.6 by its median time of 70.
    assert harness.table(make_program(), RESULTS).splitlines() == [
        "| implementation | small | large |",
        "| --- | --- | --- |",
        "| ours | 5000 (4000 to 10000), 250 MB (+20) | 2000 (2000 to 2000), 200 MB (+20) |",
        "| peer | 1429 (1000 to 2500), x3.50, 200 MB (+20) | not installed |",
    ]


def test_the_ratio_is_the_peers_cost_also_where_the_number_is_a_time():
    program = make_program(number=lambda cpu_ms, amount: cpu_ms)
    results = {"small": {"ours": [result(10.0)], "peer": [result(5.0)]}}
    assert "| peer | 5 (5 to 5), x0.50, 200 MB (+20) |" in harness.table(program, results)


def test_failures_and_cases_without_a_program_are_rows():
    results = {"small": {"ours": [result(10.0)], "peer": [{"error": "exit 1: odd | thing"}]}, "large": {"ours": []}}
    assert harness.table(make_program(), results).splitlines()[-1] == "| peer | failed: odd / thing | - |"


def test_the_part_of_the_page_names_command_versions_hardware_and_date():
    text = harness.part(make_program(), RESULTS, ABOUT, command="python benchmarks/x.py")
    assert text.startswith(
        "What is measured.\n\n```\npython benchmarks/x.py\n```\n\n22 November 2026, commit abc1234, 2 CPU"
    )
    assert "Python 3.11.7, jax 0.10.2. 1 to 2 rounds. Images per CPU second, median (smallest to largest)" in text
    assert text.endswith("| not installed |")


def test_only_the_marked_part_of_the_page_is_replaced():
    page = "before\n<!-- x: from here on written by make bench -->\n\nold\n\n<!-- end of x -->\nbehind\n"
    replaced = harness.replace_part(page, "x", "new")
    assert replaced == page.replace("old", "new")
    assert harness.replace_part(replaced, "x", "old") == page
    with pytest.raises(ValueError, match="once each"):
        harness.replace_part(page, "y", "new")


@pytest.mark.parametrize("stem", bench_all.PROGRAMS)
def test_the_page_has_a_place_for_every_program(stem):
    assert harness.replace_part(harness.README.read_text(), stem, "new")


def test_make_bench_runs_every_program_within_its_minutes():
    # bench_program and bench_views look into compiled programs, which have no peers.
    scripts = {path.stem for path in FILES if path.stem.startswith("bench_")}
    scripts -= {"bench_all", "bench_program", "bench_views"}
    assert set(bench_all.PROGRAMS) == scripts == {*PROGRAMS, "bench_nt_xent"}
    assert sum(share for share, _ in bench_all.PROGRAMS.values()) == pytest.approx(1)


def test_the_shown_command_has_no_paths():
    options = harness._parser(make_program()).parse_args(
        ["--peers_python=/home/me/python", "--rounds=2", "--case=small"]
    )
    shown = harness.shown_command(make_program(), options)
    assert "/home" not in shown and "--rounds=2" in shown and "--peers_python=PYTHON_WITH_THE_PEERS" in shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_scripts_have_no_copy_of_the_program_and_fit_in_350_lines(path):
    source = path.read_text()
    assert source.count("\n") <= 350
    if path.stem.startswith("bench_") and path.stem not in ("bench_all", "bench_startup"):
        assert "from simclr_jax" in source


VIEWS = {"shape": [32, 32, 3], "range": [0.0, 1.0], "brightness": 0.45, "gradient": 0.06}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [3, 32, 32]}, "are not"),
        ({"range": [-2.1, 2.4]}, "leave"),
        ({"brightness": 0.6}, "brightness"),
        ({"brightness": float("nan")}, "brightness"),
        ({"gradient": 0.01}, "gradient"),
    ],
)
def test_views_with_other_statistics_are_refused(changes, words):
    assert words in bench_augment.compare({**VIEWS, **changes}, VIEWS)
    assert not bench_augment.compare({**VIEWS, "brightness": 0.46, "gradient": 0.07}, VIEWS)


def test_facts_of_views_are_those_of_the_pixels():
    views = np.zeros((4, 2, 2, 3), np.uint8)
    views[:, :, 1] = 255
    found = bench_augment.facts(lambda: views, calls=2)
    assert found == {"shape": [2, 2, 3], "range": [0.0, 1.0], "brightness": 0.5, "gradient": 1.0}


def test_a_step_with_another_loss_is_refused():
    assert not bench_train_step.compare([5.0001, 4.001], [5.0, 4.0])
    assert "first" in bench_train_step.compare([5.001, 4.0], [5.0, 4.0])
    assert "second" in bench_train_step.compare([5.0, 4.1], [5.0, 4.0])
    assert "first" in bench_train_step.compare([float("nan"), 4.0], [5.0, 4.0])


def test_steps_are_timed_for_the_network_of_every_shipped_config():
    timed = {case[:4] for case in bench_train_step.CASES.values()}
    for path in (timing.ROOT / "configs").glob("[!_]*.py"):
        config = config_lib.load_file(path.stem)
        encoder = config.encoder
        assert (encoder.name, encoder.width_multiplier, encoder.stem, config.augment.image_size) in timed, path.stem


def test_the_table_of_steps_has_a_row_a_network_and_a_place_on_its_page():
    cells = {"resnet18, cifar stem, 32 px": "1 / 2", "resnet50, imagenet stem, 64 px": "3 / 4"}
    lines = step_table.table(cells, [32, 64]).splitlines()
    assert lines[2:] == ["| resnet18, cifar stem | 1 / 2 | - |", "| resnet50, imagenet stem | - | 3 / 4 |"]
    assert harness.replace_part(step_table.PAGE.read_text(), "step_table", "new", by=step_table.BY)


def test_other_pictures_are_refused():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 6, 3), np.uint8) for _ in range(3)]
    ours = bench_input.quarters(pictures)
    assert not bench_input.compare(bench_input.quarters(pictures[::-1]), ours)
    assert "2 pictures are not 3" in bench_input.compare(ours[:2], ours)
    assert "differs" in bench_input.compare(bench_input.quarters([picture[:, ::-1] for picture in pictures]), ours)


def test_another_first_loss_of_the_started_program_is_refused():
    assert not bench_startup.compare({"loss": 5.0}, {"loss": 5.0}) and not bench_startup.compare({}, {})
    assert bench_startup.compare({"loss": 5.1}, {"loss": 5.0})


def test_a_job_without_its_library_is_absent_and_rounds_end_with_the_time(capsys):
    jobs = [
        timing.Job("gone", [sys.executable, "-c", "import a_module_that_is_nowhere"]),
        timing.Job("good", [sys.executable, "-c", "print('{}')"]),
    ]
    results = timing.alternate(jobs, rounds=3, timeout=60, seconds=0.0)
    assert "a_module_that_is_nowhere" in results["gone"][0]["absent"] and len(results["good"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_official_code_counts_as_absent_without_its_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SIMCLR_TF2_FOLDER", str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="SIMCLR_TF2_FOLDER does not name"):
        harness.folder_from_environment("SIMCLR_TF2_FOLDER", "objective.py")
    (tmp_path / "objective.py").touch()
    assert harness.folder_from_environment("SIMCLR_TF2_FOLDER", "objective.py") == str(tmp_path)
    assert "official TF2" in bench_nt_xent.IMPLEMENTATIONS


@pytest.mark.slow
@pytest.mark.parametrize("stem", PROGRAMS)
def test_the_quick_run_works_without_peers(stem):
    program = PROGRAMS[stem]
    # As if no peer were installed, also where one is.
    ours = [name for name in program.implementations if name.startswith("simclr_jax")]
    command = [sys.executable, f"benchmarks/{stem}.py", "--quick", f"--only={','.join(ours)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=timing.ROOT, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    expected = [(case, name) for case in program.quick for name in ours if program.applies(case, name)]
    assert [(line["case"], line["name"]) for line in lines] == expected
    for line in lines:
        assert min(line["cpu_ms"] + line["wall_ms"]) > 0 and line["peak_mb"] > 0
        assert line["commit"] and line["hardware"] and line["versions"]["jax"]
    assert f"| {lines[0]['name']} |" in done.stdout


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_a_row_and_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(
        harness, "_missing", lambda implementation: "ModuleNotFoundError" if implementation.needs else ""
    )
    assert harness.run(bench_augment.PROGRAM, ["--quick"]) == 0
    assert capsys.readouterr().out.count("not installed |") == len(bench_augment.PROGRAM.implementations) - 1
