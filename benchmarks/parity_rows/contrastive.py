"""Rows of NT-Xent: value, gradient and metrics against both code bases and three libraries."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import peers, table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import losses
from tests import golden

GROUP = "NT-Xent"
# A loss below this is compared absolutely: it is a sum of exponentials with few float32 digits.
SMALLEST = 1e-2


class Evaluated(NamedTuple):
    """Both views' loss, metrics and gradient [2B, d] (rows of view 1, then of view 2) of one golden case."""

    name: str
    loss: np.ndarray
    metrics: dict[str, np.ndarray]
    gradient: np.ndarray


@functools.partial(jax.jit, static_argnames="normalize")
def _value_and_gradient(z, temperature, weights, normalize):
    def total(z):
        loss, metrics = losses.nt_xent(z, temperature=temperature, normalize=normalize, weights=weights)
        # The reference adds the means of both views.
        return 2 * loss, metrics

    return jax.value_and_grad(total, has_aux=True)(z)


def pairs(hidden: np.ndarray) -> np.ndarray:
    """Rows of view 1, then of view 2 [2B, d] -> [B, 2, d]."""
    return hidden.reshape(2, -1, hidden.shape[-1]).swapaxes(0, 1)


def rows(z: np.ndarray) -> np.ndarray:
    """[B, 2, d] -> rows of view 1, then of view 2 [2B, d]."""
    return z.swapaxes(0, 1).reshape(-1, z.shape[-1])


def evaluate(
    name: str, hidden: np.ndarray, *, temperature: float, normalize=True, weights=None, dtype: str
) -> Evaluated:
    """Our loss (of both views), metrics and gradient for `hidden` [2B, d]."""
    with jax.enable_x64(dtype == "float64"):
        weights = None if weights is None else jnp.asarray(weights, dtype)
        z, temperature = jnp.asarray(pairs(hidden), dtype), jnp.asarray(temperature, dtype)
        (loss, metrics), gradient = jax.device_get(_value_and_gradient(z, temperature, weights, normalize))
    return Evaluated(name, loss, metrics, rows(gradient))


@functools.cache
def _evaluated(dtype: str) -> list[Evaluated]:
    """All golden cases; in float32 one of every size, for the time they take to compile."""
    arrays, results = golden.load("nt_xent"), []
    for name in arrays["case_names"].tolist():
        for kind in ("norm", "raw"):
            case = f"{name}/{kind}"
            if f"{case}/temperature" not in arrays or (dtype == "float32" and not name.startswith(_FLOAT32)):
                continue
            hidden = arrays[f"hidden/{arrays[f'{case}/hidden_key']}"] * arrays[f"{case}/hidden_scale"]
            temperature = float(arrays[f"{case}/temperature"])
            results.append(evaluate(case, hidden, temperature=temperature, normalize=kind == "norm", dtype=dtype))
    return results


_FLOAT32 = ("n4_d8", "n8_d16", "n64_d128")


def _loss(dtype: str) -> Iterator[Case]:
    arrays = golden.load("nt_xent")
    for ours in _evaluated(dtype):
        expected = arrays[f"{ours.name}/loss_f64"]
        yield Case(ours.loss, expected, max(abs(expected), SMALLEST))


def _gradient(dtype: str) -> Iterator[Case]:
    arrays = golden.load("nt_xent")
    for ours in _evaluated(dtype):
        stored = arrays.get(f"{ours.name}/grad_f64")
        if stored is None:
            # The whole gradient is not kept for every case; its norm is.
            yield Case(np.linalg.norm(ours.gradient.astype(np.float64)), arrays[f"{ours.name}/grad_norm_f64"])
            continue
        stored_rows = arrays.get(f"{ours.name}/grad_rows", np.arange(len(ours.gradient)))
        # All logits of identical rows tie and the true gradient is zero: compared with 1 / temperature.
        scale = 1 / float(arrays[f"{ours.name}/temperature"]) if "identical" in ours.name else None
        yield Case(ours.gradient[stored_rows], stored, scale)


def _accuracy(dtype: str) -> Iterator[Case]:
    arrays = golden.load("nt_xent")
    for ours in _evaluated(dtype):
        if "identical" not in ours.name:
            yield Case(ours.metrics["contrastive_accuracy"], arrays[f"{ours.name}/contrast_acc"])


def _entropy(dtype: str) -> Iterator[Case]:
    arrays = golden.load("nt_xent")
    for ours in _evaluated(dtype):
        yield Case(ours.metrics["contrastive_entropy"], arrays[f"{ours.name}/contrast_entropy_f64"])


def _tf1_loss() -> Iterator[Case]:
    arrays = golden.load("losses_tf1")
    for ours in _evaluated("float32"):
        expected = arrays[f"nt_xent_tf1_loss/{ours.name}"]
        yield Case(ours.loss, expected, max(abs(expected), SMALLEST))


@functools.cache
def _weighted() -> list[tuple[Evaluated, np.ndarray, np.ndarray]]:
    arrays, results = golden.load("losses_tf1"), []
    names = {key.removesuffix("/hidden") for key in arrays if key.endswith("/hidden")}
    for name in sorted(names):
        hidden, weights = arrays[f"{name}/hidden"], arrays[f"{name}/weights"]
        temperature = float(arrays[f"{name}/temperature"])
        ours = evaluate(name, hidden, temperature=temperature, weights=weights, dtype="float64")
        results.append((ours, arrays[f"{name}/loss_f64"], arrays[f"{name}/grad"]))
    return results


