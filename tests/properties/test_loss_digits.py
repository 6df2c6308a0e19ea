"""How many digits the losses keep in float32 in the program that users run: compiled with its gradient, optimised.

Without a compiler, or without optimisation, a product is rounded before something is taken off it; compiled it may not
be, and only then does a maximum of rounded products differ from the entry that it came from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import losses
from simclr_jax.probes import logistic

ROUNDING = 2.0**-24
AS_USERS_DO = {"xla_backend_optimization_level": 3}
FORMS = {
    "dense": losses.nt_xent,
    "blockwise": losses.nt_xent_blockwise,
    "blockwise in three": functools.partial(losses.nt_xent_blockwise, block_size=24),
}


def exact_anchors(z: np.ndarray, temperature: float) -> np.ndarray:
    """[2B]: -log p(positive) of every anchor in float64, as log(1 + negatives / positive)."""
    rows = np.concatenate([z[:, 0], z[:, 1]]).astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logits, here, there = rows @ rows.T / temperature, np.arange(len(rows)), np.roll(np.arange(len(rows)), len(z))
    positive = logits[here, there]
    logits[here, here] = logits[here, there] = -np.inf
    return np.logaddexp(0, np.logaddexp.reduce(logits, axis=1) - positive)


def batches(count: int, dim: int):
    """Twenty: independent views, views much alike, and equal views, whose largest logit is 1 / temperature."""
    for seed in range(20):
        z = np.random.default_rng(seed).normal(size=(count, 2, dim))
        alike = (0.0, 0.9, 1.0, 1.0)[seed % 4]
        z[:, 1] = alike * z[:, 0] + (1 - alike) * z[:, 1]
        yield z.astype(np.float32)


def compiled(form, temperature: float, *, as_data: bool):
    """z -> the loss, from a program that returns metrics and gradient as well."""

    @functools.partial(jax.jit, compiler_options=AS_USERS_DO)
    def run(z, given):
        used = given if as_data else temperature
        return jax.value_and_grad(lambda z: form(z, temperature=used), has_aux=True)(z)

    return lambda z: float(run(z, jnp.float32(temperature))[0][0])


# Each compiles for a second or more; in "blockwise in three" loops over tiles too.
QUICK = [("dense", 0.01, False), ("dense", 0.05, False), ("blockwise", 0.01, True), ("blockwise", 0.05, False)]
SIZES = [(0.01, 64, 128), (0.05, 64, 128), (0.1, 8, 16), (0.5, 128, 32), (1.0, 33, 8)]
CASES = [(form, *size, as_data) for form in FORMS for size in SIZES for as_data in (False, True)]


@pytest.mark.slow
@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("form", "temperature", "count", "dim", "as_data"),
    [pytest.param(*case, marks=() if (*case[:2], case[4]) in QUICK else pytest.mark.slow) for case in CASES],
)
def test_the_compiled_loss_is_a_few_roundings_from_float64(form, temperature, count, dim, as_data):
    run, shares = compiled(FORMS[form], temperature, as_data=as_data), []
    for z in batches(count, dim):
        anchors = exact_anchors(z, temperature)
        # One rounding of the loss, and one of similarities of size 1, over the temperature, as far as the gradient,
        # 1 - p, lets it through. The dense form adds up p = 1 and the rest, and so rounds once at 1.
        allowed = ROUNDING * np.mean(anchors - np.expm1(-anchors) / temperature) + 1e-30
        shares.append((run(z) - np.mean(anchors)) / (allowed + ROUNDING * (form == "dense")))
    assert np.sqrt(np.mean(np.square(shares))) < 1 and np.abs(shares).max() < 3


def test_distillation_keeps_its_digits_beside_large_logits():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 64, 10)).astype(np.float32) + np.float32(300)
    temperature = 0.05

    @functools.partial(jax.jit, compiler_options=AS_USERS_DO)
    def run(student):
        total = functools.partial(losses.distillation, teacher_logits=teacher, temperature=temperature)
        return jax.value_and_grad(lambda x: jnp.mean(total(x)))(student)

    log_p, log_q = (
        x - np.logaddexp.reduce(x, axis=1, keepdims=True)
        for x in (y.astype(np.float64) / temperature for y in (student, teacher))
    )
    expected = -np.mean(np.sum(np.exp(log_q) * log_p, axis=1))
    # A logit of 300 / 0.05 alone is rounded by 2e-4; its distance to the largest by 2^-24 of at most 6 / 0.05.
    assert float(run(student)[0]) == pytest.approx(expected, abs=ROUNDING * 6 / temperature, rel=0)


def test_the_logistic_probe_keeps_the_digits_of_a_small_loss_beside_large_logits():
    logits = np.float32([[1000, 995, 0], [-3000, -3006, -3010]])
    ours = jax.jit(logistic._losses)(logits, np.zeros(2, np.int32))
    expected = [np.log1p(np.exp(-5.0)), np.log1p(np.exp(-6.0) + np.exp(-10.0))]
    # Sum and logarithm at 1; logarithm minus logit would be off by 3e-5.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=4 * ROUNDING)
