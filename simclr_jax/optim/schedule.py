"""Epochs to steps, and the learning rate as a function of the number of updates made."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from simclr_jax import base


def check_range(name: str, value: float, *, low: float, high: float = math.inf, remedy: str) -> None:
    """Raises InputError unless low <= value < high; NaN is in no range."""
    if not low <= value < high:
        raise base.InputError(f"{name} must be at least {low:g} and below {high:g}; got {value:g}. Use {remedy}.")


def num_train_steps(*, num_examples: int, batch_size: int, num_epochs: float) -> int:
    """Number of updates in `num_epochs` epochs of global batches: floor(N*E / b) + 1.

    Reference: get_train_steps in data.py / tf2/run.py of the code; the additional step is the reference's.

    Example:
        >>> optim.num_train_steps(num_examples=50000, batch_size=512, num_epochs=100.0)
        9766
    """
    return int(num_examples * num_epochs // batch_size) + 1


def num_warmup_steps(*, num_examples: int, batch_size: int, warmup_epochs: float) -> int:
    """Number of warm-up updates: round(floor(E_w*N / b)), as the reference counts them.

    Example:
        >>> optim.num_warmup_steps(num_examples=50000, batch_size=512, warmup_epochs=10.0)
        976
    """
    return round(warmup_epochs * num_examples // batch_size)


def peak_learning_rate(*, base_learning_rate: float, batch_size: int, learning_rate_scaling: str = "linear") -> float:
    """The learning rate after warm-up for a global batch of `batch_size` images.

    Args:
        base_learning_rate: what `learning_rate_scaling` multiplies.
        batch_size: global batch size in images (not in views).
        learning_rate_scaling: "linear": base*b/256; "sqrt": base*sqrt(b); "none": base.

    Raises:
        InputError: unknown learning_rate_scaling.

    Reference: SimCLR section 2.2 (linear), appendix B.1 (sqrt). "none" is an addition.

    Example:
        >>> optim.peak_learning_rate(base_learning_rate=0.3, batch_size=4096)
        4.8
    """
    factors = {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size), "none": 1.0}
    base.check_choice(learning_rate_scaling, factors, name="learning_rate_scaling")
    return base_learning_rate * factors[learning_rate_scaling]


def make_schedule(
    *,
    base_learning_rate: float,
    learning_rate_scaling: str = "linear",
    batch_size: int,
    num_examples: int,
    num_epochs: float,
    warmup_epochs: float = 0.0,
    num_steps: int | None = None,
    restart_epochs: Sequence[float] = (),
    decay: str = "cosine",
    final_fraction: float = 0.0,
    warmup_start: float = 0.0,
    warmup_end: str = "after",
    drop_epochs: Sequence[float] = (),
) -> optax.Schedule:
    """Learning rate as a function of the number of updates made: linear warm-up from 0, then a half cosine to 0.

    The first update has learning rate 0 if there is a warm-up. Beyond the last step the rate stays 0. With restarts
    the training is several such periods, one after the other: that is how a finished run is made longer without
    changing the rates it has had. The last five arguments make it the schedule of other methods' codes.

    Args:
        base_learning_rate: see `peak_learning_rate`.
        learning_rate_scaling: see `peak_learning_rate`.
        batch_size: global batch size in images.
        num_examples: images per epoch.
        num_epochs: length of the training.
        warmup_epochs: length of the warm-up, part of num_epochs.
        num_steps: length of the training in updates, in place of num_epochs.
        restart_epochs: where warm-up and cosine begin anew, rising, each above 0 and below num_epochs.
        decay: what follows the warm-up. "cosine": half a cosine from its end on, new at every update (SimCLR, BYOL,
            MoCo v3, Barlow Twins, VICReg, SwAV). "cosine_by_epoch": half a cosine over the whole training, new once an
            epoch (MoCo v2, SimSiam); "cosine_by_epoch_from_1": the same, counting epochs from 1 (SupCon); a warm-up
            before these ends at the value that the cosine has there. "drops": a tenth at each of drop_epochs (MoCo v1).
        final_fraction: the last rate as a share of the peak: 0.001 in Barlow Twins, VICReg and SwAV.
        warmup_start: the rate of the first update of a warm-up, not scaled: 0.3 in SwAV, 0.01 in SupCon.
        warmup_end: "after": the first update after the warm-up has the peak rate; "last": the last one of it (SwAV).
        drop_epochs: for "drops", rising.

    Raises:
        InputError: unknown learning_rate_scaling, decay or warmup_end, a value out of range, or a warm-up that outlasts
            its period.

    Reference: WarmUpAndCosineDecay in tf2/model.py of the code; SimCLR section 2.2. Restarts are an addition
    (Loshchilov and Hutter 2017, with a warm-up in every period). For the other methods the training scripts of their
    codes; deliberate difference: these have epochs of whole batches and one update less than `num_train_steps`.

    Example:
        >>> schedule = optim.make_schedule(
        ...     base_learning_rate=0.3, batch_size=256, num_examples=2560, num_epochs=10.0, warmup_epochs=1.0
        ... )
        >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 101)]
        [0.0, 0.15, 0.3, 0.0]
    """
    check_range("base_learning_rate", base_learning_rate, low=0.0, remedy="0.3 for LARS, 0.001 for AdamW")
    check_range("warmup_epochs", warmup_epochs, low=0.0, remedy="10.0, or 0.0 for none")
    check_range("num_epochs", num_epochs, low=0.0, remedy="100.0")
    peak = peak_learning_rate(
        base_learning_rate=base_learning_rate, batch_size=batch_size, learning_rate_scaling=learning_rate_scaling
    )
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

    after = _make_decay(
        decay, warmup_steps, epoch_steps=num_examples / batch_size, final_fraction=final_fraction, drops=drop_epochs
    )
    check_range("warmup_start", warmup_start, low=0.0, remedy="0.0")
    base.check_choice(warmup_end, WARMUP_ENDS, name="warmup_end")
    # Epochs counted from 1: the value of the warm-up's last one.
    top_at = warmup_steps - (decay == "cosine_by_epoch_from_1")
    rising_steps = max(warmup_steps - (warmup_end == "last"), 1)

    def period(progress: jax.Array, length: int) -> jax.Array:
        rate = peak * after(progress, length)
        if not warmup_steps:
            return rate
        top = peak if decay == "cosine" else peak * after(jnp.asarray(top_at, progress.dtype), length)
        rising = top * progress / rising_steps
        if warmup_start:
            rising = warmup_start + (top - warmup_start) * progress / rising_steps
        return jnp.where(progress < warmup_steps, rising, rate)

    def schedule(step: jax.Array) -> jax.Array:
        # In the default float type: float32, or float64 under jax_enable_x64.
        progress = jnp.asarray(step).astype(float)
        rate = period(progress, periods[0][1])
        for start, end in periods[1:]:
            rate = jnp.where(progress >= start, period(progress - start, end - start), rate)
        return rate

    return schedule


DECAYS = ("cosine", "cosine_by_epoch", "cosine_by_epoch_from_1", "drops")
WARMUP_ENDS = ("after", "last")


def _make_decay(
    decay: str, warmup_steps: int, *, epoch_steps: float, final_fraction: float, drops: Sequence[float]
) -> Callable[[jax.Array, int], jax.Array]:
    """(updates made, length of the period) -> the rate after the warm-up as a share of the peak."""
    base.check_choice(decay, DECAYS, name="decay")
    check_range("final_fraction", final_fraction, low=0.0, high=1.0, remedy="0.0, or 0.001 for Barlow Twins")
    if list(drops) != sorted(drops) or bool(drops) != (decay == "drops"):
        raise base.InputError(
            f'drop_epochs must rise, and belong to decay="drops"; got {tuple(drops)} and {decay}. '
            'Use for example (120.0, 160.0) with "drops".'
        )

    first_epoch = 1.0 if decay == "cosine_by_epoch_from_1" else 0.0

    def after(progress: jax.Array, length: int) -> jax.Array:
        epoch = jnp.floor(progress / epoch_steps)
        if decay == "drops":
            return functools.reduce(lambda share, drop: share * jnp.where(epoch >= drop, 0.1, 1.0), drops, jnp.ones(()))
        if decay == "cosine":
            done = (progress - warmup_steps) / (length - warmup_steps)
        else:
            done = (epoch + first_epoch) * epoch_steps / length
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
        return cosine * (1 - final_fraction) + final_fraction if final_fraction else cosine

    return after


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
