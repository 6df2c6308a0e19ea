"""The size of intended differences in optimizers, decay and the length of a run; docs/parity.md has the words."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import optim
from tests import golden
from tests import test_optim_live as live

pytestmark = pytest.mark.slow  # for docs/parity.md

DECAY = 1e-4


def test_default_decays(effect):
    found = []
    for name in ("default_flags_tf1", "default_flags_tf2"):
        arrays = golden.load(name)
        defaults = dict(zip(arrays["names"].tolist(), arrays["defaults_repr"].tolist(), strict=True))
        found.append(float(ast.literal_eval(defaults["weight_decay"])))
    first, second = found
    text = f"TF1 default {first:g}, TF2 default {second:g}: a factor of {first / second:.0f}"
    effect("default weight decay", text, first / second, low=99.99, high=100.01)


def test_decay_of_batch_norm(effect):
    arrays = golden.load("weight_decay_term")
    names, shapes = (arrays[f"variables/{key}"].tolist() for key in ("canonical_names", "shapes"))
    sizes = {n: int(np.prod([int(v) for v in s.split(",")])) for n, s in zip(names, shapes, strict=True)}
    trainable = {n: size for n, size in sizes.items() if not n.endswith(("/mean", "/var"))}
    norms, total = sum(s for n, s in trainable.items() if n.endswith(("/gamma", "/beta"))), sum(trainable.values())
    text = f"{norms:,} of {total:,} parameters of a thin ResNet-18 ({100 * norms / total:.1f} %)"
    effect("decay of BatchNorm", text, norms / total, low=0.005, high=0.2)


def test_decay_under_adam(effect):
    """Of a kernel without gradient in one step: decoupled, and as an L2 term that Adam rescales."""
    adamw = optim.make_adamw(learning_rate=0.01, weight_decay=DECAY)
    ours, theirs = (
        np.abs(after(tx, weight=np.full(4, 0.5), gradient=np.full(4, gradient)) - 0.5).max()
        for tx, gradient in ((adamw, 0.0), (optax.adam(0.01), DECAY * 0.5))
    )
    text = f"a weight of 0.5 without gradient moves by {ours:.0e} against {theirs:.0e} in a step of rate 0.01"
    effect("decay under Adam", text, theirs / ours, low=1e3, high=1e5)


def after(tx, *, weight, gradient, num_steps=1):
    """A kernel after some updates with the same gradient, in float64."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params, gradients = ({"conv1": {"kernel": jnp.asarray(x)}} for x in (weight, gradient))
        state = tx.init(params)
        for _ in range(num_steps):
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params["conv1"]["kernel"])


def trust_ratios(decay):
    """Largest relative difference between |W| / |g + wd W| and |W| / (|g| + wd |W|) over the recorded kernels."""
    arrays, differences = golden.load("lars"), []
    for name in (n for n in arrays["canonical_names"].tolist() if n.endswith("kernel")):
        weight = arrays[f"init/{name}"].astype(float)
        for gradient in arrays[f"grads/{name}"].astype(float):
            lengths = np.linalg.norm(gradient), np.linalg.norm(weight)
            if min(lengths) > 0:
                differences.append(
                    abs((lengths[0] + decay * lengths[1]) / np.linalg.norm(gradient + decay * weight) - 1)
                )
    return float(max(differences))


def test_trust_ratio(effect):
    small, large = trust_ratios(1e-6), trust_ratios(1e-4)
    text = (
        f"the step differs by up to {100 * small:.2f} % at decay 1e-6, {100 * large:.1f} % at 1e-4, recorded gradients"
    )
    effect("LARS: trust ratio", text, large, low=1e-6, high=0.5)


def test_epsilon_of_the_trust_ratio(effect):
    """An epsilon of 1e-8 in the denominator, for a gradient of norm 1e-6, as NT-Xent gives behind many layers."""
    weight, tx = np.ones((4, 4)), optim.make_lars(learning_rate=1.0, weight_decay=0.0)
    ours = np.linalg.norm(after(tx, weight=weight, gradient=weight * 1e-6 / 4) - weight)
    theirs, ratio = 0.001 * 4 / (1e-6 + 1e-8) * 1e-6, 1e-6 / (1e-6 + 1e-8)
    text = f"1e-8 shortens the step by {100 * (1 - theirs / ours):.1f} % at a gradient of norm 1e-6"
    effect("LARS: epsilon", text, theirs / ours, low=ratio - 1e-9, high=ratio + 1e-9)


def test_exclusions_of_lars(effect):
    """Movement of a BatchNorm scale under our masks and under optax.lars' defaults."""
    ours, theirs = (
        np.linalg.norm(live.run(make)["bn1/gamma"] - live.START["bn1/gamma"])
        for make in (
            lambda rate: optim.make_lars(learning_rate=rate, weight_decay=DECAY),
            lambda rate: optax.lars(rate, weight_decay=DECAY),
        )
    )
    text = f"a BatchNorm scale moves {ours / theirs:.0f} times as far in five steps"
    effect("LARS: exclusions", text, ours / theirs, low=100, high=1e5)


def warm_up(make_tx):
    """Distance moved by a kernel in ten steps of warm-up with a constant gradient."""
    start = np.linspace(0.5, 1.5, 9)
    with jax.enable_x64(True):
        tx = make_tx(live.scheduled(tuple(0.01 * step for step in range(10))))
        return np.linalg.norm(after(tx, weight=start, gradient=np.ones(9), num_steps=10) - start)


def test_places_of_rate_and_ratio(effect):
    def moved(name):
        return warm_up(lambda rate: optim.make_optimizer(name, learning_rate=rate, weight_decay=0.0))

    def outside(rate):
        ratio = optax.scale_by_trust_ratio(trust_coefficient=1e-3)
        return optax.chain(ratio, optax.trace(0.9), optax.scale_by_learning_rate(rate))

    for topic, how, ratio, low, high in (
        ("LARS: rate in the momentum", "with the rate outside", warm_up(outside) / moved("lars"), 1.2, 3),
        ("LARS: ratio in the momentum", "behind it", moved("lars_popular") / moved("lars"), 0.1, 0.9),
        ("SGD: rate in the momentum", "with the rate inside", moved("sgd_keras") / moved("sgd"), 0.3, 0.9),
    ):
        text = f"{how} a kernel moves {ratio:.2f} times as far in ten steps of warm-up"
        effect(topic, text, ratio, low=low, high=high)


def test_end_of_a_run(effect):
    arrays = golden.load("schedule")
    total, block = (int(arrays[f"v1_imagenet_100ep/{key}"]) for key in ("total_steps", "checkpoint_epoch_steps"))
    ours, theirs = optim.num_train_steps(num_examples=1_281_167, batch_size=4096, num_epochs=100), -(-total // block)
    text = f"{ours:,} against {theirs * block:,} steps for 100 epochs of ImageNet at batch 4,096"
    effect("end of a run", text, theirs * block - ours, low=1, high=block)
