"""Two processes of `simclr-jax train` that are held at a place, on one host or on two, and how they ended."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.distributed import hosts
from tests.distributed.test_processes import free_port

ROOT = pathlib.Path(__file__).parents[2]
CAP_SECONDS = 300  # for a start, where other programs take the cores as well
# Eleven updates with a checkpoint every five.
FLAGS = [
    "--config=smoke",
    "--config.augment.image_size=8",
    "--config.train.batch_size=32",
    "--config.train.num_epochs=0.25",
    "--config.train.log_every_steps=1",
    "--config.train.checkpoint_every_steps=5",
    "--config.train.evaluate_every_epochs=0.0",
]


class Ended(NamedTuple):
    """Exit status of a process, seconds until it ended, what it printed."""

    status: int
    seconds: float
    said: str


class Pair:
    """Two processes that were started in `folder`; `ended` waits for them."""

    def __init__(self, folder: pathlib.Path, processes: list[subprocess.Popen]):
        self.folder, self.processes = folder, processes

    def wait_until_held(self) -> None:
        """Returns when both have come to the place."""
        deadline = time.monotonic() + CAP_SECONDS
        while not all((self.folder / f"held.{i}").exists() for i in (0, 1)):
            said = [self._said(i)[-2000:] for i in (0, 1)]
            assert all(each.poll() is None for each in self.processes) and time.monotonic() < deadline, said
            time.sleep(0.02)

    def go(self) -> None:
        """Lets both go on."""
        (self.folder / "go").touch()

    def ended(self, *, within: float) -> list[Ended]:
        """How both ended, in order; an assertion fails where one has not after so many seconds."""
        start, seconds = time.monotonic(), dict[int, float]()
        while len(seconds) < 2:
            for index, process in enumerate(self.processes):
                if index not in seconds and process.poll() is not None:
                    seconds[index] = time.monotonic() - start
            assert time.monotonic() - start < within, [self._said(i)[-2000:] for i in (0, 1)]
            time.sleep(0.02)
        return [Ended(self.processes[i].returncode, seconds[i], self._said(i)) for i in (0, 1)]

    def _said(self, index: int) -> str:
        return (self.folder / f"log.{index}").read_text()


@contextlib.contextmanager
def started(
    folder: pathlib.Path, place: str, *flags: str, compiled: pathlib.Path, on_hosts: bool, **more: str
) -> Iterator[Pair]:
    """Starts both, as SLURM does, with FLAGS and `flags`; none of them outlives the block.

    place: one of `held_worker.PLACES`. compiled: keeps compiled programs. on_hosts: on those of `hosts.two_hosts`.
    """
    folder.mkdir(parents=True)
    port, processes = free_port(), list[subprocess.Popen]()
    try:
        for index in (0, 1):
            words = [sys.executable, "-m", "tests.distributed.held_worker", place, str(folder), *FLAGS, *flags]
            environment = {
                **os.environ,
                **_slurm(index, "simclrhost[0-1]" if on_hosts else "localhost", num_hosts=2 if on_hosts else 1),
                "JAX_COORDINATOR_PORT": str(port),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
                "JAX_ENABLE_COMPILATION_CACHE": "1",
                "JAX_COMPILATION_CACHE_DIR": str(compiled),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                **more,
            }
            with open(folder / f"log.{index}", "w") as log:
                command = hosts.command(index, words) if on_hosts else words
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT))
        yield Pair(folder, processes)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def _slurm(index: int, nodes: str, *, num_hosts: int) -> dict[str, str]:
    """What `srun --ntasks=2` leaves in the environment of a task."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": str(num_hosts),
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index // num_hosts),
    }
