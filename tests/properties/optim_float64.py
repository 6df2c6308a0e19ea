"""Losses, schedules and optimizers as slow float64 NumPy, written from the papers; shares no code with the package."""

import math
from fractions import Fraction

import numpy as np


def nt_xent(z: np.ndarray, *, temperature: float, normalize: bool = True) -> float:
    """The paper's NT-Xent of z [B, 2, d]: mean over the 2B anchors of minus log p(positive)."""
    return float(nt_xent_of_anchors(z, temperature=temperature, normalize=normalize).mean())


def nt_xent_of_anchors(z: np.ndarray, *, temperature: float, normalize: bool = True) -> np.ndarray:
    """Minus log p(positive) of the 2B anchors: first all of view 1, then all of view 2."""
    rows = np.concatenate([z[:, 0], z[:, 1]]).astype(np.float64)
    count, half = len(rows), len(z)
    if normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    losses = []
    for i in range(count):
        logits = rows @ rows[i] / temperature
        others = np.delete(logits, i)
        top = others.max()
        losses.append(top - logits[(i + half) % count] + math.log(np.exp(others - top).sum()))
    return np.array(losses)


def contrastive_metrics(z: np.ndarray, *, temperature: float) -> tuple[float, float]:
    """(accuracy, entropy in nats) of finding view 2 of an image among all view 2, from view 1."""
    unit = z.astype(np.float64) / np.maximum(np.linalg.norm(z.astype(np.float64), axis=-1, keepdims=True), 1e-6)
    logits = unit[:, 0] @ unit[:, 1].T / temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    hits = logits.argmax(axis=1) == np.arange(len(z))
    return float(hits.mean()), float(-(shares * np.log(shares + 1e-8)).sum(axis=1).mean())


def finite_differences(function, at: np.ndarray, *, step: float) -> np.ndarray:
    """Central differences of a scalar function of an array, in float64 (fourth order: error ~ step**4)."""
    at = at.astype(np.float64)
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        values = {}
        for k in (-2, -1, 1, 2):
            moved = at.copy()
            moved[index] += k * step
            values[k] = function(moved)
        gradient[index] = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * step)
    return gradient


def step_counts(*, num_examples: int, batch_size: int, num_epochs: float, warmup_epochs: float) -> tuple[int, int]:
    """(warm-up steps, all steps): floors of exact fractions of the float64 products."""
    warmup = math.floor(Fraction(warmup_epochs * num_examples) / batch_size)
    return warmup, math.floor(Fraction(num_examples * num_epochs) / batch_size) + 1


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear from 0, then half a cosine to 0, then 0."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    after = min(step - warmup_steps, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * after / (total_steps - warmup_steps)))


def norm(tensor: np.ndarray) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in tensor.ravel()))


def lars(weight, gradients, rates, *, weight_decay, decayed, adapted, momentum, nesterov):
    """The weight after each update of LARS, float64."""
    velocity, history = np.zeros_like(weight), []
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + (weight_decay * weight if decayed else 0.0)
        ratio = 1.0
        if adapted and norm(weight) > 0 and norm(gradient) > 0:
            ratio = 1e-3 * norm(weight) / norm(gradient)
        push = rate * ratio * gradient
        velocity = momentum * velocity + push
        weight = weight - (momentum * velocity + push if nesterov else velocity)
        history.append(weight)
    return history


def lars_popular(weight, gradients, rates, *, weight_decay, decayed, adapted, momentum, nesterov):
    """LARS with the trust ratio and the learning rate behind the momentum, float64."""
    velocity, history = np.zeros_like(weight), []
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + (weight_decay * weight if decayed else 0.0)
        velocity = momentum * velocity + gradient
        push = momentum * velocity + gradient if nesterov else velocity
        ratio = 1.0
        if adapted and norm(weight) > 0 and norm(push) > 0:
            ratio = 1e-3 * norm(weight) / norm(push)
        weight = weight - rate * ratio * push
        history.append(weight)
    return history


def sgd_keras(weight, gradients, rates, *, weight_decay, decayed, momentum, nesterov):
    """Momentum SGD with the learning rate inside the velocity: LARS without any adaptation, float64."""
    common = {"weight_decay": weight_decay, "decayed": decayed, "momentum": momentum, "nesterov": nesterov}
    return lars(weight, gradients, rates, adapted=False, **common)


def sgd(weight, gradients, rates, *, weight_decay, decayed, momentum, nesterov):
    """The weight after each update of momentum SGD with the learning rate outside the velocity, float64."""
    velocity, history = np.zeros_like(weight), []
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + (weight_decay * weight if decayed else 0.0)
        velocity = momentum * velocity + gradient
        weight = weight - rate * (gradient + momentum * velocity if nesterov else velocity)
        history.append(weight)
    return history


def adamw(weight, gradients, rates, *, weight_decay, decayed, momentum):
    """The weight after each update of Adam with decoupled decay (b2 0.999, epsilon 1e-8), float64."""
    mean, square, history = np.zeros_like(weight), np.zeros_like(weight), []
    for count, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean = momentum * mean + (1 - momentum) * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (1 - momentum**count) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        weight = weight - rate * (step + (weight_decay * weight if decayed else 0.0))
        history.append(weight)
    return history
