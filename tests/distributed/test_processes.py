"""The same run on 1, 2 and 4 virtual devices and on two processes of two: the same order, views, losses, checkpoints.

Real processes over JAX's distributed runtime (gloo on the CPU), found by a simulated SLURM. Starting and compiling is
what takes the time, so that one launch of two processes serves many tests.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax import distributed as launch_lib
from simclr_jax.run import checkpoint
from simclr_jax.run import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parents[2]
NUM_STEPS, SAVED_STEP = 20, 6  # as in the worker, which only runs with its own variables
CAP_SECONDS = 150  # of one launch, where other programs take the cores as well
STUCK_SECONDS = 8.0
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def slurm(index: int, count: int, port: int) -> dict[str, str]:
    """What `srun --ntasks=COUNT` of a job on one node leaves in the environment of task INDEX."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "JAX_COORDINATOR_PORT": str(port),
    }


@contextlib.contextmanager
def started(
    folder: pathlib.Path, tasks: list[str], *, processes: int, devices: int, **more: str
) -> Iterator[list[subprocess.Popen]]:
    """So many processes of so many devices that work on the tasks; none of them outlives the block."""
    folder.mkdir(parents=True, exist_ok=True)
    port, workers = free_port(), list[subprocess.Popen]()
    try:
        for index in range(processes):
            environment = {
                **os.environ,
                **(slurm(index, processes, port) if processes > 1 else {}),
                "JAX_PLATFORMS": "cpu",
                # Compiling takes most of the time; what is compiled without effort computes the same sums.
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
                "SIMCLR_LAUNCH_TIMEOUT": "60",
                # The tasks of one process compile the same programs again.
                "JAX_ENABLE_COMPILATION_CACHE": "1",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                **more,
            }
            with open(folder / f"log.{index}", "w") as log:
                command = [sys.executable, "-m", "tests.distributed.process_worker", str(folder), *tasks]
                workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT))
        yield workers
    finally:
        for process in workers:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # by its own number; SIGTERM would be a request to save
            process.wait()


def launch(folder: pathlib.Path, tasks: list[str], *, processes: int, devices: int) -> dict[str, list[dict]]:
    """Runs the tasks in so many processes of so many devices: what each process found, by task."""
    deadline = time.monotonic() + CAP_SECONDS
    with started(folder, tasks, processes=processes, devices=devices) as workers:
        for process in workers:
            process.wait(max(deadline - time.monotonic(), 0.1))
    said = "\n".join(f"process {i}:\n" + (folder / f"log.{i}").read_text()[-3000:] for i in range(processes))
    assert [process.returncode for process in workers] == [0] * processes, said
    return {
        task: [json.loads((folder / f"{task}.{index}.json").read_text()) for index in range(processes)]
        for task in tasks
    }


class Singles(NamedTuple):
    """What one process found, on so many devices, by task."""

    folder: pathlib.Path
    one: dict
    two: dict
    four: dict


