"""Times NT-Xent, forward and backward, beside other implementations, one thread each, in turns.

    python benchmarks/bench_nt_xent.py --sizes=256,1024,4096,8192 --rounds=5 [--peers_python=PATH] [--out=FILE]

Every implementation gets the same unit projections [B, 2, 128] in float32 and temperature 0.1; its loss (the paper's
mean) and gradient must agree with float64 NumPy (up to 1024 images) and with the first implementation, or its time does
not count. One line of JSON a process; a table at the end, with `--write` into benchmarks/README.md.
`--peers_python` runs the implementations in torch. The official TF2 objective runs where SIMCLR_TF2_FOLDER names the
folder that holds its objective.py and TensorFlow is installed (`--tf_python`).
"""

import argparse
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks import harness, timing

TEMPERATURE, DIM = 0.1, 128
# Implementation -> the largest batch it is asked for: the two last hold [2B, 2B, ...] arrays of tens of gigabytes.
LARGEST = {"optax": 256, "pytorch-metric-learning": 256}
PACKAGES = ("jax", "jaxlib", "torch", "lightly", "pytorch-metric-learning", "optax", "tensorflow", "tensorflow-cpu")

Prepared = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], tuple[float, np.ndarray]]]


def projections(batch_size: int) -> np.ndarray:
    """The inputs: unit rows float32 [B, 2, d], the two views of an image somewhat alike."""
    z = np.random.default_rng(batch_size).normal(size=(batch_size, 2, DIM))
    z[:, 1] = 0.3 * z[:, 0] + 0.7 * z[:, 1]
    return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)


def _jax(form: Callable[..., Any], z: np.ndarray) -> Prepared:
    """`form(z) -> loss`, compiled with its gradient."""
    import jax

    z = jax.device_put(z)
    compiled = jax.jit(jax.value_and_grad(form)).lower(z).compile()
    return lambda: compiled(z), jax.block_until_ready, lambda result: (float(result[0]), np.asarray(result[1]))


def _ours(name: str, z: np.ndarray) -> Prepared:
    import jax

    from simclr_jax import losses

    form = losses.nt_xent if name.startswith("dense") else losses.nt_xent_blockwise
    if not name.endswith("with metrics"):
        return _jax(lambda z: form(z, temperature=TEMPERATURE)[0], z)
    # As in training: the metrics are asked for as well.
    z = jax.device_put(z)
    value = jax.value_and_grad(functools.partial(form, temperature=TEMPERATURE), has_aux=True)
    compiled = jax.jit(value).lower(z).compile()
    return lambda: compiled(z), jax.block_until_ready, lambda result: (float(result[0][0]), np.asarray(result[1]))


