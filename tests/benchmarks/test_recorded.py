"""Recorded runs: their order, their table and what is never written, with fake runs; packing a data set."""

import tarfile

import numpy as np
import pytest

from benchmarks import children, gpu, pack_images
from benchmarks import page as page_lib
from benchmarks.gpu_rows import pieces, recorded
from simclr_jax import base, data
from simclr_jax.run import workdir as workdir_lib
from tests.benchmarks.test_speedrun import RUN
from tests.devices import run_tiny

SCORES = {"knn10": 0.831, "knn200": 0.842, "linear": 0.853}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """(a plan of four runs, the trainings that were started, what a run is, the scorings that give up)."""
    started, run = [], {"of": RUN._replace(ended="finished", peak_bytes=2_000_000_000)}
    given_up = []

    def go_on(folder, plan, clock):
        folder.mkdir(parents=True, exist_ok=True)
        started.append((folder.name, plan.runs[folder.name]))
        return run["of"]

    def score(folder, environment, clock):
        return {} if folder.name in given_up else SCORES

    names = lambda: {name for name, _ in started}  # noqa: E731
    monkeypatch.setattr(pieces, "go_on", go_on)
    monkeypatch.setattr(
        pieces, "read", lambda folder: run["of"] if folder.name in names() else run["of"]._replace(ended="")
    )
    monkeypatch.setattr(recorded, "in_own_process", score)
    plan = recorded.make_plan(tmp_path, (100, 200), (0, 1), overrides={"data.name": "tfds:cifar10/jpeg"})
    return plan, started, run, given_up


def test_all_lengths_of_a_seed_come_before_the_next_seed_and_nothing_runs_twice(world):
    plan, started, _, _ = world
    assert recorded.make_all(plan, children.Clock(9)) and recorded.make_all(plan, children.Clock(9))
    order = ["epochs100-seed0", "epochs200-seed0", "epochs100-seed1", "epochs200-seed1"]
    assert [name for name, _ in started] == order
    assert started[-1][1] == ("cifar10:epochs=200", 1)


def test_a_run_that_is_trained_is_not_trained_again_to_be_scored(world):
    plan, started, _, given_up = world
    given_up.append("epochs100-seed0")
    assert not recorded.make_all(plan, children.Clock(9))
    given_up.clear()
    assert recorded.make_all(plan, children.Clock(9))
    assert len(started) == 4


def test_a_stopped_run_ends_the_call_and_a_failed_one_is_told(world):
    plan, started, run, _ = world
    run["of"] = run["of"]._replace(ended="")
    assert not recorded.make_all(plan, children.Clock(9)) and len(started) == 1
    run["of"] = run["of"]._replace(ended="exit 2: no such data")
    with pytest.raises(RuntimeError, match="epochs100-seed0: exit 2: no such data"):
        recorded.make_all(plan, children.Clock(9))


def test_the_table_of_fixed_numbers_names_the_copy_and_the_peers(world):
    plan, _, _, _ = world
    recorded.make_all(plan, children.Clock(9))
    lines = recorded.table(plan).splitlines()
    cells = "| 83.1 ± 0.0 | 84.2 ± 0.0 | 85.3 ± 0.0 | 10.0 ± 0.0 | 200 ± 0 | 2.00 GB |"
    assert lines[2] == f"| simclr_jax, CIFAR-10 (JPEG) | 100 | 2 {cells}"
    assert lines[4].startswith("| dkobak/simclr-cifar10") and "CIFAR-10 | 100 |  | 83.2" in lines[4]
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_only_scored_runs_of_an_accelerator_are_written(world, monkeypatch, tmp_path, capsys):
    plan, _, run, _ = world
    page = tmp_path / "README.md"
    page.write_text(page_lib.README.read_text())  # the real page has the marks
    monkeypatch.setattr(page_lib, "README", page)
    with pytest.raises(base.InputError, match="needs a run that is scored"):
        recorded.write(plan)
    recorded.make_all(plan, children.Clock(9))
    gpu_run, run["of"] = run["of"], run["of"]._replace(devices="1 x cpu (cpu)")
    with pytest.raises(base.InputError, match="made on a CPU"):
        recorded.write(plan)
    assert "83.1 ± 0.0" not in page.read_text()
    run["of"] = gpu_run
    recorded.write(plan)
    assert "83.1 ± 0.0" in page.read_text() and "1 x fake (gpu)" in page.read_text()
    assert gpu.main(["recorded", "--tiny", "--write"]) == 2 and "--tiny has none" in capsys.readouterr().err


def test_a_packed_data_set_is_read_as_it_was(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("bird", "cat"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
                image.save(tmp_path / "photos" / split / name / f"{number}.{'jpg' if number else 'png'}")
    name = f"folder:{tmp_path / 'photos'}"
    assert pack_images.pack(name, data_dir=None, output=tmp_path / "packed.tar.gz") == 10
    with tarfile.open(tmp_path / "packed.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    for split in ("train", "test"):
        one, other = (
            data.load_split(f"folder:{tmp_path / folder}", split, cache_dir="", canvas_size=32)
            for folder in ("photos", "packed")
        )
        assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
        assert one.class_names == other.class_names == ("bird", "cat")


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes on idle cores
def test_the_tiny_form_trains_scores_and_writes_nothing(tmp_path):
    before = page_lib.README.read_text()
    done = run_tiny("recorded", f"--workdir={tmp_path}")
    assert "| simclr_jax, photo-patches | 2 | 1 |" in done.stdout and page_lib.README.read_text() == before
    scores = workdir_lib.read_results(tmp_path / "tiny" / "epochs2-seed0")["scores"]
    # More classes than two right by chance: 18 pictures, the features of a net that has hardly been trained.
    assert scores["num_train"] > 6000 and all(scores[name] > 0.15 for name in recorded.SCORES)
