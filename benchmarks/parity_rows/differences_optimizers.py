"""Intended differences in optimizers, weight decay and the length of a run."""

import ast
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parity_rows import optimizers
from benchmarks.parity_rows.table import Difference, Effect
from simclr_jax import optim
from tests import golden

GROUP = "Optimizers and schedules"
DECAY = 1e-4


def _trust_ratios(decay: float) -> float:
    """Largest relative difference between |W| / |g + wd W| and |W| / (|g| + wd |W|) over the recorded kernels."""
    arrays, differences = golden.load("lars"), []
    for name in (n for n in arrays["canonical_names"].tolist() if n.endswith("kernel")):
        weight, gradients = arrays[f"init/{name}"].astype(float), arrays[f"grads/{name}"].astype(float)
        for gradient in gradients:
            ours = np.linalg.norm(gradient + decay * weight)
            theirs = np.linalg.norm(gradient) + decay * np.linalg.norm(weight)
            if np.linalg.norm(gradient) > 0 and np.linalg.norm(weight) > 0:
                differences.append(abs(theirs / ours - 1))
    return float(max(differences))


def _trust_formula() -> Effect:
    small, large = _trust_ratios(1e-6), _trust_ratios(1e-4)
    text = (
        f"the step differs by up to {100 * small:.2f} % at decay 1e-6, {100 * large:.1f} % at 1e-4, recorded gradients"
    )
    return Effect(large, 1e-6, 0.5, text)


def _trust_epsilon() -> Effect:
    """An epsilon of 1e-8 in the denominator, for a gradient of norm 1e-6, as NT-Xent gives behind many layers."""
    ratio = 1e-6 / (1e-6 + 1e-8)
    with jax.enable_x64(True):
        weight = jnp.ones((4, 4))
        gradient = weight * 1e-6 / 4
        tx = optim.make_lars(learning_rate=1.0, weight_decay=0.0)
        tree = {"conv1": {"kernel": weight}}
        updates, _ = tx.update({"conv1": {"kernel": gradient}}, tx.init(tree), tree)
        ours = float(jnp.linalg.norm(updates["conv1"]["kernel"]))
    theirs = 0.001 * 4 / (1e-6 + 1e-8) * 1e-6
    text = f"1e-8 shortens the step by {100 * (1 - theirs / ours):.1f} % at a gradient of norm 1e-6"
    return Effect(theirs / ours, ratio - 1e-9, ratio + 1e-9, text)


def _unmasked() -> Effect:
    """Movement of a BatchNorm scale under our masks and under optax.lars' defaults."""
    moved = {}
    with jax.enable_x64(True):
        for name, tx in (
            ("ours", optim.make_lars(learning_rate=optimizers.scheduled(), weight_decay=DECAY)),
            ("optax", optax.lars(optimizers.scheduled(), weight_decay=DECAY)),
        ):
            after = optimizers.run_live(tx)["bn1/gamma"]
            moved[name] = float(np.linalg.norm(after - optimizers.run_live(tx, num_steps=0)["bn1/gamma"]))
    ratio = moved["ours"] / moved["optax"]
    return Effect(ratio, 100, 1e5, f"a BatchNorm scale moves {ratio:.0f} times as far in five steps")


def _warm_up(tx_of: Callable[[optax.Schedule], optax.GradientTransformation]) -> float:
    """Distance moved by a kernel in ten steps of warm-up with a constant gradient."""
    rates = tuple(0.01 * step for step in range(10))
    with jax.enable_x64(True):
        tx = tx_of(optimizers.scheduled(rates))
        start = {"conv1": {"kernel": jnp.asarray(np.linspace(0.5, 1.5, 9))}}
        params, state = start, tx.init(start)
        for _ in rates:
            updates, state = tx.update({"conv1": {"kernel": jnp.ones(9)}}, state, params)
            params = optax.apply_updates(params, updates)
        return float(jnp.linalg.norm(params["conv1"]["kernel"] - start["conv1"]["kernel"]))


def _moved(name: str) -> float:
    return _warm_up(lambda schedule: optim.make_optimizer(name, learning_rate=schedule, weight_decay=0.0))


def _rate_outside_lars() -> Effect:
    def outside(schedule: optax.Schedule) -> optax.GradientTransformation:
        ratio = optax.scale_by_trust_ratio(trust_coefficient=1e-3)
        return optax.chain(ratio, optax.trace(0.9), optax.scale_by_learning_rate(schedule))

    ratio = _warm_up(outside) / _moved("lars")
    return Effect(
        ratio, 1.2, 3, f"with the rate outside a kernel moves {ratio:.2f} times as far in ten steps of warm-up"
    )


def _ratio_behind_momentum() -> Effect:
    ratio = _moved("lars_popular") / _moved("lars")
    return Effect(ratio, 0.1, 0.9, f"behind it a kernel moves {ratio:.2f} times as far in ten steps of warm-up")


def _rate_inside_sgd() -> Effect:
    ratio = _moved("sgd_keras") / _moved("sgd")
    return Effect(
        ratio, 0.3, 0.9, f"with the rate inside a kernel moves {ratio:.2f} times as far in ten steps of warm-up"
    )


