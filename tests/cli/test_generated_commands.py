"""Whatever a command line, a config file or a variable holds: a verb works, or refuses it in one line.

`SIMCLR_GENERATED=10000 pytest tests/cli/test_generated_commands.py` draws as many as one likes.
"""

import os
import pathlib
import shutil
import signal
import time

import matplotlib.pyplot  # noqa: F401  (an alarm in the middle of its import would leave half of it)
import numpy as np
import pytest
from PIL import Image

from simclr_jax import __main__ as cli
from simclr_jax import optim
from simclr_jax.run import config as config_lib
from simclr_jax.run import feature_file, program
from tests.cli import generated_commands as generated

COUNT = int(os.environ.get("SIMCLR_GENERATED", "300"))
FIRST = int(os.environ.get("SIMCLR_GENERATED_FROM", "0"))
SECONDS = 60
TRACE = os.environ.get("SIMCLR_GENERATED_TRACE")  # a file that says what is run, for the case that it never ends


class ThroughTheDoor(BaseException):
    """Everything was checked: what follows is the work itself."""


def check_program(config, mesh, *, shape, **more):
    """All of `program.make_program` that checks, without the network."""
    program.check_sections(config, mesh)
    sizes = program.run_length(config, num_examples=shape.num_examples)
    config_lib.call(optim.make_schedule, config, "schedule", **sizes)
    raise ThroughTheDoor


def stop_there(*given, **more):
    raise ThroughTheDoor


class TooLong(BaseException):
    """A command took longer than it may."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """verb -> flags of a good command line; the files that they name are there."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(folder / "pictures" / f"{number}.png")
    rows = feature_file.Rows(
        features=rng.normal(size=(12, 4)).astype(np.float32),
        names=np.array([f"{number}.png" for number in range(12)]),
        labels=np.arange(12, dtype=np.int32) % 2,
        paths=np.array([""] * 12),
        sizes=np.full((12, 2), 8, np.int32),
        digests=np.arange(12, dtype=np.uint64),
    )
    meta = {"format": feature_file.FORMAT, "fingerprint": "f", "class_names": ["a", "b"], "source": "s"}
    feature_file.save(folder / "f.npz", [rows], meta=meta, num_rows=12)
    features = {"--features": str(folder / "f.npz")}
    nothing = {"--workdir": str(folder / "nothing")}
    out = {"--output": str(folder / "out")}
    smoke = {"--config": "smoke"}
    return {
        "train": {**smoke, "--workdir": str(folder / "run")},
        "demo": nothing,
        "evaluate": nothing,
        "compare": {"RUN": str(folder / "nothing")},
        "report": nothing,
        "preview": {**smoke, "--output": str(folder / "views.png"), "--num_images": "1"},
        "plan": smoke,
        "convert": {"--input": str(folder / "no.safetensors"), **nothing},
        "export": {**nothing, **out},
        "prepare": {"--input": str(folder / "pictures"), "--output": str(folder / "prepared")},
        "data": {**smoke, "--output": str(folder / "data.png")},
        "embed": {"--images": str(folder / "pictures"), "--output": str(folder / "g.npz"), **nothing},
        "search": {**features, "--query": "0.png"},
        "duplicates": features,
        "select": {**features, "--size": "2"},
        "cluster": {**features, "--clusters": "2"},
        "explore": {**features, "--output": str(folder / "map")},
        "probe": features,
        "predict": {"--classifier": str(folder / "no.npz"), **features},
        "cache": {"--cache_dir": str(folder / "pictures")},
    }


@pytest.fixture
def at_the_door(monkeypatch, tmp_path):
    """What a good command line would do at length is not done: training, planning, measuring, serving, the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SIMCLR_LAUNCH_TIMEOUT", "1")
    monkeypatch.setattr("simclr_jax.run.program.make_program", check_program)
    monkeypatch.setattr("simclr_jax.planning.plan.measure", stop_there)
    monkeypatch.setattr("simclr_jax.cli.data_look._measure_host", stop_there)
    monkeypatch.setattr("simclr_jax.run.features.view_samples", stop_there)
    monkeypatch.setattr("simclr_jax.cli.demo_tour.tour", lambda **given: 0)
    monkeypatch.setattr("simclr_jax.cli.explore_serve.serve", lambda *given: 0)
    monkeypatch.setattr("jax.distributed.initialize", lambda **given: None)


def run(case, monkeypatch):
    """The status of a command; a signal ends what takes too long, on a pipe for example."""

    def give_up(number, frame):
        raise TooLong

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        with monkeypatch.context() as patch:
            for name, value in case.environment.items():
                patch.setenv(name, value)
            return cli.main(case.words)
    except ThroughTheDoor:
        return 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def problem_of(case, status, out):
    """What is wrong with how a command ended, "" if nothing is."""
    if status == 0:
        return "ended well" if case.must_fail else ""
    if status != 2:
        return f"status {status}"
    last = out.err.splitlines()[-1] if out.err.strip() else ""
    # What a run says of its data, and progress, may stand before.
    if not last.startswith("simclr-jax") or "Traceback" in out.err:
        return f"{out.err.count(chr(10))} lines: {out.err[:600]}"
    if len(last) > 300 or not last.isprintable():
        return f"{len(last)} letters: {last}"
    if case.named and not any(name in last for name in case.named):
        return f"names none of {case.named[:1]}: {last}"
    return ""


@pytest.mark.filterwarnings("ignore")
def test_a_generated_command_works_or_is_refused_in_one_line(good, at_the_door, tmp_path, capfd, monkeypatch):
    problems, refused = [], 0
    for seed in range(FIRST, FIRST + COUNT):
        case = generated.draw(seed, pathlib.Path(tmp_path), good)
        start = time.perf_counter()
        shutil.rmtree(good["train"]["--workdir"], ignore_errors=True)
        inputs = generated.read_files(case, pathlib.Path(tmp_path), good)
        try:
            status = run(case, monkeypatch)
            problem = problem_of(case, status, capfd.readouterr())
        except (Exception, TooLong, SystemExit) as error:
            status, problem = 1, f"{type(error).__name__}: {str(error)[:200]}"
            capfd.readouterr()
        lost = [path.name for path, content in inputs.items() if not path.is_file() or path.read_bytes() != content]
        problem = problem or (f"its inputs have changed: {lost}" if lost else "")
        refused += status == 2
        if TRACE:
            with open(TRACE, "a") as file:
                print(f"{time.perf_counter() - start:7.2f} {seed} {status} {case!r:.400} | {problem}", file=file)
        if problem:
            shown = [word[:120] for word in case.words]
            problems.append(f"{seed}: {shown} {case.environment or ''}\n    {problem}")
    assert not problems, f"{len(problems)} of {COUNT}:\n" + "\n".join(problems)
    assert refused > COUNT / 2
