"""The distillation loss against the reference's notebook, recorded values and a float64 loop."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests import golden, parity

GOLDEN = {k.removeprefix("distill/"): v for k, v in golden.load("losses_other").items() if k.startswith("distill/")}
TEMPERATURES = GOLDEN["temperatures"].tolist()


@functools.cache
def values_and_gradients(dtype: str):
    """Per temperature: (mean, gradient for the student) with loss_scale = temperature**2, and the mean without."""
    with jax.enable_x64(dtype == "float64"):
        student, teacher = (jnp.asarray(GOLDEN[f"{name}_logits"], dtype) for name in ("student", "teacher"))

        def total(student, **options):
            return jnp.mean(losses.distillation(student, teacher, **options))

        @jax.jit
        def run(student):
            return [
                (*jax.value_and_grad(total)(student, temperature=t, loss_scale=t**2), total(student, temperature=t))
                for t in TEMPERATURES
            ]

        return jax.device_get(run(student))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("place", range(len(TEMPERATURES)))
def test_scaled_by_the_squared_temperature_it_equals_the_released_code(place, dtype, tolerance, compare):
    loss, gradient, _ = values_and_gradients(dtype)[place]
    assert loss.dtype == dtype
    expected, words = GOLDEN["loss_with_temperature_squared_f64"][place], dtype.replace("loat", "")
    source = "TF2 notebook"
    compare(f"distillation, times tau^2, {words}", loss, expected, limit=tolerance, of=parity.EACH, source=source)
    # The recorded gradient is float32.
    expected = GOLDEN["grad_student"][place]
    compare(f"distillation gradient, {words}", gradient, expected, limit=1e-5, of=parity.LARGEST, source=source)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("place", range(len(TEMPERATURES)))
def test_unscaled_it_equals_the_form_of_the_paper(place, dtype, tolerance, compare):
    _, _, loss = values_and_gradients(dtype)[place]
    words, expected = f"distillation, equation, {dtype.replace('loat', '')}", GOLDEN["loss_paper_without_factor_f64"]
    compare(words, loss, expected[place], limit=tolerance, of=parity.EACH, source="NumPy")


TEACHER, STUDENT = [[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]], [[1.0, 0.5, 0.0], [0.0, 0.2, 1.0]]


@pytest.mark.parametrize(
    ("temperature", "scaled", "paper"),
    [(1.0, 1.055364, 1.055364), (0.1, 0.040036, 4.003615), (4.0, 17.493607, 1.093350)],
)
def test_distillation_equals_recorded_values(temperature, scaled, paper):
    values = losses.distillation(jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=temperature)
    # Recorded to six decimals.
    assert np.mean(values) == pytest.approx(paper, rel=1e-6, abs=6e-7)
    assert np.mean(values) * temperature**2 == pytest.approx(scaled, rel=1e-6, abs=6e-7)


def test_distillation_equals_the_loop_over_classes():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 5))
    expected = []
    for s, t in zip(student, teacher, strict=True):
        p_t, p_s = ([math.exp(x / 0.7) for x in row] for row in (t, s))
        expected.append(-sum(a / sum(p_t) * math.log(b / sum(p_s)) for a, b in zip(p_t, p_s, strict=True)))
    ours = losses.distillation(jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32), temperature=0.7)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_only_the_student_receives_a_gradient():
    student, teacher = jnp.asarray(STUDENT), jnp.asarray(TEACHER)

    def total(student, teacher):
        return jnp.sum(losses.distillation(student, teacher, temperature=2.0))

    of_student, of_teacher = jax.grad(total, argnums=(0, 1))(student, teacher)
    assert np.asarray(of_student).any() and not np.asarray(of_teacher).any()


def test_a_student_equal_to_its_teacher_has_the_entropy_and_no_gradient():
    logits = jnp.asarray(TEACHER)
    values, pullback = jax.vjp(lambda s: losses.distillation(s, logits, temperature=1.0), logits)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    np.testing.assert_allclose(values, -(p * np.log(p)).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(pullback(jnp.ones(2))[0], 0, atol=1e-6)


def test_bfloat16_logits_are_compared_in_float32():
    student, teacher = (jnp.asarray(rows, jnp.bfloat16) for rows in (STUDENT, TEACHER))
    ours = losses.distillation(student, teacher, temperature=1.0)
    assert ours.dtype == jnp.float32
    expected = losses.distillation(student.astype(jnp.float32), teacher.astype(jnp.float32), temperature=1.0)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"temperature": math.nan}, {"loss_scale": -1.0}])
def test_distillation_refuses_numbers_that_are_not_positive(option):
    with pytest.raises(base.InputError, match=f"{next(iter(option))} of distillation must be above 0"):
        losses.distillation(jnp.asarray(STUDENT), jnp.asarray(TEACHER), **{"temperature": 1.0, **option})


def test_distillation_refuses_logits_of_different_shapes():
    with pytest.raises(base.InputError, match=r"logits of one shape; got \[2, 3\] and \[2, 2\]"):
        losses.distillation(jnp.zeros((2, 3)), jnp.zeros((2, 2)), temperature=1.0)
