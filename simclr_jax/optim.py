"""Optimization: epochs to steps, the learning-rate schedule, and optimizers with SimCLR's exclusions.

Parameters are told apart by the names on their path in the tree: a leaf "kernel" is a convolution or dense kernel, a
module called bn, bn1, proj_bn and so on is a BatchNorm, and "supervised_head" holds a classifier trained alongside.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax import base

PyTree = base.PyTree
Mask = Callable[[PyTree], PyTree]

_BATCH_NORM = re.compile(r"(.*_)?bn\d*")


def _check_range(name: str, value: float, *, low: float, high: float = math.inf, remedy: str) -> None:
    """Raises InputError unless low <= value < high; NaN is in no range."""
    if not low <= value < high:
        raise base.InputError(f"{name} must be at least {low:g} and below {high:g}; got {value:g}. Use {remedy}.")


def num_train_steps(*, num_examples: int, batch_size: int, num_epochs: float) -> int:
    """Number of updates in `num_epochs` epochs of global batches: floor(N*E / b) + 1.

    Reference: get_train_steps in data.py / tf2/run.py of the code; the additional step is the reference's.
    """
    return int(num_examples * num_epochs // batch_size) + 1


def num_warmup_steps(*, num_examples: int, batch_size: int, warmup_epochs: float) -> int:
    """Number of warm-up updates: round(floor(E_w*N / b)), as the reference counts them."""
    return round(warmup_epochs * num_examples // batch_size)


def peak_learning_rate(*, base_learning_rate: float, batch_size: int, scaling: str = "linear") -> float:
    """The learning rate after warm-up for a global batch of `batch_size` images.

    Args:
        base_learning_rate: what `scaling` multiplies.
        batch_size: global batch size in images (not in views).
        scaling: "linear": base*b/256; "sqrt": base*sqrt(b); "none": base.

    Raises:
        InputError: unknown scaling.

    Reference: SimCLR section 2.2 (linear), appendix B.1 (sqrt). "none" is an addition.
    """
    factors = {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size), "none": 1.0}
    base.check_choice(scaling, factors, name="scaling")
    return base_learning_rate * factors[scaling]


def make_schedule(
    *,
    base_learning_rate: float,
    scaling: str = "linear",
    batch_size: int,
    num_examples: int,
    num_epochs: float,
    warmup_epochs: float = 0.0,
    num_steps: int | None = None,
    restart_epochs: Sequence[float] = (),
) -> optax.Schedule:
    """Learning rate as a function of the number of updates made: linear warm-up from 0, then a half cosine to 0.

    The first update has learning rate 0 if there is a warm-up. Beyond the last step the rate stays 0. With restarts
    the training is several such periods, one after the other: that is how a finished run is made longer without
    changing the rates it has had.

    Args:
        base_learning_rate: see `peak_learning_rate`.
        scaling: see `peak_learning_rate`.
        batch_size: global batch size in images.
        num_examples: images per epoch.
        num_epochs: length of the training.
        warmup_epochs: length of the warm-up, part of num_epochs.
        num_steps: length of the training in updates, in place of num_epochs.
        restart_epochs: where warm-up and cosine begin anew, rising, each above 0 and below num_epochs.

    Raises:
        InputError: unknown scaling, a value out of range, or a warm-up that does not end before its period does.

    Reference: WarmUpAndCosineDecay in tf2/model.py of the code; SimCLR section 2.2. Restarts are an addition
    (Loshchilov and Hutter 2017, with a warm-up in every period).
    """
    _check_range("base_learning_rate", base_learning_rate, low=0.0, remedy="0.3 for LARS, 0.001 for AdamW")
    _check_range("warmup_epochs", warmup_epochs, low=0.0, remedy="10.0, or 0.0 for none")
    _check_range("num_epochs", num_epochs, low=0.0, remedy="100.0")
    peak = peak_learning_rate(base_learning_rate=base_learning_rate, batch_size=batch_size, scaling=scaling)
    warmup_steps = num_warmup_steps(num_examples=num_examples, batch_size=batch_size, warmup_epochs=warmup_epochs)
    total_steps = num_steps or num_train_steps(num_examples=num_examples, batch_size=batch_size, num_epochs=num_epochs)
    starts = _period_starts(restart_epochs, num_examples=num_examples, batch_size=batch_size, num_steps=total_steps)
    periods = list(zip(starts, [*starts[1:], total_steps], strict=True))
    shortest = min(end - start for start, end in periods)
    if warmup_steps >= shortest:
        raise base.InputError(
            f"warm-up must end before the training; got {warmup_steps} warm-up steps and {shortest} steps. "
            f"Use for example warmup_epochs={num_epochs / 10:g} with num_epochs={num_epochs:g}, or more epochs."
        )

    def period(progress: jax.Array, length: int) -> jax.Array:
        decayed = jnp.clip((progress - warmup_steps) / (length - warmup_steps), 0.0, 1.0)
        cosine = peak * 0.5 * (1 + jnp.cos(jnp.pi * decayed))
        return jnp.where(progress < warmup_steps, peak * progress / max(warmup_steps, 1), cosine)

    def schedule(step: jax.Array) -> jax.Array:
        # In the default float type: float32, or float64 under jax_enable_x64.
        progress = jnp.asarray(step).astype(float)
        rate = period(progress, periods[0][1])
        for start, end in periods[1:]:
            rate = jnp.where(progress >= start, period(progress - start, end - start), rate)
        return rate

    return schedule


def _period_starts(epochs: Sequence[float], *, num_examples: int, batch_size: int, num_steps: int) -> list[int]:
    """The updates before which the schedule begins, the first being 0."""
    numbers = all(isinstance(epoch, int | float) and not isinstance(epoch, bool) and epoch > 0 for epoch in epochs)
    counted = (
        [num_train_steps(num_examples=num_examples, batch_size=batch_size, num_epochs=epoch) for epoch in epochs]
        if numbers
        else []
    )
    if not numbers or any(a >= b for a, b in itertools.pairwise([0, *counted, num_steps])):
        raise base.InputError(
            f"schedule.restart_epochs must rise from above 0 to below num_epochs; got {tuple(epochs)}. "
            'Write for example "(100.0,)" for a run of 100 epochs that goes on, or "()" for none.'
        )
    return [0, *counted]


def _mask(applies: Callable[[Sequence[str]], bool]) -> Mask:
    """Tree of bools with the structure of a parameter tree: `applies` to the names on every leaf's path."""

    def mask(params: PyTree) -> PyTree:
        return jax.tree.map_with_path(
            lambda path, _: applies([jax.tree_util.keystr((entry,), simple=True) for entry in path]), params
        )

    return mask


