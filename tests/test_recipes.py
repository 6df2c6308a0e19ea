"""The launch recipes of docs/scaling.md, run as they are written, with stand-ins for the launchers.

The stand-ins start two processes on this machine with the variables that the real launchers set. What is not tested
is the launchers themselves, names of hosts, and GPUs.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from simclr_jax.run import program as program_lib
from tests.distributed.test_processes import CAP_SECONDS, free_port

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "scaling.md").read_text()
RECIPES = dict(re.findall(r"<!-- recipe: (\w+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))

# Starts COUNT copies of a command with the variables of a launcher, and fails if one of them fails.
_START = """#!/usr/bin/env bash
while [[ "$1" == -* ]]; do
  [[ "$1" == --np || "$1" == --map-by ]] && shift
  shift
done
pids=()
for i in 0 1; do env $(printf "$VARIABLES" $i $i) "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit $?; done
"""
VARIABLES = {
    "srun": "SLURM_JOB_ID=4711 SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 "
    "SLURM_NTASKS=2 SLURM_PROCID=%s SLURM_LOCALID=%s",
    "mpirun": "OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 OMPI_COMM_WORLD_RANK=%s "
    "OMPI_COMM_WORLD_LOCAL_RANK=%s PMIX_NAMESPACE=prterun-1",
}


class Found(NamedTuple):
    """What a run left: updates in its log, evaluations there, how often it said that it was done, of two processes."""

    steps: list[int]
    evaluations: int
    endings: int
    is_of_two: bool


def run(script: str, folder: pathlib.Path, launcher: str | None = None, **variables: str) -> Found:
    """Runs a script in an empty folder, where `simclr-jax` is this checkout and the launcher a stand-in."""
    programs = folder / "bin"
    programs.mkdir()
    ours = f'#!/usr/bin/env bash\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m simclr_jax "$@" {" ".join(TINY)}\n'
    for name, text in {"simclr-jax": ours, **({launcher: _START} if launcher else {})}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_PORT": str(free_port()),
        "SIMCLR_LAUNCH_TIMEOUT": "60",
        "CONFIG": "smoke",
        "VARIABLES": VARIABLES.get(launcher or "", ""),
        **variables,
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=CAP_SECONDS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (folder / "runs" / "imagenet" / "metrics.jsonl").read_text().splitlines()]
    return Found(
        steps=[row["step"] for row in rows if "loss" in row],
        evaluations=len([row for row in rows if "knn_accuracy" in row]),
        endings=done.stderr.count("Done. Next:"),
        is_of_two="of 2 processes" in done.stderr,
    )


def once(*, of_two: bool) -> Found:
    """One writer, also of two processes."""
    return Found(steps=[4], evaluations=1, endings=1, is_of_two=of_two)


TINY = [
    "--config.augment.image_size=8",
    "--config.train.num_epochs=0.15",
    "--config.schedule.warmup_epochs=0.0",
    "--config.train.evaluate_every_epochs=0.5",  # once, after the last step
]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "launcher"), [("node", None), ("slurm", "srun"), ("openmpi", "mpirun")])
def test_the_recipe_trains(tmp_path, recipe, launcher):
    assert run(RECIPES[recipe], tmp_path, launcher) == once(of_two=launcher is not None)


@pytest.mark.slow
def test_the_flags_of_two_hosts_train(tmp_path):
    both = "\n".join(f"(PROCESS={i}; {RECIPES['flags']}) & pid{i}=$!" for i in (0, 1)) + "\nwait $pid0 && wait $pid1"
    assert run(both, tmp_path, COORDINATOR=f"localhost:{free_port()}") == once(of_two=True)


@pytest.mark.slow
def test_the_command_of_the_kubernetes_job_trains(tmp_path):
    command = re.search(r"command: \[(.*?)\]", RECIPES["kubernetes"], re.DOTALL)[1].replace(",", " ").replace("\n", " ")
    command = command.replace("simclr-0.simclr:12345", f"localhost:{free_port()}")
    command = command.replace("imagenet_resnet50", "smoke").replace("/shared/runs", "runs")
    variables = "KUBERNETES_SERVICE_HOST=10.0.0.1 JOB_COMPLETION_INDEX=%s POD=%s"
    assert run(f"mpirun {command}", tmp_path, "mpirun", VARIABLES=variables) == once(of_two=True)


def test_the_kubernetes_recipe_is_consistent():
    recipe = RECIPES["kubernetes"]
    hosts = re.findall(r"completions: (\d+)|parallelism: (\d+)|--num_processes=(\d+)", recipe)
    assert {next(filter(None, found)) for found in hosts} == {"2"} and len(hosts) == 3
    assert re.findall(r"\n  name: (\w+)|job-name: (\w+)|subdomain: (\w+)", recipe) == [
        ("simclr", "", ""), ("", "simclr", ""), ("simclr", "", ""), ("", "", "simclr"),
    ]  # fmt: skip
    assert "completionMode: Indexed" in recipe and "clusterIP: None" in recipe


@pytest.mark.slow
def test_xla_knows_every_flag_that_is_recommended():
    options = program_lib.compiler_options({"train": {"deterministic": True}}, platform="gpu")
    flags = sorted({*re.findall(r"--xla_\w+=\w+", TEXT), *(f"--{name}=true" for name in options or {})})
    assert len(flags) >= 3
    for given, good in ((flags, True), (["--xla_gpu_no_such_flag=true"], False)):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(given)}
        code = "import jax; print(jax.device_count())"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == good, done.stderr[-500:]
