"""A streamed run that is killed twice and goes on with other workers and as two processes is fed the same batches.

SIMCLR_STREAM_DATA may name other overrides, such as those of a larger set, for a trial beyond the test.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from simclr_jax.run import checkpoint
from tests.data import test_streaming
from tests.distributed import test_processes

ROOT = pathlib.Path(__file__).parents[2]
CAP_SECONDS = float(os.environ.get("SIMCLR_STREAM_CAP", "280"))
pytestmark = pytest.mark.slow


def start(folder: pathlib.Path, name: str, *overrides: str, kill_at: int = -1, rank=None) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 if rank is None else 1} "
        "--xla_backend_optimization_level=0",
        "JAX_ENABLE_COMPILATION_CACHE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **(test_processes.slurm(*rank) if rank else {}),
    }
    number = rank[0] if rank else 0
    words = [str(folder / f"{name}.{number}.rows"), str(kill_at), str(folder / name.partition("-")[0]), *overrides]
    with open(folder / f"{name}.{number}.log", "w") as log:
        command = [sys.executable, "-m", "tests.run.streamed_worker", *words]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)


def finish(folder: pathlib.Path, processes: list[subprocess.Popen], status: int) -> None:
    try:
        codes = [process.wait(CAP_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
    assert codes == [status] * len(processes), said


def rows_of(*logs: pathlib.Path) -> dict[int, dict[str, str]]:
    """Step -> position -> digest, of everything that was fed, with nothing fed twice in two ways."""
    fed: dict[int, dict[str, str]] = {}
    for log in logs:
        for line in log.read_text().splitlines():
            step, digests = json.loads(line)
            for position, digest in digests.items():
                assert fed.setdefault(step, {}).setdefault(position, digest) == digest, (step, position)
    return fed


def test_a_run_killed_twice_goes_on_with_other_workers_and_processes_and_the_same_batches(tmp_path):
    test_streaming.write_pictures(tmp_path / "set")
    data = os.environ.get("SIMCLR_STREAM_DATA", f"--config.data.name=folder:{tmp_path / 'set'}").split()
    if "SIMCLR_STREAM_DATA" not in os.environ:
        data += ["--config.train.num_epochs=48.0"]  # some 60 steps
    finish(tmp_path, [start(tmp_path, "whole", *data, "--config.feed.num_workers=1")], 0)
    whole = rows_of(tmp_path / "whole.0.rows")
    num_steps = len(whole)
    assert sorted(whole) == [*range(num_steps)] and num_steps > 50
    killed = start(tmp_path, "other-1", *data, "--config.feed.num_workers=3", kill_at=21)
    finish(tmp_path, [killed], -signal.SIGKILL)
    processes = ["--config.feed.workers=processes", "--config.feed.num_workers=2"]
    finish(tmp_path, [start(tmp_path, "other-2", *data, *processes, kill_at=37)], -signal.SIGKILL)
    port = test_processes.free_port()
    pair = [start(tmp_path, "other-3", *data, "--config.feed.num_workers=2", rank=(i, 2, port)) for i in range(2)]
    finish(tmp_path, pair, 0)
    assert checkpoint.saved_steps(tmp_path / "other" / "checkpoints")[-1] == num_steps
    logs = [tmp_path / f"other-{name}.rows" for name in ("1.0", "2.0", "3.0", "3.1")]
    assert rows_of(*logs) == whole
    # It went on from a checkpoint (the kill may have come before the newest was whole); each of the two processes
    # read its half of every batch only.
    assert 0 < min(rows_of(logs[1])) <= 16 and 16 < min(rows_of(logs[2])) <= 32
    halves = [rows_of(log) for log in logs[2:]]
    for step in halves[0]:
        assert not halves[0][step].keys() & halves[1][step].keys()
        assert len(halves[0][step]) == len(halves[1][step]) == 8
    page = [sys.executable, "-m", "simclr_jax", "report", f"--workdir={tmp_path / 'other'}"]
    subprocess.run(page, env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=ROOT, check=True)
    assert (tmp_path / "other" / "report.html").is_file()
