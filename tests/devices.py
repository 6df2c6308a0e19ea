"""Fresh processes: with virtual CPU devices, for tests of several devices; of the scripts in benchmarks/."""

import os
import pathlib
import subprocess
import sys
import textwrap

# Compiling takes most of the time of most tests: without effort, by the old emitters, each program in one piece. What
# is computed is the same but for rounding.
QUICK_COMPILING = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_prefer_vector_width=128"
)


def run_on_devices(num_devices: int, code: str) -> str:
    """stdout of `code` in a fresh process with that many virtual CPU devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices} {QUICK_COMPILING}",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_tiny(verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The tiny form of a program of benchmarks/gpu.py, which must end well."""
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "benchmarks/gpu.py", verb, "--tiny", *words]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
