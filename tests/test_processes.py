"""The same run on 1, 2 and 4 virtual devices and on two processes of two: the same order, views, losses, checkpoints.

Real processes over JAX's distributed runtime (gloo on the CPU), found by a simulated SLURM. Starting and compiling is
what takes the time, so that one launch of two processes serves many tests.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CAP_SECONDS = 100
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


def launch(folder: pathlib.Path, tasks: list[str], *, processes: int, devices: int) -> dict[str, list[dict]]:
    """Runs the tasks in so many processes of so many devices: what each process found, by task."""
    folder.mkdir(parents=True, exist_ok=True)
    port, started = free_port(), []
    for index in range(processes):
        environment = {
            **os.environ,
            **(slurm(index, processes, port) if processes > 1 else {}),
            "JAX_PLATFORMS": "cpu",
            # Compiling takes most of the time; what is compiled without effort computes the same sums.
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
            "SIMCLR_LAUNCH_TIMEOUT": "60",
            # The tasks of one process compile the same programs again.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with open(folder / f"log.{index}", "w") as log:
            command = [sys.executable, "-m", "tests.process_worker", str(folder), *tasks]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT))
    deadline = time.monotonic() + CAP_SECONDS
    try:
        for process in started:
            process.wait(max(deadline - time.monotonic(), 0.1))
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # by its own number; SIGTERM would be a request to save
            process.wait()
    said = "\n".join(f"process {i}:\n" + (folder / f"log.{i}").read_text()[-3000:] for i in range(processes))
    assert [process.returncode for process in started] == [0] * processes, said
    return {
        task: [json.loads((folder / f"{task}.{index}.json").read_text()) for index in range(processes)]
        for task in tasks
    }


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The run on four devices, which also leaves the checkpoint that others go on from."""
    return launch(tmp_path_factory.mktemp("runs") / "saved", ["fresh"], processes=1, devices=4)["fresh"][0], (
        tmp_path_factory.getbasetemp()
    )


def runs_folder(four) -> pathlib.Path:
    return next(four[1].glob("runs*"))


@pytest.fixture(scope="module")
def singles(four):
    """On one device and on two, side by side."""
    folder = runs_folder(four)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one = pool.submit(launch, folder / "one", ["fresh", "resume"], processes=1, devices=1)
        two = pool.submit(launch, folder / "two", ["fresh"], processes=1, devices=2)
        return one.result(), two.result()


@pytest.fixture(scope="module")
def one(singles):
    return singles[0]


@pytest.fixture(scope="module")
def two(singles):
    return singles[1]


@pytest.fixture(scope="module")
def pair(four):
    """Two processes of two devices."""
    tasks = ["agree", "streamed", "fresh", "resume", "split", "stopped"]
    return launch(runs_folder(four) / "pair", tasks, processes=2, devices=2)


def same_run(found, expected, folder, reference):
    """Order and views bit for bit, losses and parameters but for the order of sums."""
    assert found["order"] == expected["order"] and len(set(found["order"])) == len(found["order"])
    assert found["views"] == expected["views"] and len(set(found["views"])) == 2
    assert len(found["losses"]) == 20 and len(set(found["losses"])) == 20
    # Sums over the batch are taken in another order: float32 rounding, and what twenty updates make of it. With a large
    # learning rate this tiny net multiplies any difference by ten every other update, on one device as on four.
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    with np.load(folder / "moved.npz") as ours, np.load(reference / "moved.npz") as theirs:
        moved = np.sqrt(sum(np.sum(np.float64(theirs[name]) ** 2) for name in theirs))
        apart = np.sqrt(sum(np.sum((np.float64(ours[name]) - theirs[name]) ** 2) for name in theirs))
    assert moved > 1e-4
    assert apart < 1e-3 * moved, "of the way that the parameters went, as the losses are only as good as 1e-5"


def test_one_and_two_devices_do_what_four_do(four, one, two):
    assert (four[0]["devices"], one["fresh"][0]["devices"], two["fresh"][0]["devices"]) == (4, 1, 2)
    folder = runs_folder(four)
    same_run(one["fresh"][0], four[0], folder / "one", folder / "saved")
    same_run(two["fresh"][0], four[0], folder / "two", folder / "saved")


def test_two_processes_of_two_devices_do_what_four_devices_do(four, pair):
    for found in pair["fresh"]:
        assert (found["devices"], found["processes"]) == (4, 2)
        same_run(found, four[0], runs_folder(four) / "pair", runs_folder(four) / "saved")


def test_a_run_and_its_continuation_compile_the_step_once(four, one, pair):
    found = [four[0], *one["fresh"], *one["resume"], *pair["fresh"], *pair["resume"], *pair["split"]]
    assert [each["compiled"] for each in found] == [1] * 9


@pytest.mark.parametrize("where", ["one", "pair"])
def test_a_run_saved_on_four_devices_goes_on_elsewhere(four, where, request):
    for found in request.getfixturevalue(where)["resume"]:
        assert found["first"] == 10
        assert found["order"] == four[0]["order"][10:]
        np.testing.assert_allclose(found["losses"], four[0]["losses"][10:], rtol=1e-5)


def test_split_parameters_go_on_from_a_whole_checkpoint_and_come_back_in_parts(four, pair):
    for found in pair["split"]:
        assert found["split"] >= 4 and found["same"]
        assert found["digests"] == pair["resume"][0]["digests"], "digests are of whole arrays in any placement"
        np.testing.assert_allclose(found["losses"], four[0]["losses"][10:], rtol=1e-5)


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


def test_sigterm_to_one_process_stops_both_at_the_same_step_with_a_checkpoint(four, pair):
    assert [found["status"] for found in pair["stopped"]] == [128 + 15] * 2
    assert [found["step"] for found in pair["stopped"]] == [7, 7]
    run = runs_folder(four) / "pair" / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(2, 8)), "written once, by process 0"
    assert "Stopped by SIGTERM" in (run.parent / "log.0").read_text()
    assert "step 7/" not in (run.parent / "log.1").read_text()
