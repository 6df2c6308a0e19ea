"""The search for the largest batch: its steps, its results and its going on with fake tries; the tiny form is slow."""

import sys

import pytest

from benchmarks import children
from benchmarks.gpu_rows import memory
from tests.devices import run_tiny


@pytest.mark.parametrize("start", [8, 96, 1000, 4096, 100_000])
@pytest.mark.parametrize("largest", [8, 500, 1024, 5000])
def test_the_search_ends_within_the_tolerance_from_any_start(start, largest):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= largest

    low, high = memory.search(fits, start=start, unit=8)
    assert low <= largest < high and high - low <= max(8, 0.05 * low)
    assert len(tried) == len(set(tried)) <= 24 and all(batch % 8 == 0 for batch in tried)


def test_a_good_prediction_takes_few_tries():
    tried = []
    memory.search(lambda batch: tried.append(batch) or batch <= 2600, start=2500, unit=8)
    assert len(tried) == 3


def test_the_search_stops_at_the_cap_and_where_nothing_fits():
    assert memory.search(lambda batch: True, start=30_000, unit=64, cap=50_000) == (49_984, 0)
    assert memory.search(lambda batch: False, start=30_000, unit=64) == (0, 64)


@pytest.mark.slow
def test_predictions_of_the_model_are_its_own_largest_batch():
    """The peak of the predicted batch is within the memory, that of the next is not; a resident split counts once."""
    case, available = memory.CASES["CIFAR ResNet-18"], 20_000_000_000
    largest, peak = memory.predict(case, kind="h200", memory=available)
    assert 1000 < largest < case.cap and peak(largest) <= available < peak(largest + case.unit)
    chunked, _ = memory.predict(memory.CASES["CIFAR ResNet-18, 8 chunks"], kind="h200", memory=available)
    assert chunked > 2 * largest


CASE = memory.SMALL


@pytest.fixture
def tries(monkeypatch, tmp_path):
    """(where tries are kept, the batches that were tried); up to 100 images fit, with 1000 bytes each."""
    tried = []

    def worker(given, clock):
        if not given:
            return {"name": "fake", "kind": "cpu", "limit_bytes": None}
        batch = given["batch"]
        tried.append(batch)
        return {"peak_bytes": 1000 * batch} if batch <= 100 else {"exhausted": "RESOURCE_EXHAUSTED"}

    monkeypatch.setattr(memory, "in_own_process", worker)
    monkeypatch.setattr(memory, "predict", lambda case, **_: (80, lambda batch: 1100 * batch))
    return tmp_path / "kept" / "tries.json", tried


def test_running_out_of_memory_is_a_result_and_the_table_tells_both_deviations(tries, capsys):
    path, tried = tries
    assert memory.run({"whole": CASE}, path, children.Clock(9))
    assert tried == [80, 96, 112]
    assert "| whole | 80 | 96 | -17 % | 9.6e-05 GB | 0.000106 GB | +10 % | 3 |" in capsys.readouterr().out


def test_a_call_without_time_keeps_the_tries_and_the_next_one_goes_on(tries, capsys, monkeypatch):
    path, tried = tries
    clock = children.Clock(9)
    known = memory.in_own_process
    monkeypatch.setattr(
        memory, "in_own_process", lambda given, clock: (clock.stop() if given else None) or known(given, clock)
    )
    assert not memory.run({"whole": CASE}, path, clock) and tried == [80]
    monkeypatch.setattr(memory, "in_own_process", known)
    assert memory.run({"whole": CASE}, path, children.Clock(9)) and tried == [80, 96, 112]
    assert "| whole | 80 | 96 |" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_tried(tries, capsys):
    path, tried = tries
    assert not memory.run({"whole": CASE._replace(budget=None)}, path, children.Clock(9)) and not tried
    assert "There is no GPU here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("import os; os.kill(os.getpid(), 9)", {"exhausted": "killed"}),
        ("raise RuntimeError('RESOURCE_EXHAUSTED: 5 GB')", {"exhausted": "RuntimeError: RESOURCE_EXHAUSTED: 5 GB"}),
        ("print('noise'); print('{\"peak_bytes\": 5}')", {"peak_bytes": 5}),
    ],
)
def test_a_worker_that_is_killed_or_out_of_memory_is_no_failure(monkeypatch, code, result):
    monkeypatch.setattr(children, "worker", lambda verb, given: [sys.executable, "-c", given["code"]])
    assert memory.in_own_process({"code": code}, children.Clock(1)) == result
    with pytest.raises(RuntimeError, match="exit 1: KeyError"):
        memory.in_own_process({"code": "raise KeyError('x')"}, children.Clock(1))


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes on idle cores
def test_the_tiny_form_finds_what_fits_its_budget():
    done = run_tiny("memory")
    assert done.stdout.count("RESOURCE_EXHAUSTED") >= 2 and "| 2 chunks, streamed |" in done.stdout
