"""Intended differences in losses, metrics and probes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parity_rows import classification, contrastive
from benchmarks.parity_rows.table import Difference, Effect
from simclr_jax import losses, probes
from simclr_jax.losses import contrastive as contrastive_losses
from tests import golden

GROUP = "Losses, metrics, probes"


def _factor_two() -> Effect:
    """The reference's value over ours, over all recorded cases."""
    arrays, ratios = golden.load("nt_xent"), []
    for name in (n for n in arrays["case_names"].tolist() if n.startswith("n8_d16")):
        hidden = arrays[f"hidden/{arrays[f'{name}/norm/hidden_key']}"]
        with jax.enable_x64(True):
            z = jnp.asarray(contrastive.pairs(hidden), float)
            ours, _ = losses.nt_xent(z, temperature=float(arrays[f"{name}/norm/temperature"]))
        ratios.append(float(arrays[f"{name}/norm/loss_f64"]) / float(ours))
    ratio = float(np.mean(ratios))
    return Effect(ratio, 2 - 1e-9, 2 + 1e-9, f"reference / ours = {ratio:.6f}")


def _tiny_vectors() -> Effect:
    import torch

    row = np.zeros((1, 4))
    row[0, 0] = 1e-7
    with jax.enable_x64(True):
        ours = float(jnp.linalg.norm(contrastive_losses.l2_normalize(jnp.asarray(row))))
    theirs = float(torch.nn.functional.normalize(torch.tensor(row)).norm())
    return Effect(ours / theirs, 0.0999, 0.1001, f"a vector of length 1e-7 gets length {ours:.2f} against {theirs:.2f}")


def _candidates() -> Effect:
    """Contrastive accuracy of random pairs among the B rows of the other view, and among all 2B - 1 others."""
    rng = np.random.default_rng(0)
    base_rows = rng.normal(size=(256, 1, 16))
    z = (base_rows + 1.2 * rng.normal(size=(256, 2, 16))).astype(np.float32)
    _, metrics = losses.nt_xent(jnp.asarray(z), temperature=0.1)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    within = unit[:, 0] @ unit[:, 0].T - 10 * np.eye(len(z))
    everyone = np.concatenate([unit[:, 0] @ unit[:, 1].T, within], axis=1)
    ours, theirs = float(metrics["contrastive_accuracy"]), float(np.mean(everyone.argmax(axis=1) == np.arange(len(z))))
    text = f"noisy random pairs, B = 256: {100 * ours:.1f} % against {100 * theirs:.1f} %"
    return Effect(ours - theirs, 0.01, 0.5, text)


def _label_smoothing() -> Effect:
    arrays = golden.load("losses_tf1")
    ours = {}
    for smoothing in (0.0, 0.1):
        values = losses.cross_entropy(
            *(jnp.asarray(arrays[f"supervised/{name}"]) for name in ("logits", "labels")), label_smoothing=smoothing
        )
        ours[smoothing] = float(jnp.mean(values))
    change = ours[0.1] - ours[0.0]
    recorded = float(arrays["supervised/smoothing0.1_ones/loss_f64"] - arrays["supervised/smoothing0_ones/loss_f64"])
    text = f"0.1 adds {change:.3f} nats to a loss of {ours[0.0]:.2f}"
    return Effect(change, recorded - 1e-4, recorded + 1e-4, text)


def _temperature_squared() -> Effect:
    arrays = golden.load("losses_other")
    temperatures = arrays["distill/temperatures"].tolist()
    factors = arrays["distill/loss_with_temperature_squared_f64"] / arrays["distill/loss_paper_without_factor_f64"]
    student, teacher = (jnp.asarray(arrays[f"distill/{who}_logits"]) for who in ("student", "teacher"))
    ours = float(jnp.mean(losses.distillation(student, teacher, temperature=4.0)))
    factor = float(arrays["distill/loss_with_temperature_squared_f64"][temperatures.index(4.0)]) / ours
    words = ", ".join(f"{f:g} at tau {t:g}" for t, f in zip(temperatures, np.round(factors, 6), strict=True))
    return Effect(factor, 15.999, 16.001, f"notebook / ours = {words}")


def _reported_decay() -> Effect:
    arrays = golden.load("train_step_tiny_r18_b8")
    term, total = (float(arrays[f"step1/loss_{part}_f64"]) for part in ("weight_decay", "total"))
    return Effect(term, 1e-4, 1e-3, f"the reported loss of {total:.3f} has {term:.1e} more, same gradient")


def _online_classifier() -> Effect:
    arrays = golden.load("train_step_tiny_r18_b8")
    term, total = (float(arrays[f"step1/loss_{part}_f64"]) for part in ("supervised", "total"))
    return Effect(
        term, 0.1, total, f"{term:.2f} of a reported loss of {total:.2f} in the first step; no gradient in the network"
    )


def _knn_accuracies(settings: list[tuple[int, float]]) -> list[np.ndarray]:
    train, labels, test = classification.clusters()
    return [probes.knn(train, labels, test, num_classes=5, k=k, temperature=t) for k, t in settings]


def _knn_temperature() -> Effect:
    ours, theirs = _knn_accuracies([(200, 0.1), (200, 0.07)])
    share = float(np.mean(ours != theirs))
    return Effect(share, 0.002, 0.2, f"{100 * share:.1f} % of the predictions change (five overlapping clusters)")


def _knn_neighbours() -> Effect:
    ours, theirs = _knn_accuracies([(200, 0.1), (20, 0.1)])
    share = float(np.mean(ours != theirs))
    return Effect(share, 0.005, 0.5, f"{100 * share:.1f} % of the predictions change from k = 200 to 20")


def _difference(topic: str, ours: str, others: str, measure: Callable, switch: str, *needs: str) -> Difference:
    return Difference(topic, ours, others, measure, switch, needs)


DIFFERENCES = [
    _difference(
        "NT-Xent: factor 2",
        "`losses.nt_xent` is the paper's mean; training multiplies it by 2 (as the reference)",
        "reference: sum of both directions; lightly, pytorch-metric-learning: the mean",
        _factor_two,
        "`method.loss_scale = 1.0`",
    ),
    _difference(
        "NT-Xent: smallest length",
        "divides by max(length, 1e-6) (as the reference)",
        "torch: max(length, 1e-12)",
        _tiny_vectors,
        "no option",
        "torch",
    ),
    _difference(
        "contrastive accuracy",
        "among the B rows of the other view (as the reference)",
        "many others: among all 2B - 1 rows",
        _candidates,
        "no option",
    ),
    _difference(
        "online classifier",
        "off by default (as TF1, which has none)",
        "TF2: on by default",
        _online_classifier,
        "`method.supervised_weight = 1.0`",
    ),
    _difference(
        "decay in the reported loss",
        "the optimizer decays, the loss has no such term",
        "reference: term in the loss",
        _reported_decay,
        "no option",
    ),
    _difference(
        "label smoothing",
        "0 by default (as TF2, which has none)",
        "TF1: an option",
        _label_smoothing,
        "`method.label_smoothing`",
    ),
    _difference(
        "distillation: tau^2",
        "the paper's equation",
        "reference notebook: times tau^2",
        _temperature_squared,
        "`loss_scale` of `losses.distillation`",
    ),
    _difference(
        "kNN: temperature",
        "0.1 (as MoCo's and lightly's CIFAR code)",
        "InstDisc: 0.07",
        _knn_temperature,
        "`probe.knn_temperature`",
    ),
    _difference(
        "kNN: neighbours",
        "200, at most the number of labels",
        "others: 10, 20",
        _knn_neighbours,
        "`probe.knn_k`",
    ),
]
