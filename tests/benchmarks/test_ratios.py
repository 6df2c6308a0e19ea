"""Our speed beside that of a small kernel, against the recorded ratio: slow, for it takes the time of many calls."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import ratios, timing

RECORDED = json.loads(ratios.RECORD.read_text())["ratios"]


def test_a_fallen_ratio_is_named():
    assert ratios.fallen({"a": 0.8, "b": 0.74}, {"a": 1.0, "b": 1.0}) == [
        "b: 0.740 of the kernel's speed, recorded 1.000"
    ]
    assert len(ratios.fallen({"a": float("nan")}, {"a": 1.0})) == 1
    assert set(RECORDED) == set(ratios.PAIRS_OF_CALLS)


def test_the_smaller_time_of_calls_in_turns_counts():
    calls = []
    fast, slow = ratios.best_of_each(lambda: calls.append("a"), lambda: calls.append(sum(range(200_000))), turns=3)
    assert len(calls) == 8 and 0 <= fast < slow


@pytest.mark.slow
def test_no_recorded_ratio_has_fallen_by_more_than_a_quarter():
    command = [sys.executable, "benchmarks/ratios.py"]
    environment = {**os.environ, **timing.ONE_THREAD}
    # A loss of speed shows in every attempt; a neighbour that takes the memory's bandwidth does not.
    for _ in range(3):
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=timing.ROOT, timeout=200, env=environment
        )
        fallen = ratios.fallen(json.loads(done.stdout.splitlines()[-1]), RECORDED)
        if not fallen:
            return
    pytest.fail("; ".join(fallen))
