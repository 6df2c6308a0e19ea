"""The programs of timings: they run without peers, refuse what computes something else, and make the right tables."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import (
    bench,
    bench_augment,
    bench_input,
    bench_nt_xent,
    bench_startup,
    bench_train_step,
    children,
    harness,
    peers,
    timing,
)
from benchmarks import page as page_lib
from simclr_jax.run import config as config_lib
from tests import oracles
from tests import test_architecture as architecture

FILES = sorted((architecture.ROOT / "benchmarks").rglob("*.py"))
ABOUT = {
    "commit": "abc1234",
    "python": "3.11.7",
    "versions": {"jax": "0.10.2"},
    "hardware": "2 CPU cores",
    "date": "2026-11-22",
}


def make_program(**changes):
    ours = harness.Implementation(lambda case: harness.Work({}, lambda: None))
    peer = ours._replace(needs=("a_module_that_is_nowhere",), python="peers")
    settings = {
        "cases": ("small", "large"),
        "quick": ["small"],
        "implementations": {"ours": ours, "peer": peer},
        "compare": lambda theirs, ours: "",
        "packages": ("jax",),
        "number": "per second",
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
        "| ours | 5,000 (4,000 to 10,000), 250 MB (+20) | 2,000 (2,000 to 2,000), 200 MB (+20) |",
        "| peer | 1,429 (1,000 to 2,500), x3.50, 200 MB (+20) | not installed |",
    ]


def test_the_ratio_is_the_peers_cost_also_where_the_number_is_a_time():
    program = make_program(number="ms")
    results = {"small": {"ours": [result(10.0)], "peer": [result(5.0)]}}
    assert "| peer | 0.05 (0.05 to 0.05), x0.50, 200 MB (+20) |" in harness.table(program, results)


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
    page = "before\n<!-- x: from here on written by a program -->\n\nold\n\n<!-- end of x -->\nbehind\n"
    replaced = page_lib.replace_part(page, "x", "new")
    assert replaced == page.replace("old", "new")
    assert page_lib.replace_part(replaced, "x", "old") == page
    with pytest.raises(ValueError, match="once each"):
        page_lib.replace_part(page, "y", "new")


@pytest.mark.parametrize("name", bench.PROGRAMS)
def test_the_page_has_a_place_for_every_program(name):
    assert page_lib.replace_part(bench.load(name).page.read_text(), f"bench_{name}", "new")


def test_make_bench_runs_every_program_within_its_minutes(monkeypatch):
    assert sum(share for _, share, _ in bench.PROGRAMS.values()) == pytest.approx(1)
    asked = {}
    monkeypatch.setattr(harness, "run", lambda name, program, options: asked.update({name: options}) or 0)
    assert bench.main(["all", "--minutes=10", "--rounds=2", "--peers_python=/there/python"]) == 0
    assert asked.keys() == {name for name, (_, share, _) in bench.PROGRAMS.items() if share}
    assert sum(options.minutes for options in asked.values()) == pytest.approx(10)
    loss = asked["nt_xent"]
    assert loss.write and (loss.case, loss.repeats, loss.rounds) == (["B=256", "B=4096"], 1, 2)
    shown = harness.shown_command(loss.words)
    assert shown.startswith("python benchmarks/bench.py") and "--peers_python=PYTHON" in shown and "/there" not in shown


def test_a_case_is_named_or_all_that_have_a_word_in_their_names_are_taken(monkeypatch):
    asked = {}
    monkeypatch.setattr(harness, "_race", lambda *_, cases, **__: asked.update(cases=cases) or {})
    for words, cases in ((["--case=B=256"], ["B=256"]), (["--case=65536"], ["B=65536"]), (["--quick"], ["B=32"])):
        assert bench.main(["nt_xent", *words]) == 0 and asked["cases"] == cases
    assert bench.main(["step_table", "--case=resnet50, cifar"]) == 0
    assert len(asked["cases"]) == len(bench_train_step.SIZES)


def test_files_fit_in_350_lines_and_functions_in_40_lines_of_code():
    assert {str(path): found for path in FILES if (found := architecture.what_is_too_long(path))} == {}


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


def test_the_table_of_steps_has_a_row_a_network_and_a_column_a_size():
    small, large = "resnet18, cifar stem, 32 px", "resnet50, imagenet stem, 64 px"
    views = {case: 2 * bench_train_step.GRID[case].batch_size for case in (small, large)}
    results = {
        small: {"ours": [result(views[small])], "torch": [result(2.0 * views[small])]},
        large: {"ours": [result(3.0 * views[large])], "torch": [{"error": "odd"}]},
    }
    lines = bench_train_step.grid_table(results).splitlines()
    assert lines[0] == "| network | 32 px | 64 px |"
    assert lines[2:] == ["| resnet18, cifar stem | 1 / 2 | - |", "| resnet50, imagenet stem | - | 3 / failed |"]


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


def test_another_loss_of_the_projections_is_refused():
    ours = {"values": [1.0, 2.0], "loss_error": 1e-7, "gradient_error": 1e-7}
    assert not bench_nt_xent.compare({"values": [1.0, 2.00001]}, ours)
    assert "are not" in bench_nt_xent.compare({"values": [2.0, 2.0]}, ours)
    assert "off by" in bench_nt_xent.compare({**ours, "gradient_error": 1e-3}, ours)


def test_the_measure_of_errors_is_float64():
    z = bench_nt_xent.projections(5)
    loss = oracles.nt_xent(z, temperature=bench_nt_xent.TEMPERATURE)
    errors = bench_nt_xent.errors_in_float64(z, (loss, np.zeros_like(z)))
    assert errors["loss_error"] < 1e-12 and errors["gradient_error"] == pytest.approx(1)


def test_costly_forms_are_not_asked_for_large_batches():
    applies = bench_nt_xent.applies
    assert applies("B=256", "optax") and not applies("B=1024", "optax") and applies("B=8192", "dense")
    assert applies("B=65536", "blockwise") and not applies("B=65536", "lightly")


class Options:
    """What a worker is told."""

    case, repeats, worker = ("small",), 1, "ours"


@pytest.mark.slow
def test_a_worker_is_checked_before_its_calls_or_behind_them(tmp_path):
    said = []
    implementations = {
        "ours": harness.Implementation(lambda case: harness.Work(lambda: said.append("fact") or 1, said.clear)),
        "peer": harness.Implementation(lambda case: harness.Work(2, lambda: said.append("call"))),
    }
    program = make_program(implementations=implementations, compare=lambda one, other: "" if one == other else "odd")
    options = Options()
    options.facts = str(tmp_path / "facts.json")
    line = harness.work(program, options)
    assert said == ["fact"] and line["facts"] == 1 and line["case"] == "small" and len(line["cpu_ms"]) >= 1
    said.clear()
    options.worker = "peer"
    with pytest.raises(SystemExit, match="computes something else: odd"):
        harness.work(program, options)
    assert said == []


def test_a_job_without_its_library_is_absent_and_rounds_end_with_the_time(capsys):
    jobs = {
        "gone": [sys.executable, "-c", "import a_module_that_is_nowhere"],
        "good": [sys.executable, "-c", "print('{}')"],
    }
    results = timing.alternate(jobs, rounds=3, timeout=60, seconds=0.0)
    assert "a_module_that_is_nowhere" in results["gone"][0]["absent"] and len(results["good"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_failing_job_is_reported_and_not_started_again(capsys):
    line = {"cpu_ms": [1.0, 3.0]}
    jobs = {
        "bad": [sys.executable, "-c", "raise SystemExit('no such library')"],
        "good": [sys.executable, "-c", f"print({json.dumps(json.dumps(line))})"],
    }
    results = timing.alternate(jobs, rounds=2, timeout=60)
    assert len(results["bad"]) == 1 and "no such library" in results["bad"][0]["error"]
    assert timing.summary(results["good"], "cpu_ms") == (2.0, 1.0, 3.0)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_official_code_counts_as_absent_without_its_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SIMCLR_TF2_FOLDER", str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="SIMCLR_TF2_FOLDER does not name"):
        peers.official_code("objective.py")
    assert "official TF2" in bench_nt_xent.PROGRAM.implementations


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, share, _) in bench.PROGRAMS.items() if share])
def test_the_quick_run_works_without_peers(name):
    program = bench.load(name)
    # As if no peer were installed, also where one is.
    ours = [who for who in program.implementations if who.startswith(("simclr_jax", "blockwise", "naive JAX"))]
    command = [sys.executable, "benchmarks/bench.py", name, "--quick", f"--only={','.join(ours)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=timing.ROOT, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    expected = [(case, who) for case in program.quick for who in ours if program.applies(case, who)]
    assert [(line["case"], line["name"]) for line in lines] == expected
    for line in lines:
        assert min(line["cpu_ms"] + line["wall_ms"]) > 0 and line["peak_mb"] > 0
        assert line["commit"] and line["hardware"] and line["versions"]["jax"]
    assert f"| {lines[0]['name']} |" in done.stdout


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_a_row_and_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(children, "missing", lambda needs: "it is not installed" if needs else "")
    assert bench.main(["augment", "--quick"]) == 0
    assert capsys.readouterr().out.count("not installed |") == len(bench_augment.PROGRAM.implementations) - 1
