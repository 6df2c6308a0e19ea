"""Rows of the supervised losses, distillation, accuracies and probes on frozen features."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import peers, table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import losses, probes
from tests import golden

GROUP = "Classification, distillation, probes"


def _cross_entropy(logits, labels, *, label_smoothing: float = 0.0, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """(loss, gradient) in float64; with weights as TF1 reduces them."""
    with jax.enable_x64(True):

        def loss(logits):
            values = losses.cross_entropy(logits, jnp.asarray(labels), label_smoothing=label_smoothing)
            return jnp.mean(values) if weights is None else losses.weighted_mean(values, jnp.asarray(weights, float))

        return jax.device_get(jax.value_and_grad(loss)(jnp.asarray(logits, jnp.float64)))


def _tf2_cross_entropy() -> Iterator[Case]:
    arrays = golden.load("losses_other")
    loss, gradient = _cross_entropy(arrays["supervised/logits"], arrays["supervised/labels"])
    yield Case(loss, arrays["supervised/loss_f64"])
    yield Case(gradient, arrays["supervised/grad"])


def _tf1_cross_entropy() -> Iterator[Case]:
    arrays = golden.load("losses_tf1")
    for name in sorted({key.split("/")[1] for key in arrays if key.startswith("supervised/smoothing")}):
        smoothing = float(name.removeprefix("smoothing").split("_")[0])
        weights = arrays["supervised/mask_weights"] if name.endswith("mask") else None
        logits, labels = arrays["supervised/logits"], arrays["supervised/labels"]
        loss, gradient = _cross_entropy(logits, labels, label_smoothing=smoothing, weights=weights)
        yield Case(loss, arrays[f"supervised/{name}/loss_f64"])
        yield Case(gradient, arrays[f"supervised/{name}/grad"])


def _torch_cross_entropy() -> Iterator[Case]:
    import torch

    arrays = golden.load("losses_other")
    for smoothing in (0.0, 0.1, 0.5):
        logits = torch.tensor(arrays["supervised/logits"].astype(np.float64), requires_grad=True)
        labels = torch.tensor(arrays["supervised/labels"].astype(np.int64))
        theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        theirs.backward()
        loss, gradient = _cross_entropy(
            arrays["supervised/logits"], arrays["supervised/labels"], label_smoothing=smoothing
        )
        yield Case(loss, float(theirs.detach()))
        yield Case(gradient, logits.grad.numpy())


def _distillation(*, squared: bool, gradients: bool) -> Iterator[Case]:
    arrays = golden.load("losses_other")
    kind = "with_temperature_squared" if squared else "paper_without_factor"
    for k, temperature in enumerate(arrays["distill/temperatures"].tolist()):
        with jax.enable_x64(True):
            student, teacher = (jnp.asarray(arrays[f"distill/{who}_logits"], float) for who in ("student", "teacher"))
            scale = temperature**2 if squared else 1.0

            def loss(student, teacher=teacher, temperature=temperature, scale=scale):
                values = losses.distillation(student, teacher, temperature=temperature, loss_scale=scale)
                return jnp.mean(values)

            value, gradient = jax.device_get(jax.value_and_grad(loss)(student))
        if gradients:
            yield Case(gradient, arrays["distill/grad_student"][k])
        else:
            yield Case(value, arrays[f"distill/loss_{kind}_f64"][k])


def _top_accuracies() -> Iterator[Case]:
    arrays = golden.load("losses_other")
    logits, labels = arrays["eval_metrics/logits"], arrays["eval_metrics/labels"]
    for k in (1, 5):
        yield Case(probes.top_k_accuracy(logits, labels, k=k), arrays[f"eval_metrics/top{k}"])


def clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping classes: (training features [400, 16], their labels, test features [300, 16])."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 700)
    features = (rng.normal(size=(5, 16))[labels] + 1.5 * rng.normal(size=(700, 16))).astype(np.float32)
    return features[:400], labels[:400], features[400:]


def _knn(predict: Callable) -> Iterator[Case]:
    """The share of test rows that get another class."""
    for k, temperature in ((1, 0.1), (20, 0.07), (200, 0.1)):
        train, labels, test = clusters()
        ours = probes.knn(train, labels, test, num_classes=5, k=k, temperature=temperature)
        yield Case(np.mean(ours != predict(train, labels, test, k, temperature)), 0.0)


def _sklearn_knn(train, labels, test, k: int, temperature: float) -> np.ndarray:
    from sklearn import neighbors

    def weights(distance):
        # Divided by the largest weight: of the whole row, so that nothing overflows.
        similarity = 1 - distance
        return np.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)

    classifier = neighbors.KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    return classifier.fit(train.astype(np.float64), labels).predict(test.astype(np.float64))


def _lightly_knn(train, labels, test, k: int, temperature: float) -> np.ndarray:
    peers.load_torchvision()
    import torch
    from lightly.utils.benchmarking import knn_predict

    bank, queries = (torch.nn.functional.normalize(torch.tensor(x.astype(np.float64)), dim=1) for x in (train, test))
    ranked = knn_predict(queries, bank.T.contiguous(), torch.tensor(labels), num_classes=5, knn_k=k, knn_t=temperature)
    return ranked[:, 0].numpy()


def _logistic(*, weights: bool) -> Iterator[Case]:
    """Solutions of the same convex problem: the weights, and the value of the objective they reach."""
    from sklearn import linear_model

    train, labels, _ = clusters()
    for strength in (1.0, 1e-1, 1e-2):
        reference = linear_model.LogisticRegression(C=1 / (strength * len(train)), tol=1e-10, max_iter=5000)
        reference.fit(train.astype(np.float64), labels)
        ours, bias = probes.fit_logistic(train, labels, num_classes=5, regularization=strength)
        if weights:
            yield Case(ours, reference.coef_.T)
        else:
            theirs = _objective(train, labels, reference.coef_.T, reference.intercept_, strength)
            yield Case(_objective(train, labels, ours, bias, strength), theirs)


def _objective(features, labels, weights, bias, strength: float) -> float:
    logits = features.astype(np.float64) @ weights.astype(np.float64) + bias
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    penalty = strength / 2 * np.sum(np.square(weights, dtype=np.float64))
    return float(-log_p[np.arange(len(labels)), labels].mean() + penalty)


ROWS = [
    Row("cross entropy and gradient, f64", "TF2", 1e-5, table.LARGEST, _tf2_cross_entropy),
    Row("smoothed, weighted cross entropy, f64", "TF1", 1e-5, table.LARGEST, _tf1_cross_entropy),
    Row("smoothed cross entropy, f64", "torch", 1e-10, table.LARGEST, _torch_cross_entropy, ("torch",)),
    Row(
        *("distillation, times tau^2, f64", "TF2 notebook", 1e-10, table.EACH),
        lambda: _distillation(squared=True, gradients=False),
    ),
    Row(
        *("distillation, equation, f64", "NumPy", 1e-10, table.EACH),
        lambda: _distillation(squared=False, gradients=False),
    ),
    Row(
        *("distillation gradient, f64", "TF2 notebook", 1e-5, table.LARGEST),
        lambda: _distillation(squared=True, gradients=True),
    ),
    Row("top-1 and top-5 accuracy", "TF2", 1e-6, table.ABSOLUTE, _top_accuracies),
    Row("kNN, share of other classes", "scikit-learn", 0.0, table.EXACT, lambda: _knn(_sklearn_knn), ("sklearn",)),
    Row(
        "kNN, share of other classes",
        "lightly",
        0.0,
        table.EXACT,
        lambda: _knn(_lightly_knn),
        ("lightly", "torchvision"),
    ),
    # Ours stops at a gradient of 1e-5 in float32; the curvature is at least the regularization.
    Row(
        *("logistic regression, weights", "scikit-learn", 2e-4, table.ABSOLUTE, lambda: _logistic(weights=True)),
        needs=("sklearn",),
    ),
    Row(
        *("logistic regression, objective", "scikit-learn", 1e-5, table.EACH, lambda: _logistic(weights=False)),
        needs=("sklearn",),
    ),
]
