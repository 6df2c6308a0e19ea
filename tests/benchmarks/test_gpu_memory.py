"""The search for the largest batch: its steps, its results and its going on with fake tries; the tiny form is slow."""

import json

import pytest

from benchmarks import gpu_memory, resumable
from tests.devices import run_tiny


@pytest.mark.parametrize("start", [8, 96, 1000, 4096, 100_000])
@pytest.mark.parametrize("largest", [8, 500, 1024, 5000])
def test_the_search_ends_within_the_tolerance_from_any_start(start, largest):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= largest

    low, high = gpu_memory.search(fits, start=start, unit=8)
    assert low <= largest < high and high - low <= max(8, 0.05 * low)
    assert len(tried) == len(set(tried)) <= 24 and all(batch % 8 == 0 for batch in tried)


def test_a_good_prediction_takes_few_tries():
    tried = []
    gpu_memory.search(lambda batch: tried.append(batch) or batch <= 2600, start=2500, unit=8)
    assert len(tried) == 3


def test_the_search_stops_at_the_cap_and_where_nothing_fits():
    assert gpu_memory.search(lambda batch: True, start=30_000, unit=64, cap=50_000) == (49_984, 0)
    assert gpu_memory.search(lambda batch: False, start=30_000, unit=64) == (0, 64)


@pytest.mark.slow
def test_predictions_of_the_model_are_its_own_largest_batch():
    """The peak of the predicted batch is within the memory, that of the next is not; a resident split counts once."""
    case, memory = gpu_memory.CASES["CIFAR ResNet-18"], 20_000_000_000
    largest, peak = gpu_memory.predict(case, kind="h200", memory=memory)
    assert 1000 < largest < case.cap and peak(largest) <= memory < peak(largest + case.unit)
    chunked, _ = gpu_memory.predict(gpu_memory.CASES["CIFAR ResNet-18, 8 chunks"], kind="h200", memory=memory)
    assert chunked > 2 * largest


CASE = gpu_memory._SMALL


@pytest.fixture
def tries(monkeypatch, tmp_path):
    """(where tries are kept, the batches that were tried); up to 100 images fit, with 1000 bytes each."""
    tried = []

    def worker(words, *, timeout):
        if words == ["--probe"]:
            return {"name": "fake", "kind": "cpu", "limit_bytes": None}
        batch = json.loads(words[0].partition("=")[2])["batch"]
        tried.append(batch)
        return {"peak_bytes": 1000 * batch} if batch <= 100 else {"exhausted": "RESOURCE_EXHAUSTED"}

    monkeypatch.setattr(gpu_memory, "in_own_process", worker)
    monkeypatch.setattr(gpu_memory, "predict", lambda case, **_: (80, lambda batch: 1100 * batch))
    return tmp_path / "kept" / "tries.json", tried


def test_running_out_of_memory_is_a_result_and_the_table_tells_both_deviations(tries, capsys):
    path, tried = tries
    assert gpu_memory.run({"whole": CASE}, path, resumable.Clock(9))
    assert tried == [80, 96, 112]
    assert "| whole | 80 | 96 | -17 % | 9.6e-05 GB | 0.000106 GB | +10 % | 3 |" in capsys.readouterr().out


def test_a_call_without_time_keeps_the_tries_and_the_next_one_goes_on(tries, capsys, monkeypatch):
    path, tried = tries
    clock = resumable.Clock(9)
    known = gpu_memory.in_own_process
    monkeypatch.setattr(
        gpu_memory, "in_own_process", lambda *a, **k: (clock.stop() if a[0] != ["--probe"] else None) or known(*a, **k)
    )
    assert not gpu_memory.run({"whole": CASE}, path, clock) and tried == [80]
    monkeypatch.setattr(gpu_memory, "in_own_process", known)
    assert gpu_memory.run({"whole": CASE}, path, resumable.Clock(9)) and tried == [80, 96, 112]
    assert "| whole | 80 | 96 |" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_tried(tries, capsys):
    path, tried = tries
    assert not gpu_memory.run({"whole": CASE._replace(budget=None)}, path, resumable.Clock(9)) and not tried
    assert "There is no GPU here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("import os; os.kill(os.getpid(), 9)", {"exhausted": "killed"}),
        ("raise RuntimeError('RESOURCE_EXHAUSTED: 5 GB')", {"exhausted": "RuntimeError: RESOURCE_EXHAUSTED: 5 GB"}),
        ("print('noise'); print('{\"peak_bytes\": 5}')", {"peak_bytes": 5}),
    ],
)
def test_a_worker_that_is_killed_or_out_of_memory_is_no_failure(monkeypatch, tmp_path, code, result):
    script = tmp_path / "worker.py"
    script.write_text(code)
    monkeypatch.setattr(gpu_memory, "__file__", str(script))
    assert gpu_memory.in_own_process([], timeout=60) == result
    script.write_text("raise KeyError('x')")
    with pytest.raises(RuntimeError, match="exit 1: KeyError"):
        gpu_memory.in_own_process([], timeout=60)


@pytest.mark.slow
def test_the_tiny_form_finds_what_fits_its_budget():
    done = run_tiny("gpu_memory.py")
    assert done.stdout.count("RESOURCE_EXHAUSTED") >= 2 and "| 2 chunks, streamed |" in done.stdout
