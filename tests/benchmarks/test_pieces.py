"""Runs in pieces: the clock of all calls, stops, and what is made of a killed or failing run, with fake children."""

import json
import signal
import time

import pytest

from benchmarks import children, page
from benchmarks.gpu_rows import pieces, speedrun

# Does in a second what a run does in hours: metrics first, then the line about it, and a state that it goes on from.
CHILD = """
import json, pathlib, signal, sys, time
words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words["workdir"]); folder.mkdir(parents=True, exist_ok=True)
state, stop = folder / "state", []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1) if not stop else sys.exit(9))
say = lambda line: print(line, file=sys.stderr, flush=True)
step = int(state.read_text()) if state.exists() else 0
path = folder / "metrics.jsonl"
rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
path.write_text("".join(json.dumps(row) + "\\n" for row in rows if row["step"] <= step))
def write(**row):
    with open(path, "a") as file:
        file.write(json.dumps({"step": step, **row}) + "\\n")
say("digits: 1348 images on the device, batch 64, 6 steps, 1 x fake (gpu). A loss of 4.8 means ...")
say(f"Going on from step {step}." if step else "Compiling the training step ...")
first = True
while step < int(words.get("steps", 6)) and not stop:
    step += 1
    if first:
        write(first_dispatch_seconds=0.25)
    first = False
    write(epoch=step / 2, images_per_second=100.0 * step)
    if step == int(words.get("fail", 0)):
        say("ValueError: something"); sys.exit(1)
    write(knn_accuracy=step / 10, evaluation_seconds=0.5, peak_bytes=1000 * step)
    say(f"step {step}/6  kNN accuracy on the test split {10 * step:.1f} %")
    time.sleep(float(words.get("nap", 0.05)))
state.write_text(str(step))
sys.exit(143 if stop else 0)
"""


@pytest.fixture
def go_on(tmp_path, monkeypatch):
    """Runs a piece of the fake program in the folder "a": (minutes of the clock, its words, how it is judged)."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)

    def go_on(minutes, *words, clock=None, verdict=lambda folder, line: ""):
        monkeypatch.setattr(pieces, "train_words", lambda config, overrides: [str(script), *words])
        plan = pieces.Plan(tmp_path, {"a": ("fake", 0)}, {}, verdict)
        return pieces.go_on(tmp_path / "a", plan, clock or children.Clock(minutes))

    return go_on


def test_a_run_to_its_end_is_one_piece(go_on, tmp_path):
    run = go_on(1)
    assert run.ended == "finished" and [(step, score) for _, step, score in run.scores] == [
        (step, step / 10) for step in range(1, 7)
    ]
    assert (run.epochs, run.peak_bytes, run.images_per_second, run.best) == (3.0, 6000, 350.0, 0.6)
    assert (run.compiling, run.evaluating, run.devices) == (0.25, 3.0, "1 x fake (gpu)")
    assert 0 < run.starting / 60 < run.scores[0][0] <= run.scores[-1][0] <= run.minutes
    assert run.first(0.3) == run.scores[2] and run.first(0.7) is None


def test_a_score_that_is_enough_stops_the_run_once(go_on, tmp_path):
    run = go_on(1, verdict=pieces.reaching(0.2))
    assert run.ended == "reached" and run.first(0.2)[1] == 2
    assert len(run.scores) < 6


def test_the_clock_stops_a_run_and_the_next_call_goes_on(go_on, tmp_path):
    clock = children.Clock(1)
    # As a clock that has run down would, after the second score.
    stopped = go_on(1, "--nap=0.3", clock=clock, verdict=lambda folder, line: ("step 2" in line and clock.stop()) or "")
    assert stopped.ended == "" and 2 <= len(stopped.scores) < 6
    whole = go_on(1, "--nap=0.3")
    assert whole.ended == "finished" and [step for _, step, _ in whole.scores] == [1, 2, 3, 4, 5, 6]
    assert whole.minutes > stopped.minutes and whole.compiling == 0.5  # two processes have begun
    minutes = [at for at, _, _ in whole.scores]
    assert minutes == sorted(minutes) and minutes[len(stopped.scores)] > stopped.minutes
    assert len(json.loads((tmp_path / "a" / "calls.json").read_text())) == 2


def test_a_failing_run_ends_with_what_it_said_last(go_on, tmp_path):
    run = go_on(1, "--fail=2")
    assert run.ended == "exit 1: ValueError: something"


def test_a_call_that_was_killed_keeps_its_time_and_what_is_done_again_counts_once(go_on, tmp_path):
    """As a machine that is taken away leaves it: the log of the call has no end, the newest state is older."""
    go_on(1, "--steps=4")
    log = tmp_path / "a" / "calls.json"
    (call,) = json.loads(log.read_text())
    log.write_text(json.dumps([{**call, "ended": "", "seconds": 100.0}]))
    (tmp_path / "a" / "run" / "state").write_text("2")
    run = go_on(1)
    assert [step for _, step, _ in run.scores] == [1, 2, 3, 4, 5, 6]
    assert run.scores[1][0] < 100 / 60 < run.scores[2][0]  # the steps that were lost are scored when done again


def test_a_child_that_does_not_stop_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PATIENCE_SECONDS", 0.5)
    script = tmp_path / "stuck.py"
    script.write_text("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)")
    monkeypatch.setattr(pieces, "train_words", lambda config, overrides: [str(script)])
    begin = time.monotonic()
    plan = pieces.Plan(tmp_path, {"a": ("fake", 0)}, {})
    run = pieces.go_on(tmp_path / "a", plan, children.Clock(4 / 60))  # seconds enough for Python to start under load
    assert run.ended.startswith("exit -9") and time.monotonic() - begin < 30


def test_a_signal_to_this_process_ends_the_clock_and_the_run_saves(go_on, tmp_path):
    clock = children.Clock(1)
    stop = lambda folder, line: ("step 1" in line and signal.raise_signal(signal.SIGTERM)) or ""  # noqa: E731
    run = go_on(1, "--nap=0.4", clock=clock, verdict=stop)
    assert clock.left <= 0 and run.ended == "" and (tmp_path / "a" / "run" / "state").exists()


def test_nothing_has_begun_in_an_empty_folder(tmp_path):
    run = pieces.read(tmp_path)
    assert (run.minutes, run.scores, run.best, run.ended) == (0, (), None, "")


def test_words_and_numbers_of_tables():
    words = ["-m", "simclr_jax", "train", "--config=demo", "--config.seed=1"]
    assert pieces.train_words("demo", {"seed": 1}) == words
    assert speedrun.share(30.0, 2.0) == "30 s (25 %)"
    assert [page.mean_and_spread(v, ".1f") for v in ([], [2.0], [1.0, 3.0])] == ["-", "2.0", "2.0 ± 1.4"]
    names = ["tfds:cifar10", "tfds:cifar10/jpeg", "folder:data/cifar10_jpeg", "digits"]
    titles = [pieces.data_title({"data.name": name}) for name in names]
    assert titles == ["CIFAR-10", *["CIFAR-10 (JPEG)"] * 2, "digits"]