@pytest.fixture(scope="module", autouse=True)
def losses_of_peers(tmp_path_factory):
    """Most of `lose_peers` is waiting, so it goes on beside everything else."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(lose_peers, tmp_path_factory.mktemp("lost"))


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """Two at a time; the run on four devices also leaves the checkpoint that others go on from."""
    folder = tmp_path_factory.mktemp("runs")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        four = pool.submit(launch, folder / "saved", ["fresh", "tuned", "grouped"], processes=1, devices=4)
        two = pool.submit(launch, folder / "two", ["fresh"], processes=1, devices=2)
        while not (folder / "saved" / "fresh.0.json").exists() and not four.done():
            time.sleep(0.2)
        one = pool.submit(launch, folder / "one", ["fresh", "resume"], processes=1, devices=1)
        return Singles(
            folder, *({task: each[0] for task, each in f.items()} for f in (one.result(), two.result(), four.result()))
        )


@pytest.fixture(scope="module")
def pair(singles):
    """Two processes of two devices."""
    tasks = ["agree", "streamed", "fresh", "resume", "tuned", "grouped", "split", "stopped"]
    return launch(singles.folder / "pair", tasks, processes=2, devices=2)


def same_run(found, expected, folder, reference):
    """Order and views bit for bit, losses and parameters but for the order of sums."""
    assert found["order"] == expected["order"] and len(set(found["order"])) == len(found["order"])
    assert found["views"] == expected["views"] and len(set(found["views"])) == 2
    assert len(found["losses"]) == NUM_STEPS == len(set(found["losses"]))
    # Sums over the batch are taken in another order: float32 rounding, and what twelve updates make of it. With a large
    # learning rate this tiny net multiplies any difference by ten every other update, on one device as on four.
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    with np.load(folder / "moved.npz") as ours, np.load(reference / "moved.npz") as theirs:
        moved = np.sqrt(sum(np.sum(np.float64(theirs[name]) ** 2) for name in theirs))
        apart = np.sqrt(sum(np.sum((np.float64(ours[name]) - theirs[name]) ** 2) for name in theirs))
    assert moved > 1e-4
    assert apart < 1e-3 * moved, "of the way that the parameters went, as the losses are only as good as 1e-5"


def test_one_and_two_devices_do_what_four_do(singles):
    assert [found["fresh"]["devices"] for found in singles[1:]] == [1, 2, 4]
    same_run(singles.one["fresh"], singles.four["fresh"], singles.folder / "one", singles.folder / "saved")
    same_run(singles.two["fresh"], singles.four["fresh"], singles.folder / "two", singles.folder / "saved")


def test_two_processes_of_two_devices_do_what_four_devices_do(singles, pair):
    for found in pair["fresh"]:
        assert (found["devices"], found["processes"]) == (4, 2)
        same_run(found, singles.four["fresh"], singles.folder / "pair", singles.folder / "saved")


def test_a_run_and_its_continuation_compile_the_step_once(singles, pair):
    found = [
        singles.four["fresh"],
        singles.one["fresh"],
        singles.one["resume"],
        *pair["fresh"],
        *pair["resume"],
        *pair["split"],
    ]
    assert [each["compiled"] for each in found] == [1] * 9


@pytest.mark.parametrize("where", ["one", "pair"])
def test_a_run_saved_on_four_devices_goes_on_elsewhere(singles, pair, where):
    for found in {"one": [singles.one["resume"]], "pair": pair["resume"]}[where]:
        assert found["first"] == SAVED_STEP
        assert found["order"] == singles.four["fresh"]["order"][SAVED_STEP:]
        np.testing.assert_allclose(found["losses"], singles.four["fresh"]["losses"][SAVED_STEP:], rtol=1e-5)


def test_split_parameters_go_on_from_a_whole_checkpoint_and_come_back_in_parts(singles, pair):
    for found in pair["split"]:
        assert found["split"] >= 4 and found["same"]
        assert found["digests"] == pair["resume"][0]["digests"], "digests are of whole arrays in any placement"
        np.testing.assert_allclose(found["losses"], singles.four["fresh"]["losses"][SAVED_STEP:], rtol=1e-5)


def test_batch_norm_over_a_host_is_batch_norm_over_groups_of_its_images(singles, pair):
    expected = singles.four["grouped"]
    for found in pair["grouped"]:
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
        # Norms of the moving averages, a few hundredths apart if the groups are others; float32 sums in another order.
        np.testing.assert_allclose(found["statistics"], expected["statistics"], rtol=1e-5)
    assert abs(expected["losses"][0] / singles.four["fresh"]["losses"][0] - 1) > 1e-4, (
        "global BatchNorm is another network"
    )


def test_two_processes_start_from_the_weights_of_another_run(singles, pair):
    for found in (singles.four["tuned"], *pair["tuned"]):
        assert found["step"] == 0 and found["same"]
        np.testing.assert_allclose(found["losses"], singles.four["tuned"]["losses"], rtol=1e-5)
    assert abs(singles.four["tuned"]["losses"][0] / singles.four["fresh"]["losses"][0] - 1) > 1e-4, (
        "not from random weights"
    )


def test_both_processes_come_to_the_same_conclusions(pair):
    first, second = pair["agree"]
    assert first == second
    assert first["any"] == [False, True, False]
    assert first["votes"] == [0, 15, 0]
    assert "seed must be the same in all processes; got 1 in process 1 on " in first["refused"]
    assert first["batch"].endswith("got 30 and 4 (of 2 processes). Use 28 or 32.")


def test_each_process_reads_its_own_rows_only(pair):
    assert [found["read"] for found in pair["streamed"]] == [list(range(16, 24)), list(range(24, 32))]
    assert [found["sum"] for found in pair["streamed"]] == [sum(range(16, 32))] * 2


def test_sigterm_to_one_process_stops_both_at_the_same_step_with_a_checkpoint(singles, pair):
    assert [found["status"] for found in pair["stopped"]] == [128 + 15] * 2
    assert [found["step"] for found in pair["stopped"]] == [7, 7]
    run = singles.folder / "pair" / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(2, 8)), "written once, by process 0"
    assert "Stopped by SIGTERM" in (run.parent / "log.0").read_text()
    assert "step 7/" not in (run.parent / "log.1").read_text()


def wait_for_step(run: pathlib.Path, step: int) -> None:
    deadline = time.monotonic() + CAP_SECONDS
    while not any(row["step"] >= step for row in workdir_lib.read_metrics(run)):
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.1)


def newest_intact(run: pathlib.Path) -> int:
    """The newest step of a run's checkpoints, whose arrays have the digests that were saved with them."""
    with checkpoint.open_checkpoints(run / "checkpoints") as checkpoints:
        like = checkpoint.restore_any(checkpoints, step=checkpoints.latest_step())
        restored = checkpoint.restore_latest(checkpoints, base.TrainState(**like), warn=pytest.fail)
        return int(restored.step)