def _is_kernel(names: Sequence[str]) -> bool:
    return names[-1] == "kernel"


def _is_adapted_kernel(names: Sequence[str]) -> bool:
    return _is_kernel(names) and "supervised_head" not in names


def _is_not_batch_norm(names: Sequence[str]) -> bool:
    return not any(_BATCH_NORM.fullmatch(module) for module in names[:-1])


def global_norm(tree: PyTree) -> base.Array:
    """The L2 norm of all leaves of a tree together, a float32 scalar (float64 if a leaf is)."""
    columns = jnp.concatenate(_sums_over_columns(jax.tree.leaves(tree)))
    # Without the barrier XLA takes the sum of every leaf's columns apart again.
    return jnp.sqrt(jnp.sum(jax.lax.optimization_barrier(columns)))


def _sums_of_squares(leaves: Sequence[base.Array]) -> base.Array:
    """[n]: of every leaf."""
    columns = _sums_over_columns(leaves)
    # The second stage of all sums at once: an accelerator would start a kernel for each of them.
    owner = np.repeat(np.arange(len(columns), dtype=np.int32), [len(column) for column in columns])
    is_own = owner == np.arange(len(columns), dtype=np.int32)[:, None]
    return jnp.sum(jnp.where(is_own, jnp.concatenate(columns), jnp.zeros((), columns[0].dtype)), axis=1)


def _sums_over_columns(leaves: Sequence[base.Array]) -> list[base.Array]:
    """The squares of every leaf [..., C], summed to [C], in one type of at least float32."""
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    squares = [jnp.atleast_1d(jnp.square(leaf.astype(dtype))) for leaf in leaves]
    return [jnp.sum(square, axis=tuple(range(square.ndim - 1))) for square in squares]


