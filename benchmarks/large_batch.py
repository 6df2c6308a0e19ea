"""One exact training step of a large batch in chunks on this machine, against what the whole batch would need.

    python benchmarks/large_batch.py --batch_size=4096 --num_chunks=64 --width=1.0

prints XLA's figure for the temporaries of both programs (the whole batch is compiled, not run), the time of the step in
chunks, its metrics and the peak memory of the process. The images are noise: nothing measured depends on them.

    python benchmarks/large_batch.py --method=clip --batch_size=4096 --num_chunks=64 --width=0.0625 [--dtype=float64]

computes the gradient of CLIP on pairs of noise and random tokens twice, each time in a process of its own: with the
whole batch in both towers, and in chunks. It prints the peak memory and time of both, and the largest difference of
their gradients, relative to the largest entry of each array of parameters.
"""

import argparse
import functools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_rows import figures, settings, steps
from simclr_jax import base, methods, models, train_step
from simclr_jax.data import resident

JOB = figures.Job(tiny=False)
# Of the pairs: pixels of a side, and the text tower.
IMAGE_SIZE = 16
TEXTS = {"vocab_size": 512, "text_length": 16, "text_width": 64, "text_num_layers": 2, "text_num_heads": 2}


def main(arguments: list[str] | None = None) -> None:
    """Does what is asked, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("simclr", "clip"), default="simclr")
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--num_chunks", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--norm", default="group")
    parser.add_argument("--dtype", default="float32", help="float32 or float64, of clip")
    parser.add_argument("--keep", help="the file for the gradient of clip; what the processes of their own are asked")
    asked = parser.parse_args(arguments)
    if asked.method == "simclr":
        compare_steps(asked)
    elif asked.keep:
        write_gradient(asked)
    else:
        print(compare_gradients(asked), flush=True)


def compare_steps(asked: argparse.Namespace) -> None:
    """Compiles both programs and runs the one in chunks: the config `cifar10` with the dense loss."""
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
    print(f"peak memory of the process: {_peak_gigabytes():.2f} GB")


def compare_gradients(asked: argparse.Namespace) -> str:
    """The table of the whole batch beside chunks, each measured in a process of its own."""
    lines, found = ["program | peak memory of the process | XLA's temporaries | loss | time (CPU)"], []
    with tempfile.TemporaryDirectory() as folder:
        for num_chunks in (1, asked.num_chunks):
            file = pathlib.Path(folder, f"{num_chunks}.npz")
            values = {**vars(asked), "num_chunks": num_chunks, "keep": file}
            command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in values.items())]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            sizes = f"{row['peak']:.2f} GB | {row['temporaries']:.2f} GB"
            lines.append(f"{row['words']} | {sizes} | {row['loss']:.7f} | {row['seconds']:.1f} s ({row['cpu']:.1f} s)")
            with np.load(file) as arrays:
                found.append(dict(arrays))
    errors = {name: largest_difference(found[1][name], of_whole) for name, of_whole in found[0].items()}
    worst = max(errors, key=lambda name: errors[name])
    largest = f"{errors[worst]:.1e} of the largest entry, in {worst}, of {len(errors)} arrays in {asked.dtype}"
    return "\n".join([*lines, f"largest difference of the gradients: {largest}"])


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the largest entry of what is expected."""
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def write_gradient(asked: argparse.Namespace) -> None:
    """Writes the gradient of CLIP to `asked.keep` and prints a line of JSON: what it took."""
    if asked.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    differentiate, state, source = make_pairs(asked)
    keys, indices = (jax.random.key(1), jax.random.key(2)), np.arange(asked.batch_size, dtype=np.int32)
    # As arguments, or XLA would compute with them while it compiles.
    compiled = jax.jit(differentiate).lower(state, keys, source, indices).compile()
    start, cpu_start = time.perf_counter(), time.process_time()
    (loss, _), gradient = jax.block_until_ready(compiled(state, keys, source, indices))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in _leaves(gradient)}
    np.savez(asked.keep, **jax.device_get(named))
    row = {
        "words": "whole batch" if asked.num_chunks == 1 else f"{asked.num_chunks} chunks",
        "peak": _peak_gigabytes(),
        "temporaries": compiled.memory_analysis().temp_size_in_bytes / 1e9,
        "loss": float(loss),
        "seconds": seconds,
        "cpu": cpu_seconds,
    }
    print(json.dumps(row), flush=True)


def make_pairs(asked: argparse.Namespace) -> tuple[train_step.Differentiate, Any, resident.SplitArrays]:
    """(differentiate, state, source): CLIP, a ResNet-10 and a small text tower, and pairs of noise."""
    rng = np.random.default_rng(0)
    count, side = asked.batch_size, IMAGE_SIZE
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    texts = rng.integers(1, TEXTS["vocab_size"] - 1, (count, 1, TEXTS["text_length"]), np.int32)
    # Texts of all lengths: the highest number ends one.
    ends = rng.integers(2, TEXTS["text_length"], count)
    texts[np.arange(count), 0, ends] = TEXTS["vocab_size"] - 1
    source = resident.SplitArrays(images, np.full((count, 2), side, np.int32), np.full(count, -1, np.int32), texts)
    of_encoder = {"width_multiplier": asked.width, "stem": "cifar", "norm": asked.norm, "dtype": asked.dtype}
    encoder = models.make_encoder("resnet10", **of_encoder)
    method = methods.make_clip(encoder, **TEXTS, proj_out_dim=64, dtype=asked.dtype)

    def make_views(key: Any, images: Any, sizes: Any, positions: Any) -> jax.Array:
        del key, sizes, positions  # the pictures as they are: a view in another compilation may round differently
        return images[:, None].astype(asked.dtype) / 255

    load_views = train_step.make_load_views(resident.gather_batch, make_views)
    if asked.num_chunks == 1:
        differentiate = train_step.differentiate_whole(method, load_views)
    else:
        chunks = train_step.Chunks(asked.num_chunks)
        differentiate = train_step.differentiate_in_chunks(method, load_views, chunks)
    shapes = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((2, 1, side, side, 3), asked.dtype))
    params, method_state = jax.tree_util.tree_map_with_path(functools.partial(_draw, rng), shapes)
    return differentiate, base.TrainState(np.int32(0), params, method_state, ()), source


def _draw(rng: np.random.Generator, path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """A parameter: none starts at the zeros of some initialisers, behind which all gradients are zero."""
    noise, name = rng.normal(size=leaf.shape), path[-1].key
    if name == "log_scale":
        return np.asarray(np.log(1 / 0.07), leaf.dtype)
    fan_in = np.prod(leaf.shape[:-1], initial=1.0)
    drawn = fan_in**-0.5 * noise if len(leaf.shape) > 1 else 0.1 * noise + float(name == "scale")
    return drawn.astype(leaf.dtype)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