def _naive_jax(z: np.ndarray) -> Prepared:
    """The loss as it is written in a few lines: one matrix [2B, 2B], diagonal out, log-sum-exp."""
    import jax
    import jax.numpy as jnp

    def form(z: Any) -> Any:
        rows = z.swapaxes(0, 1).reshape(-1, DIM)
        rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        count = rows.shape[0]
        logits = rows @ rows.T / TEMPERATURE
        logits = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, logits)
        positive = jnp.roll(jnp.arange(count), count // 2)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(count), positive])

    return _jax(form, z)


def _optax(z: np.ndarray) -> Prepared:
    import jax.numpy as jnp
    import optax

    def form(z: Any) -> Any:
        labels = jnp.tile(jnp.arange(z.shape[0]), 2)
        return optax.losses.ntxent(z.swapaxes(0, 1).reshape(-1, DIM), labels, temperature=TEMPERATURE)

    return _jax(form, z)


def _torch(form: Callable[[Any], Any], z: np.ndarray) -> Prepared:
    """`form(rows of view 1, rows of view 2) -> loss` and its gradient by autograd."""
    import torch

    torch.set_num_threads(1)
    leaf = torch.from_numpy(z.copy()).requires_grad_(True)

    def call() -> tuple[Any, Any]:
        loss = form(leaf[:, 0], leaf[:, 1])
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    return call, lambda result: result, lambda result: (float(result[0]), result[1].numpy())


def _naive_torch(z: np.ndarray) -> Prepared:
    """normalize, matmul, cross entropy."""
    import torch

    def form(first: Any, second: Any) -> Any:
        rows = torch.nn.functional.normalize(torch.cat([first, second]))
        count = len(rows)
        logits = (rows @ rows.T / TEMPERATURE).masked_fill(torch.eye(count, dtype=torch.bool), float("-inf"))
        return torch.nn.functional.cross_entropy(logits, torch.arange(count).roll(count // 2))

    return _torch(form, z)


def _lightly(z: np.ndarray) -> Prepared:
    from benchmarks.parity_rows import peers

    peers.load_torchvision()
    from lightly.loss import NTXentLoss

    return _torch(NTXentLoss(temperature=TEMPERATURE), z)


def _metric_learning(z: np.ndarray) -> Prepared:
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    labels, loss = torch.arange(len(z)).repeat(2), NTXentLoss(temperature=TEMPERATURE)
    return _torch(lambda first, second: loss(torch.cat([first, second]), labels), z)


def _tf2(z: np.ndarray) -> Prepared:
    """The official objective; it adds the means of both directions, twice the paper's mean."""
    sys.path.insert(0, harness.folder_from_environment("SIMCLR_TF2_FOLDER", "objective.py"))
    import objective
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    hidden = tf.constant(z.swapaxes(0, 1).reshape(-1, DIM))

    @tf.function
    def value(hidden: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            loss, _, _ = objective.add_contrastive_loss(hidden, hidden_norm=True, temperature=TEMPERATURE)
        return loss, tape.gradient(loss, hidden)

    value.get_concrete_function(hidden)

    def read(result: Any) -> tuple[float, np.ndarray]:
        return float(result[0]) / 2, result[1].numpy().reshape(2, -1, DIM).swapaxes(0, 1) / 2

    return lambda: value(hidden), lambda result: result[1].numpy(), read


IMPLEMENTATIONS: dict[str, Callable[[np.ndarray], Prepared]] = {
    "blockwise": functools.partial(_ours, "blockwise"),
    "blockwise with metrics": functools.partial(_ours, "blockwise with metrics"),
    "dense": functools.partial(_ours, "dense"),
    "dense with metrics": functools.partial(_ours, "dense with metrics"),
    "naive JAX": _naive_jax,
    "optax": _optax,
    "naive torch": _naive_torch,
    "lightly": _lightly,
    "pytorch-metric-learning": _metric_learning,
    "official TF2": _tf2,
}
IN_TORCH = ("naive torch", "lightly", "pytorch-metric-learning")


def errors_in_float64(z: np.ndarray, ours: tuple[float, np.ndarray]) -> dict[str, float]:
    """Relative error of a loss, and error of a gradient over its largest entry, by a loop over blocks of rows."""
    rows = z.astype(np.float64).swapaxes(0, 1).reshape(-1, DIM)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= lengths
    count, total, gradient = len(rows), 0.0, np.zeros_like(rows)
    for at in np.split(np.arange(count), range(256, count, 256)):
        own, partner = np.arange(len(at)), (at + count // 2) % count
        logits = rows[at] @ rows.T / TEMPERATURE
        logits[own, at] = -np.inf
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        total -= np.log(p[own, partner]).sum()
        p[own, partner] -= 1
        gradient[at] += p @ rows
        gradient += p.T @ rows[at]
    gradient /= TEMPERATURE * count
    gradient = (gradient - rows * np.sum(rows * gradient, axis=1, keepdims=True)) / lengths
    expected = gradient.reshape(2, -1, DIM).swapaxes(0, 1)
    return {
        "loss_error": abs(ours[0] * count / total - 1),
        "gradient_error": float(np.abs(ours[1] - expected).max() / np.abs(expected).max()),
    }


def same(results: dict[str, list[dict[str, Any]]]) -> None:
    """Marks results whose loss or gradient is not that of the first implementation as failed."""
    first = next((rounds[0] for rounds in results.values() if rounds and "error" not in rounds[0]), None)
    for rounds in results.values():
        for result in rounds:
            if first is None or "error" in result:
                continue
            pairs = zip(result["values"], first["values"], strict=True)
            if not all(abs(ours - theirs) <= 1e-4 * abs(theirs) for ours, theirs in pairs):
                result["error"] = f"loss and gradient norms {result['values']} are not {first['values']}"


def work(name: str, batch_size: int, repeats: int) -> None:
    """One process: measures one implementation and prints its line."""
    z = projections(batch_size)
    call, ready, read = IMPLEMENTATIONS[name](z)
    # Measured before it is checked: a call before would leave the allocator's pages behind.
    numbers = timing.measure(call, repeats=repeats, ready=ready, seconds=0.1)
    loss, gradient = read(call())
    numbers["values"] = [loss, *(float(np.linalg.norm(part)) for part in (gradient, gradient[:, 0], gradient[0]))]
    if batch_size <= 1024:
        errors = errors_in_float64(z, (loss, gradient))
        assert errors["loss_error"] < 1e-5 and errors["gradient_error"] < 1e-4, errors
        numbers |= errors
    print(json.dumps({"batch_size": batch_size, **numbers, **timing.describe(PACKAGES)}))


def table(results: dict[int, dict[str, list[dict[str, Any]]]]) -> str:
    """Median CPU milliseconds (smallest to largest), ratio to blockwise, and the peak of extra memory, as Markdown."""
    lines = ["| implementation | " + " | ".join(f"B = {size}" for size in results) + " |"]
    lines.append("| --- |" + " --- |" * len(results))
    for name in IMPLEMENTATIONS:
        cells = []
        for of_size in results.values():
            rounds = of_size.get(name, [])
            if not rounds or "error" in rounds[-1]:
                cells.append("not run" if not rounds else "not installed" if "absent" in rounds[-1] else "failed")
                continue
            median, low, high = timing.summary(rounds, "cpu_ms")
            base = of_size.get("blockwise", [{"error": ""}])
            ratio = "" if "error" in base[-1] else f", x{median / timing.summary(base, 'cpu_ms')[0]:.2f}"
            memory = max(result["extra_mb"] for result in rounds)
            cells.append(f"{_short(median)} ({_short(low)}-{_short(high)}){ratio}, {memory:.0f} MB")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.2g}" if milliseconds < 10 else f"{milliseconds:.0f}"


def _part(results: dict[int, dict[str, list[dict[str, Any]]]], options: argparse.Namespace) -> str:
    words = f"Forward and backward, d = {DIM}, float32, temperature {TEMPERATURE}; B images are 2B rows."
    command = f"python benchmarks/bench_nt_xent.py --sizes={options.sizes} --rounds={options.rounds}"
    meaning = "CPU milliseconds, median (smallest-largest); x = ratio to blockwise; MB above those before"
    command += f" --repeats={options.repeats}"
    about = timing.describe(PACKAGES)
    return harness.page_part(words, results, about, command=command, meaning=meaning, table=table(results))


def main(arguments: list[str] | None = None) -> int:
    """Runs all implementations that can run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256,1024,4096,8192", help="images in the batch, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="counted calls of one process")
    parser.add_argument("--only", default=",".join(IMPLEMENTATIONS), help="names, separated by commas")
    parser.add_argument("--peers_python", help="interpreter that has torch and its libraries")
    parser.add_argument("--tf_python", help="interpreter that has TensorFlow")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one process")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round that would end later")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--out", help="file for the table")
    parser.add_argument("--quick", action="store_true", help="32 images, one round, ours and naive JAX: a test")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.worker:
        work(options.worker, sizes[0], options.repeats)
        return 0
    names = options.only.split(",")
    if options.quick:
        sizes, names, options.rounds, options.repeats = [32], ["blockwise", "naive JAX"], 1, 1
    results, end = {}, time.monotonic() + 60 * options.minutes
    for size in sizes:
        jobs = []
        for name in names:
            python = options.peers_python if name in IN_TORCH else options.tf_python if name == "official TF2" else None
            command = [timing.python_or_this(python), str(pathlib.Path(__file__)), f"--worker={name}"]
            if size <= LARGEST.get(name, size):
                jobs.append(timing.Job(name, [*command, f"--sizes={size}", f"--repeats={options.repeats}"]))
        seconds = (end - time.monotonic()) / (len(sizes) - sizes.index(size))
        results[size] = timing.alternate(jobs, rounds=options.rounds, timeout=options.timeout, seconds=seconds)
        same(results[size])
    text = table(results)
    print(text)
    if options.write:
        harness.write_part("bench_nt_xent", _part(results, options))
    if options.out:
        pathlib.Path(options.out).write_text(text + "\n")
    return int(any("error" in rounds[-1] for rounds in results[sizes[0]].values() if options.quick))


if __name__ == "__main__":
    sys.exit(main())