def _last_step() -> Effect:
    """Steps of a run of 100 epochs on ImageNet, batch 4,096."""
    arrays = golden.load("schedule")
    total, block = (int(arrays[f"v1_imagenet_100ep/{key}"]) for key in ("total_steps", "checkpoint_epoch_steps"))
    ours = optim.num_train_steps(num_examples=1_281_167, batch_size=4096, num_epochs=100)
    theirs = -(-total // block) * block
    return Effect(
        theirs - ours, 1, block, f"{ours:,} against {theirs:,} steps for 100 epochs of ImageNet at batch 4,096"
    )


def _decay_of_batch_norm() -> Effect:
    """Share of the parameters' squared length that torch decays and we do not: BatchNorm's."""
    arrays = golden.load("weight_decay_term")
    shapes = arrays["variables/shapes"].tolist()
    names = arrays["variables/canonical_names"].tolist()
    sizes = {n: int(np.prod([int(v) for v in s.split(",")])) for n, s in zip(names, shapes, strict=True)}
    trainable = {n: size for n, size in sizes.items() if not n.endswith(("/mean", "/var"))}
    norms = sum(size for name, size in trainable.items() if name.endswith(("/gamma", "/beta")))
    share = norms / sum(trainable.values())
    text = f"{norms:,} of {sum(trainable.values()):,} parameters of a thin ResNet-18 ({100 * share:.1f} %)"
    return Effect(share, 0.005, 0.2, text)


def _default_decays() -> Effect:
    found = []
    for name in ("default_flags_tf1", "default_flags_tf2"):
        arrays = golden.load(name)
        defaults = dict(zip(arrays["names"].tolist(), arrays["defaults_repr"].tolist(), strict=True))
        found.append(float(ast.literal_eval(defaults["weight_decay"])))
    text = f"TF1 default {found[0]:g}, TF2 default {found[1]:g}: a factor of {found[0] / found[1]:.0f}"
    return Effect(found[0] / found[1], 99.99, 100.01, text)


def _adam_decay() -> Effect:
    """Movement of a kernel without gradient in one step, decoupled against an L2 term that Adam rescales."""
    with jax.enable_x64(True):
        tree = {"dense": {"kernel": jnp.full(4, 0.5)}}
        moved = {}
        for name, tx, gradient in (
            ("ours", optim.make_adamw(learning_rate=0.01, weight_decay=DECAY), 0.0),
            ("reference", optax.adam(0.01), DECAY * 0.5),
        ):
            with jax.numpy_dtype_promotion("standard"):
                updates, _ = tx.update({"dense": {"kernel": jnp.full(4, gradient)}}, tx.init(tree), tree)
            moved[name] = abs(float(updates["dense"]["kernel"][0]))
    words = f"{moved['ours']:.0e} against {moved['reference']:.0e}"
    text = f"a weight of 0.5 without gradient moves by {words} in a step of rate 0.01"
    return Effect(moved["reference"] / moved["ours"], 1e3, 1e5, text)


def _difference(topic: str, ours: str, others: str, measure: Callable, switch: str, *needs: str) -> Difference:
    return Difference(topic, ours, others, measure, switch, needs)


DIFFERENCES = [
    _difference(
        "default weight decay",
        "1e-4 (as TF1 and its readme)",
        "TF2 and the first paper: 1e-6",
        _default_decays,
        "`optimizer.weight_decay`",
    ),
    _difference(
        "decay of BatchNorm",
        "none (as the reference)",
        "torch's optimizers by default: decayed",
        _decay_of_batch_norm,
        "no option",
    ),
    _difference(
        "decay under Adam",
        "decoupled (AdamW), kernels only",
        "reference: L2 term in the loss",
        _adam_decay,
        "no option",
    ),
    _difference(
        "LARS: trust ratio",
        "‖W‖ / ‖g + wd W‖ (as the reference)",
        "LARS paper, apex: ‖W‖ / (‖g‖ + wd ‖W‖)",
        _trust_formula,
        "no option",
    ),
    _difference(
        "LARS: epsilon",
        "none (as the reference)",
        "Bolts, lightly: 1e-8",
        _trust_epsilon,
        "no option",
    ),
    _difference(
        "LARS: exclusions",
        "BatchNorm and biases neither decayed nor adapted (as the reference)",
        "optax.lars by default: everything",
        _unmasked,
        "no option",
    ),
    _difference(
        "LARS: rate in the momentum",
        "inside (as the reference and optax)",
        "Bolts, lightly, solo-learn: outside",
        _rate_outside_lars,
        "no option",
    ),
    _difference(
        "LARS: ratio in the momentum",
        "inside (as the reference's default)",
        'reference\'s "popular" option: ratio and rate behind it',
        _ratio_behind_momentum,
        '`optimizer.name = "lars_popular"`',
    ),
    _difference(
        "SGD: rate in the momentum",
        "outside (as TF1, optax, torch)",
        "TF2 (Keras): inside",
        _rate_inside_sgd,
        '`optimizer.name = "sgd_keras"`',
    ),
    _difference(
        "end of a run",
        "after exactly T steps (as TF1)",
        "TF2: at the next whole epoch, with rate 0",
        _last_step,
        "no option",
    ),
]
