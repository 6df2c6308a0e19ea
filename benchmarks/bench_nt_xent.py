"""NT-Xent, forward and backward, beside other implementations; see `PROGRAM.words`."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness, peers

TEMPERATURE, DIM = 0.1, 128
# Implementation -> the largest batch it is asked for: these hold [2B, 2B, ...] arrays of tens of gigabytes beyond it.
LARGEST = {"optax": 256, "pytorch-metric-learning": 256}
# Beyond it only the form that never stores the matrix is asked.
LARGEST_MATRIX, LARGEST_CHECKED = 8192, 1024

Prepared = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], tuple[float, np.ndarray]]]


def projections(batch_size: int) -> np.ndarray:
    """The inputs: unit rows float32 [B, 2, d], the two views of an image somewhat alike."""
    z = np.random.default_rng(batch_size).normal(size=(batch_size, 2, DIM))
    z[:, 1] = 0.3 * z[:, 0] + 0.7 * z[:, 1]
    return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)


def _jax(form: Callable[..., Any], z: np.ndarray, *, with_metrics: bool = False) -> Prepared:
    """`form(z) -> (loss, metrics)`, compiled with its gradient; metrics that nobody wants are not computed."""
    import jax

    def both(z: Any) -> Any:
        (loss, metrics), gradient = jax.value_and_grad(form, has_aux=True)(z)
        return loss, gradient, metrics if with_metrics else ()

    z = jax.device_put(z)
    compiled = jax.jit(both).lower(z).compile()
    return lambda: compiled(z), jax.block_until_ready, lambda result: (float(result[0]), np.asarray(result[1]))


def _ours(name: str, z: np.ndarray) -> Prepared:
    """With metrics it is what training asks for."""
    from simclr_jax import losses

    form = losses.nt_xent if name.startswith("dense") else losses.nt_xent_blockwise
    return _jax(functools.partial(form, temperature=TEMPERATURE), z, with_metrics=name.endswith("with metrics"))


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
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(count), positive]), ()

    return _jax(form, z)


def _optax(z: np.ndarray) -> Prepared:
    import jax.numpy as jnp
    import optax

    def form(z: Any) -> Any:
        labels = jnp.tile(jnp.arange(z.shape[0]), 2)
        return optax.losses.ntxent(z.swapaxes(0, 1).reshape(-1, DIM), labels, temperature=TEMPERATURE), ()

    return _jax(form, z)


def _torch(make: Callable[[float], Callable[[Any], Any]], z: np.ndarray) -> Prepared:
    """A loss of [2B, d], the rows of view 1 and then of view 2, and its gradient by autograd."""
    import torch

    torch.set_num_threads(1)
    form, leaf = make(TEMPERATURE), torch.from_numpy(z.copy()).requires_grad_(True)

    def call() -> tuple[Any, Any]:
        loss = form(torch.cat([leaf[:, 0], leaf[:, 1]]))
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    return call, lambda result: result, lambda result: (float(result[0]), result[1].numpy())


def _tf2(z: np.ndarray) -> Prepared:
    """The official objective; it adds the means of both directions, twice the paper's mean."""
    peers.official_code("objective.py")
    import objective
    import tensorflow as tf

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


def size_of(case: str) -> int:
    """Images of a case, "B=256"."""
    return int(case.removeprefix("B="))


def _work(prepare: Callable[[np.ndarray], Prepared], case: str) -> harness.Work:
    """`prepare` on the inputs of the case; its facts are the loss, norms of the gradient and errors."""
    z = projections(size_of(case))
    call, ready, read = prepare(z)

    def facts() -> dict[str, Any]:
        loss, gradient = read(call())
        norms = [float(np.linalg.norm(part)) for part in (gradient, gradient[:, 0], gradient[0])]
        errors = errors_in_float64(z, (loss, gradient)) if len(z) <= LARGEST_CHECKED else {}
        return {"values": [loss, *norms], **errors}

    return harness.Work(facts, call, ready)


def compare(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The same loss and norms as ours to 1e-4, and where it is known near what float64 says."""
    if theirs.get("loss_error", 0.0) > 1e-5 or theirs.get("gradient_error", 0.0) > 1e-4:
        return f"loss and gradient are off by {theirs['loss_error']:.1e} and {theirs['gradient_error']:.1e}"
    pairs = zip(theirs["values"], ours["values"], strict=True)
    is_same = all(abs(theirs - ours) <= 1e-4 * abs(ours) for theirs, ours in pairs)
    return "" if is_same else f"loss and gradient norms {theirs['values']} are not {ours['values']}"


def applies(case: str, name: str) -> bool:
    """Whether an implementation has the memory for a case."""
    return size_of(case) <= LARGEST.get(name, LARGEST_MATRIX) or name.startswith("blockwise")


def _implementation(prepare: Callable[[np.ndarray], Prepared], needs: tuple[str, ...] = (), python: str = "") -> Any:
    return harness.Implementation(functools.partial(_work, prepare), needs, python)


_OURS = ("blockwise", "blockwise with metrics", "dense", "dense with metrics")
_METRIC_LEARNING = functools.partial(_torch, peers.metric_learning_nt_xent)

PROGRAM = harness.Program(
    cases=("B=256", "B=1024", "B=4096", "B=8192"),
    quick=["B=32"],
    more=["B=65536"],
    implementations={
        **{name: _implementation(functools.partial(_ours, name)) for name in _OURS},
        "naive JAX": _implementation(_naive_jax),
        "optax": _implementation(_optax),
        "naive torch": _implementation(functools.partial(_torch, peers.torch_nt_xent), ("torch",), "peers"),
        "lightly": _implementation(functools.partial(_torch, peers.lightly_nt_xent), ("lightly",), "peers"),
        "pytorch-metric-learning": _implementation(_METRIC_LEARNING, ("pytorch_metric_learning",), "peers"),
        "official TF2": _implementation(_tf2, ("tensorflow",), "tf"),
    },
    compare=compare,
    packages=("jax", "jaxlib", "torch", "lightly", "pytorch-metric-learning", "optax", "tensorflow", "tensorflow-cpu"),
    number="ms",
    unit="CPU milliseconds",
    words=f"""Forward and backward, d = {DIM}, float32, temperature {TEMPERATURE}; B images are 2B rows. Everybody gets
    the same unit projections; loss (the paper's mean) and gradient must agree with the first implementation to 1e-4 and
    up to {LARGEST_CHECKED} images with float64 NumPy, or the time does not count.""",
    applies=applies,
)
