"""`simclr-jax embed` in real processes on the CPU: the bytes that one process writes, also after one was killed."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import distributed, models
from simclr_jax.__main__ import main
from simclr_jax.interop import variables
from tests.distributed import test_processes

BATCH, NUM_PICTURES, CAP_SECONDS = 2, 20, 150
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Flags of the verb for twenty tiny pictures and a tiny network, and the file that one process makes of them."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).save(folder / "photos" / f"{number:02d}.png")
    module = models.make_encoder(name="resnet10", width_multiplier=0.0625, stem="cifar")
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False))
    # Drawn here, as initialisers take long to compile; variances are above 0.
    tree = jax.tree.map(lambda x: 0.1 + 0.1 * rng.random(x.shape, np.float32), shapes)
    weights = {"encoder": tree["params"]}, {"encoder": tree["batch_stats"]}
    variables.save(folder / "tiny.safetensors", variables.flatten(*weights))
    flags = [f"--weights={folder / 'tiny.safetensors'}", f"--images={folder / 'photos'}", f"--batch_size={BATCH}"]
    flags += ["--image_size=8", "--resize=tf2"]
    assert main(["embed", *flags, f"--output={folder / 'alone.npz'}"]) == 0
    return flags, (folder / "alone.npz").read_bytes()


def embed(folder: pathlib.Path, flags: list[str], *, count: int, ends: tuple[int, int] = (0, 0)) -> list[int]:
    """The statuses of so many processes, one of which may get a signal (number, process); logs are in the folder."""
    port, workers = test_processes.free_port(), list[subprocess.Popen]()
    try:
        for index in range(count):
            environment = {
                **os.environ,
                **(test_processes.slurm(index, count, port) if count > 1 else {}),
                "JAX_PLATFORMS": "cpu",
                "SIMCLR_LAUNCH_TIMEOUT": "60",
                "SIMCLR_STUCK_SECONDS": "5",
            }
            words = [sys.executable, "-m", "tests.distributed.embed_worker", *map(str, ends), *flags]
            with open(folder / f"log.{index}", "w") as log:
                workers.append(
                    subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=test_processes.ROOT)
                )
        return [worker.wait(CAP_SECONDS) for worker in workers]
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            worker.wait()


def parts_of(target: pathlib.Path) -> list[str]:
    return sorted(path.stem for path in pathlib.Path(f"{target}.parts").glob("part-*"))


def test_a_process_is_killed_and_three_go_on_to_the_bytes_of_one(job, tmp_path):
    flags, expected = job
    target = tmp_path / "features.npz"
    flags = [*flags, f"--output={target}"]
    statuses = embed(tmp_path, flags, count=2, ends=(signal.SIGKILL, 1))
    said = (tmp_path / "log.0").read_text()
    assert statuses == [distributed.EXIT_PEER_LOST, -signal.SIGKILL], said
    assert said.count("simclr-jax embed: nothing was heard of process 1 for ") == 1 and "Traceback" not in said
    assert "the same command goes on from the parts that are written" in said
    done = parts_of(target)
    assert "part-000000010-000000012" in done and not target.exists()
    assert embed(tmp_path, flags, count=3) == [0, 0, 0], (tmp_path / "log.0").read_text()
    assert target.read_bytes() == expected and not parts_of(target)
    assert "12 of which are there already" in (tmp_path / "log.0").read_text()
    assert (tmp_path / "log.2").read_text().count("\n") <= 1, "process 0 speaks for all"


@pytest.mark.rare
def test_a_signal_to_one_process_stops_all_with_what_is_ready_and_one_goes_on(job, tmp_path):
    flags, expected = job
    target = tmp_path / "features.npz"
    flags = [*flags, f"--output={target}"]
    statuses = embed(tmp_path, flags, count=2, ends=(signal.SIGTERM, 1))
    assert statuses == [128 + signal.SIGTERM] * 2, (tmp_path / "log.0").read_text()
    assert "simclr-jax embed: stopped by SIGTERM." in (tmp_path / "log.1").read_text()
    assert "simclr-jax embed: ended because process 1 on " in (tmp_path / "log.0").read_text()
    assert parts_of(target) and not target.exists()
    assert embed(tmp_path, flags, count=1) == [0]
    assert target.read_bytes() == expected
