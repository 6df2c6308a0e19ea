"""Properties of the learning-rate schedule, and its values for random settings, against the closed form in float64."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import base, optim
from tests import properties
from tests.properties import optim_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=40)
MANY = hypothesis.settings(FEW, max_examples=500)
COUNT = 64

epochs = st.one_of(st.integers(1, 1000).map(float), st.floats(0.05, 90))


@st.composite
def settings(draw) -> dict:
    """Arguments of `make_schedule` whose warm-up ends before the training does."""
    values = {
        "base_learning_rate": draw(st.floats(1e-4, 10)),
        "learning_rate_scaling": draw(st.sampled_from(["linear", "sqrt", "none"])),
        "batch_size": draw(st.one_of(st.integers(1, 300), st.sampled_from([256, 512, 1000, 4096, 8192]))),
        "num_examples": draw(st.one_of(st.integers(1, 5000), st.sampled_from([50_000, 1_281_167]))),
        "num_epochs": draw(epochs),
    }
    values["warmup_epochs"] = draw(st.one_of(st.just(0.0), st.floats(0, 1).map(lambda f: f * values["num_epochs"])))
    warmup, total = counts_of(values)
    hypothesis.assume(warmup < total <= 2**24)
    return values


def counts_of(values: dict) -> tuple[int, int]:
    names = ("num_examples", "batch_size", "num_epochs", "warmup_epochs")
    return oracle.step_counts(**{name: values[name] for name in names})


def peak_of(values: dict) -> float:
    b, rate = values["batch_size"], values["base_learning_rate"]
    return {"linear": rate * b / 256, "sqrt": rate * b**0.5, "none": rate}[values["learning_rate_scaling"]]


def rates_of(values: dict, steps: np.ndarray, dtype: str) -> np.ndarray:
    with jax.enable_x64(dtype == "float64"):
        rates = optim.make_schedule(**values)(jnp.asarray(steps, jnp.int32))
        assert rates.dtype == jnp.dtype(dtype)
        return np.asarray(rates)


def check_schedule(values: dict) -> None:
    warmup, total = counts_of(values)
    sizes = {"num_examples": values["num_examples"], "batch_size": values["batch_size"]}
    assert optim.num_warmup_steps(**sizes, warmup_epochs=values["warmup_epochs"]) == warmup
    assert optim.num_train_steps(**sizes, num_epochs=values["num_epochs"]) == total
    edges = [0, 1, warmup - 1, warmup, warmup + 1, total // 2, total - 1, total, total + 1, 2 * total + 1000]
    rest = np.linspace(0, total, COUNT - len(edges)).astype(int)
    steps = np.maximum(np.array([*edges, *rest]), 0)
    peak = peak_of(values)
    expected = [oracle.learning_rate(int(s), peak=peak, warmup_steps=warmup, total_steps=total) for s in steps]
    np.testing.assert_allclose(rates_of(values, steps, "float32"), expected, rtol=0, atol=1e-6 * peak)
    np.testing.assert_allclose(rates_of(values, steps, "float64"), expected, rtol=0, atol=1e-12 * peak)


@FEW
@hypothesis.given(settings())
def test_schedule_equals_the_closed_form_for_random_settings(values):
    check_schedule(values)


@pytest.mark.slow
@MANY
@hypothesis.given(settings())
def test_schedule_equals_the_closed_form_for_many_settings(values):
    check_schedule(values)


@FEW
@hypothesis.given(settings())
def test_the_rate_rises_to_its_peak_and_falls_to_zero(values):
    warmup, total = counts_of(values)
    peak = peak_of(values)
    rise = rates_of(values, np.linspace(0, warmup, COUNT).astype(int), "float64")
    fall = rates_of(values, np.linspace(warmup, total, COUNT).astype(int), "float64")
    beyond = rates_of(values, total + np.arange(COUNT), "float64")
    assert (np.diff(rise) >= 0).all() and (np.diff(fall) <= 0).all()
    assert rise[-1] == fall[0] == pytest.approx(peak, rel=1e-12)
    assert rise[0] == (0 if warmup else fall[0])
    np.testing.assert_allclose(beyond, 0, rtol=0, atol=1e-12 * peak)


@pytest.mark.slow
@FEW
@hypothesis.given(settings())
def test_the_rate_has_no_jump_at_the_end_of_the_warm_up(values):
    """Neighbouring updates differ by at most one step of the steeper of the two slopes."""
    warmup, total = counts_of(values)
    steps = np.arange(warmup - COUNT // 2, warmup + COUNT // 2)
    rates = rates_of(values, steps[steps >= 0], "float64")
    steepest = peak_of(values) * max(1 / max(warmup, 1), np.pi / 2 / (total - warmup))
    assert np.abs(np.diff(rates)).max() <= steepest * (1 + 1e-9)


@FEW
@hypothesis.given(settings(), st.integers(1, 10_000))
def test_a_number_of_steps_takes_the_place_of_the_epochs(values, num_steps):
    warmup, _ = counts_of(values)
    if warmup >= num_steps:
        with pytest.raises(base.InputError, match="warm-up must end before the training"):
            optim.make_schedule(**values, num_steps=num_steps)
        return
    rates = optim.make_schedule(**values, num_steps=num_steps)(jnp.asarray([warmup, num_steps]))
    np.testing.assert_allclose(rates, [peak_of(values), 0], rtol=0, atol=1e-6 * peak_of(values))


@FEW
@hypothesis.given(settings(), st.floats(1, 3))
def test_a_warm_up_as_long_as_the_training_is_refused(values, times):
    values = {**values, "warmup_epochs": values["num_epochs"] * times}
    warmup, total = counts_of(values)
    if warmup >= total:
        with pytest.raises(base.InputError, match=f"{warmup} warm-up steps and {total} steps"):
            optim.make_schedule(**values)
    else:  # the reference's one step more
        assert float(optim.make_schedule(**values)(jnp.asarray(total))) == pytest.approx(0, abs=1e-6 * peak_of(values))
