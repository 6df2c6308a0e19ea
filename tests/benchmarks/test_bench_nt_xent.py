"""The timings of the loss: that they run, and that a wrong result does not get a time."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import bench_nt_xent, timing
from tests import oracles


@pytest.mark.slow
def test_the_quick_run_prints_one_line_of_json_a_process_and_a_table():
    command = [sys.executable, "benchmarks/bench_nt_xent.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=timing.ROOT, timeout=200)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["name"] for line in lines] == ["blockwise", "naive JAX"]
    for line in lines:
        assert line["batch_size"] == 32 and min(line["cpu_ms"] + line["wall_ms"]) > 0 and line["extra_mb"] >= 0
        assert line["loss_error"] < 1e-6 and line["commit"] and line["hardware"] and line["versions"]["jax"]
    assert "| blockwise |" in done.stdout


def test_the_measure_of_errors_is_float64():
    z = bench_nt_xent.projections(5)
    loss = oracles.nt_xent(z, temperature=bench_nt_xent.TEMPERATURE)
    errors = bench_nt_xent.errors_in_float64(z, (loss, np.zeros_like(z)))
    assert errors["loss_error"] < 1e-12 and errors["gradient_error"] == pytest.approx(1)


def test_another_result_than_the_first_is_marked_as_an_error():
    values = {"a": [1.0, 2.0], "b": [1.0, 2.00001], "c": [2.0, 2.0]}
    results = {name: [{"values": numbers}] for name, numbers in values.items()}
    bench_nt_xent.same(results)
    assert [name for name, rounds in results.items() if "error" in rounds[0]] == ["c"]


def test_a_failing_job_is_reported_and_not_started_again(capsys):
    line = {"cpu_ms": [1.0, 3.0]}
    jobs = [
        timing.Job("bad", [sys.executable, "-c", "raise SystemExit('no such library')"]),
        timing.Job("good", [sys.executable, "-c", f"print({json.dumps(json.dumps(line))})"]),
    ]
    results = timing.alternate(jobs, rounds=2, timeout=60)
    assert len(results["bad"]) == 1 and "no such library" in results["bad"][0]["error"]
    assert timing.summary(results["good"], "cpu_ms") == (2.0, 1.0, 3.0)
    assert len(capsys.readouterr().out.splitlines()) == 3