class Lost(NamedTuple):
    """How process 0 ended when the other was killed, and process 1 when process 0 was stopped; what each said.

    kept: the newest intact checkpoint after the first, and after the second.
    """

    statuses: tuple[int, int]
    said: tuple[str, str]
    went_on: str
    kept: tuple[int, int]


def lose_peers(folder: pathlib.Path) -> Lost:
    run = folder / "run"
    with started(folder, ["endless"], processes=2, devices=1) as workers:
        wait_for_step(run, 12)
        workers[1].kill()
        killed = workers[0].wait(60)
    said, step = (folder / "log.0").read_text(), newest_intact(run)
    reached = max(row["step"] for row in workdir_lib.read_metrics(run))
    # Process 0 has the store that all ask: a process that is stopped keeps its connections and answers nothing.
    with started(folder, ["endless"], processes=2, devices=1, SIMCLR_STUCK_SECONDS=f"{STUCK_SECONDS}") as workers:
        wait_for_step(run, max(reached + 3, step + 11))  # past the checkpoint after the next, so the next is whole
        workers[0].send_signal(signal.SIGSTOP)
        stopped = workers[1].wait(3 * STUCK_SECONDS + 40)
    return Lost(
        statuses=(killed, stopped),
        said=(said, (folder / "log.1").read_text()),
        went_on=(folder / "log.0").read_text(),
        kept=(step, newest_intact(run)),
    )


def test_a_process_that_is_killed_or_stopped_ends_the_other_and_the_run_goes_on(losses_of_peers):
    found = losses_of_peers.result()
    assert found.statuses == (launch_lib.EXIT_PEER_LOST, launch_lib.EXIT_PEER_LOST)
    assert found.said[0].count("simclr-jax train: another process was lost at update") == 1
    assert "Traceback" not in found.said[0]
    waited = r"simclr-jax train: waited \d+ s for update \d+ .*; process 0 does not answer"
    assert len(re.findall(waited, found.said[1])) == 1
    first, second = found.kept
    assert first >= 5 and first % 5 == 0  # it may have struck while 10 was being written
    assert f"Going on from step {first}" in found.went_on and second >= first + 5
