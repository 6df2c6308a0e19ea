"""The size of intended differences in losses, metrics and probes; the words beside it stand in docs/parity.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import losses, probes
from tests import golden
from tests.losses.test_contrastive import as_pairs

pytestmark = pytest.mark.slow  # for docs/parity.md


def test_factor_two(effect):
    arrays, ratios = golden.load("nt_xent"), []
    for name in (n for n in arrays["case_names"].tolist() if n.startswith("n8_d16")):
        hidden = arrays[f"hidden/{arrays[f'{name}/norm/hidden_key']}"]
        with jax.enable_x64(True):
            z = jnp.asarray(as_pairs(hidden), float)
            ours, _ = losses.nt_xent(z, temperature=float(arrays[f"{name}/norm/temperature"]))
        ratios.append(float(arrays[f"{name}/norm/loss_f64"]) / float(ours))
    ratio = float(np.mean(ratios))
    effect("NT-Xent: factor 2", f"reference / ours = {ratio:.6f}", ratio, low=2 - 1e-9, high=2 + 1e-9)


def test_smallest_length(effect):
    torch = pytest.importorskip("torch")
    row = np.zeros((1, 4))
    row[0, 0] = 1e-7
    with jax.enable_x64(True):
        ours = float(jnp.linalg.norm(losses.l2_normalize(jnp.asarray(row))))
    theirs = float(torch.nn.functional.normalize(torch.tensor(row)).norm())
    text = f"a vector of length 1e-7 gets length {ours:.2f} against {theirs:.2f}"
    effect("NT-Xent: smallest length", text, ours / theirs, low=0.0999, high=0.1001)


def test_candidates_of_the_contrastive_accuracy(effect):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(256, 1, 16)) + 1.2 * rng.normal(size=(256, 2, 16))).astype(np.float32)
    _, metrics = losses.nt_xent(jnp.asarray(z), temperature=0.1)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    within = unit[:, 0] @ unit[:, 0].T - 10 * np.eye(len(z))
    everyone = np.concatenate([unit[:, 0] @ unit[:, 1].T, within], axis=1)
    ours, theirs = float(metrics["contrastive_accuracy"]), float(np.mean(everyone.argmax(axis=1) == np.arange(len(z))))
    text = f"noisy random pairs, B = 256: {100 * ours:.1f} % against {100 * theirs:.1f} %"
    effect("contrastive accuracy", text, ours - theirs, low=0.01, high=0.5)


def test_label_smoothing(effect):
    arrays = golden.load("losses_tf1")
    logits, labels = (jnp.asarray(arrays[f"supervised/{name}"]) for name in ("logits", "labels"))
    plain, smoothed = (float(losses.cross_entropy(logits, labels, label_smoothing=s).mean()) for s in (0.0, 0.1))
    recorded = float(arrays["supervised/smoothing0.1_ones/loss_f64"] - arrays["supervised/smoothing0_ones/loss_f64"])
    text = f"0.1 adds {smoothed - plain:.3f} nats to a loss of {plain:.2f}"
    effect("label smoothing", text, smoothed - plain, low=recorded - 1e-4, high=recorded + 1e-4)


def test_temperature_squared(effect):
    arrays = {k.removeprefix("distill/"): value for k, value in golden.load("losses_other").items()}
    temperatures, with_square = arrays["temperatures"].tolist(), arrays["loss_with_temperature_squared_f64"]
    factors = with_square / arrays["loss_paper_without_factor_f64"]
    student, teacher = (jnp.asarray(arrays[f"{who}_logits"]) for who in ("student", "teacher"))
    ours = float(jnp.mean(losses.distillation(student, teacher, temperature=4.0)))
    factor = float(with_square[temperatures.index(4.0)]) / ours
    words = ", ".join(f"{f:g} at tau {t:g}" for t, f in zip(temperatures, np.round(factors, 6), strict=True))
    effect("distillation: tau^2", f"notebook / ours = {words}", factor, low=15.999, high=16.001)


def test_terms_of_the_reported_loss(effect):
    arrays = golden.load("train_step_tiny_r18_b8")
    decay, supervised, total = (float(arrays[f"step1/loss_{k}_f64"]) for k in ("weight_decay", "supervised", "total"))
    text = f"the reported loss of {total:.3f} has {decay:.1e} more, same gradient"
    effect("decay in the reported loss", text, decay, low=1e-4, high=1e-3)
    text = f"{supervised:.2f} of a reported loss of {total:.2f} in the first step; no gradient in the network"
    effect("online classifier", text, supervised, low=0.1, high=total)


def test_settings_of_knn(effect):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 700)
    features = (rng.normal(size=(5, 16))[labels] + 1.5 * rng.normal(size=(700, 16))).astype(np.float32)

    def predict(k, temperature):
        return probes.knn(features[:400], labels[:400], features[400:], num_classes=5, k=k, temperature=temperature)

    ours, cooler, fewer = predict(200, 0.1), predict(200, 0.07), predict(20, 0.1)
    share = float(np.mean(ours != cooler))
    text = f"{100 * share:.1f} % of the predictions change (five overlapping clusters)"
    effect("kNN: temperature", text, share, low=0.002, high=0.2)
    share = float(np.mean(ours != fewer))
    text = f"{100 * share:.1f} % of the predictions change from k = 200 to 20"
    effect("kNN: neighbours", text, share, low=0.005, high=0.5)
