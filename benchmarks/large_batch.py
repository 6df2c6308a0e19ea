"""One exact training step of a large batch in chunks on this machine, against what the whole batch would need.

    python benchmarks/large_batch.py --batch_size=4096 --num_chunks=64 --width=1.0

prints XLA's figure for the temporaries of both programs (the whole batch is compiled, not run), the time of the step in
chunks, its metrics and the peak memory of the process. The images are noise: nothing measured depends on them.
"""

import argparse
import pathlib
import resource
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax

from benchmarks.gpu_rows import figures, settings, steps

JOB = figures.Job(tiny=False)


def main() -> None:
    """Compiles both programs and runs the one in chunks: the config `cifar10` with the dense loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--num_chunks", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--norm", default="group")
    asked = parser.parse_args()
    for num_chunks in (1, asked.num_chunks):
        train = {"batch_size": asked.batch_size, "num_chunks": num_chunks, "steps_per_dispatch": 1}
        config = settings.load(settings.CIFAR, JOB, **train)
        config["encoder"] |= {"width_multiplier": asked.width, "norm": asked.norm, "dtype": "float32"}
        config["method"]["loss_form"] = "dense"
        prepared = steps.prepare_config(settings.CIFAR, config, JOB)
        temporaries = prepared.compiled.memory_analysis().temp_size_in_bytes / 1e9
        print(f"{num_chunks} chunks: {temporaries:.2f} GB of temporaries by XLA's analysis", flush=True)
    state = prepared.init()
    start, cpu_start = time.perf_counter(), time.process_time()
    _, metrics = jax.block_until_ready(steps.advance(prepared, state, 1))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    words = f"one step of {asked.batch_size} pairs in {asked.num_chunks} chunks"
    print(f"{words}: {seconds:.0f} s, {cpu_seconds:.0f} of CPU")
    print({name: round(float(value[-1]), 4) for name, value in metrics.items()})
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