def _scale_by_trust_ratio(coefficient: float = 1e-3) -> optax.GradientTransformation:
    """Multiplies the updates of adapted kernels by coefficient |W| / |update|, or by 1 where a norm is 0.

    `optax.scale_by_trust_ratio`, which reads every array twice more to have a gradient at 0 that nobody takes here; on
    an accelerator its two hundred norms take as many kernels again.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(updates)
        if not leaves:
            return updates, state
        of_updates, of_params = (jnp.sqrt(_sums_of_squares(tree)) for tree in (leaves, jax.tree.leaves(params)))
        usable = (of_updates > 0) & (of_params > 0)
        ratios = jnp.where(usable, coefficient * of_params / jnp.where(usable, of_updates, 1.0), 1.0)
        scaled = [leaf * ratios[i].astype(leaf.dtype) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, scaled), state

    adapt = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.masked(adapt, mask=_mask(_is_adapted_kernel))


def make_lars(
    *, schedule: base.Schedule | float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """LARS: decay and trust ratio on kernels, plain momentum with the full learning rate on everything else.

    Kernels are decayed; kernels outside "supervised_head" also get the trust ratio 0.001 |W| / |g + wd W|, or 1 where a
    norm is 0. BatchNorm parameters and biases get neither.

    Reference: You et al. 2017; SimCLR section 2.2; lars_optimizer.py and build_optimizer in model.py of the code.
    Deliberate differences: the reference decays the supervised kernel by a term of the loss, here the optimizer does
    (same gradient, but the reported loss has no such term). Its option classic_momentum=False is `make_lars_popular`.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_mask(_is_kernel)),
        _scale_by_trust_ratio(),
        optax.scale_by_learning_rate(schedule),
        optax.trace(momentum, nesterov=nesterov),
    )


def make_lars_popular(
    *, schedule: base.Schedule | float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """LARS whose trust ratio and learning rate stand behind the momentum: lr 0.001 |W| / |v| v for a velocity v.

    Decay and exclusions are those of `make_lars`. A changed learning rate acts at once on the whole velocity.

    Reference: lars_optimizer.py of the code with classic_momentum=False, which none of its recipes uses. Deliberate
    difference: the decay of the supervised kernel, see `make_lars`.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_mask(_is_kernel)),
        optax.trace(momentum, nesterov=nesterov),
        _scale_by_trust_ratio(),
        optax.scale_by_learning_rate(schedule),
    )


def make_sgd(
    *, schedule: base.Schedule | float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Momentum SGD with L2 decay in the gradient of everything but BatchNorm parameters (biases included).

    Reference: add_weight_decay and MomentumOptimizer in model.py (TF1) of the code, which sets nesterov=True.
    Deliberate differences: the decay is added to the gradient, not to the loss; the learning rate stays outside the
    velocity, as in TF1 (for TF2 see `make_sgd_keras`).
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_mask(_is_not_batch_norm)),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
    )


def make_sgd_keras(
    *, schedule: base.Schedule | float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """`make_sgd` with the learning rate inside the velocity, which differs from it while the rate changes.

    Reference: add_weight_decay and the Keras SGD in build_optimizer of tf2/model.py, which sets nesterov=True.
    Deliberate difference: the decay is added to the gradient, not to the loss.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_mask(_is_not_batch_norm)),
        optax.scale_by_learning_rate(schedule),
        optax.trace(momentum, nesterov=nesterov),
    )


def make_adamw(
    *, schedule: base.Schedule | float, weight_decay: float, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Adam with decoupled decay on kernels only; `momentum` is Adam's b1, the other constants are Optax's.

    Reference: Loshchilov and Hutter 2019. Deliberate difference: the reference code has Adam with an L2 term in the
    loss, which Adam's scaling would weaken.
    """
    adamw = optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=_mask(_is_kernel), nesterov=nesterov)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        # Optax raises a float to the power of the integer step, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return adamw.update(updates, state, params)

    return optax.GradientTransformation(adamw.init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "lars": make_lars,
    "lars_popular": make_lars_popular,
    "sgd": make_sgd,
    "sgd_keras": make_sgd_keras,
    "adamw": make_adamw,
}


def make_optimizer(
    name: str = "lars",
    *,
    schedule: base.Schedule | float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """The optimizer `name` of OPTIMIZERS; see the functions named there.

    Args:
        name: "lars" or "sgd", their variants "lars_popular" or "sgd_keras", or "adamw".
        schedule: learning rate by number of updates made, or a constant.
        weight_decay: coefficient of the decay; which parameters it reaches depends on the optimizer.
        momentum: share of the old velocity that is kept.
        nesterov: look-ahead momentum.

    Raises:
        InputError: unknown name, negative weight_decay, or momentum outside [0, 1).
    """
    base.check_choice(name, OPTIMIZERS, name="name")
    _check_range("weight_decay", weight_decay, low=0.0, remedy="1e-4, or 0.0 for none")
    _check_range("momentum", momentum, low=0.0, high=1.0, remedy="0.9")
    return OPTIMIZERS[name](schedule=schedule, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)