def _replicas() -> Iterator[Case]:
    """The mean of the replicas' losses is the loss of the global batch."""
    for ours, arrays, key in _global_batches():
        yield Case(ours.loss, arrays[f"{key}/global_batch_loss_f64"])
        yield Case(ours.loss, arrays[f"{key}/loss_per_replica"].astype(np.float64).mean(), None)


def _replica_gradients() -> Iterator[Case]:
    for ours, arrays, key in _global_batches():
        stored = arrays[f"{key}/gradient_of_local_loss_over_replicas"]
        yield Case(ours.gradient, _joined(stored))


def _joined(per_replica: np.ndarray) -> np.ndarray:
    """[R, 2m, d], each replica with its own two views -> [2Rm, d] with view 1 of all first."""
    split = per_replica.reshape(len(per_replica), 2, -1, per_replica.shape[-1])
    return split.swapaxes(0, 1).reshape(-1, per_replica.shape[-1])


@functools.cache
def _global_batches() -> list[tuple[Evaluated, dict, str]]:
    results = []
    for file in ("replicas_2", "replicas_4"):
        arrays = golden.load(file)
        for key in sorted({"/".join(key.split("/")[:2]) for key in arrays if key.startswith("nt_xent/")}):
            hidden = _joined(arrays[f"{key}/hidden_per_replica"])
            temperature = float(arrays[f"{key}/temperature"])
            results.append((evaluate(key, hidden, temperature=temperature, dtype="float64"), arrays, key))
    return results


def live_inputs() -> Iterator[tuple[np.ndarray, float]]:
    """Projections [2B, d] float64 and temperatures for libraries that run beside ours."""
    for seed, (batch_size, dim, temperature) in enumerate([(4, 8, 0.5), (16, 32, 0.1), (33, 128, 0.05)]):
        yield np.random.default_rng(seed).normal(size=(2 * batch_size, dim)), temperature


def _mean_of_library(loss_of: Callable) -> Iterator[Case]:
    """Half of the reference's value is the paper's mean, which libraries compute: value and gradient."""
    for k, (hidden, temperature) in enumerate(live_inputs()):
        ours = evaluate(f"live{k}", hidden, temperature=temperature, dtype="float64")
        value, gradient = loss_of(hidden, temperature)
        yield Case(ours.loss / 2, value)
        yield Case(ours.gradient / 2, gradient)


def _torch_loss(make_loss: Callable) -> Callable:
    def loss_of(hidden: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
        import torch

        tensor = torch.tensor(hidden, requires_grad=True)
        loss = make_loss(temperature)(tensor)
        loss.backward()
        return float(loss.detach()), tensor.grad.numpy()

    return loss_of


def lightly_loss(temperature: float) -> Callable:
    """lightly's loss of a tensor [2B, d]."""
    peers.load_torchvision()
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=temperature)
    return lambda z: loss(z[: len(z) // 2], z[len(z) // 2 :])


def _metric_learning_loss(temperature: float) -> Callable:
    import torch
    from pytorch_metric_learning import losses as metric_losses

    loss = metric_losses.NTXentLoss(temperature=temperature)
    return lambda z: loss(z, torch.arange(len(z) // 2).repeat(2))


def _optax_loss(hidden: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
    import optax

    labels = np.tile(np.arange(len(hidden) // 2), 2)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        loss = jax.value_and_grad(lambda z: optax.losses.ntxent(z, jnp.asarray(labels), temperature=temperature))
        value, gradient = jax.device_get(loss(jnp.asarray(hidden)))
    return value, gradient


def _golden_rows(dtype: str, short: str, *, loss: float, gradient: float, entropy: float) -> list[Row]:
    bind = functools.partial
    return [
        Row(f"loss, {short}", "TF2", loss, table.EACH, bind(_loss, dtype)),
        Row(f"gradient, {short}", "TF2", gradient, table.LARGEST, bind(_gradient, dtype)),
        Row(f"contrastive accuracy, {short}", "TF2", 0.0, table.EXACT, bind(_accuracy, dtype)),
        Row(f"contrastive entropy, {short}", "TF2", entropy, table.ABSOLUTE, bind(_entropy, dtype)),
    ]


_LIGHTLY = functools.partial(_mean_of_library, _torch_loss(lightly_loss))
_METRIC_LEARNING = functools.partial(_mean_of_library, _torch_loss(_metric_learning_loss))

ROWS = [
    *_golden_rows("float64", "f64", loss=1e-10, gradient=1e-10, entropy=1e-10),
    *_golden_rows("float32", "f32", loss=1e-5, gradient=2e-5, entropy=1e-5),
    Row("loss, f32", "TF1", 1e-5, table.EACH, _tf1_loss),
    Row("weighted loss, f64", "TF1", 1e-5, table.EACH, lambda: (Case(o.loss, loss) for o, loss, _ in _weighted())),
    Row(
        *("weighted gradient, f64", "TF1", 2e-5, table.LARGEST),
        lambda: (Case(o.gradient, gradient) for o, _, gradient in _weighted()),
    ),
    Row("global batch loss, f64", "TF2, 2 and 4 replicas", 1e-5, table.EACH, _replicas),
    Row("global batch gradient, f64", "TF2, 2 and 4 replicas", 2e-5, table.LARGEST, _replica_gradients),
    Row("mean loss and gradient, f64", "lightly", 1e-10, table.LARGEST, _LIGHTLY, ("lightly", "torchvision")),
    Row(
        *("mean loss and gradient, f64", "pytorch-metric-learning", 1e-10, table.LARGEST, _METRIC_LEARNING),
        needs=("pytorch_metric_learning",),
    ),
    Row("mean loss and gradient, f64", "optax", 1e-10, table.LARGEST, lambda: _mean_of_library(_optax_loss)),
]
