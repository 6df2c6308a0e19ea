"""Fresh processes: with virtual CPU devices, for tests of several devices; of the scripts in benchmarks/."""

import os
import pathlib
import subprocess
import sys
import textwrap


def run_on_devices(num_devices: int, code: str) -> str:
    """stdout of `code` in a fresh process with that many virtual CPU devices."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Compiling takes most of the time; what is compiled without effort computes the same sums.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices} --xla_backend_optimization_level=0",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_tiny(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The tiny form of a script of benchmarks/, which must end well."""
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, f"benchmarks/{script}", "--tiny", *words]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
