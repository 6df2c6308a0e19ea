"""Whole steps of Barlow Twins, VICReg and SwAV beside those of the official codes; the methods' own promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import optim
from simclr_jax.methods import METHODS
from tests.methods import steps

DTYPES = ("float64", pytest.param("float32", marks=pytest.mark.slow))


def settings(arrays, name):
    return arrays[f"settings/{name}"].tolist()


def make_tx(arrays, name: str, dtype: str, **options):
    rates = jnp.asarray(settings(arrays, "learning_rate"), dtype)
    numbers = {key: settings(arrays, key) for key in ("weight_decay", "momentum")}
    return optim.make_optimizer(name, learning_rate=lambda step: rates[step], **numbers, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_barlow_twins_makes_the_official_steps(dtype):
    arrays = steps.load("step_barlow")
    with jax.enable_x64(dtype == "float64"):
        tx = make_tx(arrays, "lars", dtype, rate_place="outside", vector_rate_factor=0.024)
        assert settings(arrays, "trust_coefficient") == 1e-3
        widths = {"proj_hidden_dim": 7, "proj_out_dim": 4, "redundancy_weight": settings(arrays, "lambda")}
        method = METHODS["barlow_twins"](steps.TinyEncoder(5), dtype=dtype, **widths)
        history = steps.run(method, tx, arrays, views=arrays["settings/views"], dtype=dtype)
    steps.check(history, arrays, tolerance=steps.tolerance(arrays, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_vicreg_makes_the_official_steps(dtype):
    arrays = steps.load("step_vicreg")
    with jax.enable_x64(dtype == "float64"):
        tx = make_tx(arrays, "lars", dtype, rate_place="outside")
        method = METHODS["vicreg"](steps.TinyEncoder(5), proj_hidden_dim=7, proj_out_dim=4, dtype=dtype)
        history = steps.run(method, tx, arrays, views=arrays["settings/views"], dtype=dtype)
    skip = tuple(f"projector/dense{layer}/bias" for layer in (1, 2))
    steps.check(history, arrays, tolerance=steps.tolerance(arrays, dtype), skip=skip)


@functools.cache
def swav(name: str, dtype: str):
    arrays = steps.load(name)
    small = arrays["settings/views_small"]
    views = (arrays["settings/views_large"], *([small] if small.shape[2] else []))
    with jax.enable_x64(dtype == "float64"):
        method = METHODS["swav"](
            steps.TinyEncoder(5),
            proj_hidden_dim=6,
            proj_out_dim=4,
            num_prototypes=5,
            dtype=dtype,
            freeze_prototypes_steps=settings(arrays, "freeze_prototypes_steps"),
            queue_length=settings(arrays, "queue_length"),
            queue_starts_at_step=settings(arrays, "queue_starts_at_step"),
            **{key: settings(arrays, key) for key in ("temperature", "epsilon", "sinkhorn_iterations")},
        )
        tx = make_tx(arrays, "larc", dtype)
        return arrays, steps.run(method, tx, arrays, views=views if len(views) > 1 else views[0], dtype=dtype)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["step_swav", "step_swav_queue"])
def test_swav_makes_the_official_steps_with_queue_and_small_crops(name, dtype):
    arrays, history = swav(name, dtype)
    allowed = steps.tolerance(arrays, dtype)
    prototypes = "prototypes/kernel"
    steps.check(history, arrays, tolerance=allowed, skip=(prototypes,))
    start = arrays[f"init/{prototypes}"]
    before = [start / np.linalg.norm(start, axis=0), *(step.params[prototypes] for step in history)]
    for number, step in enumerate(history):
        # The official code leaves them as they are until the next step begins.
        after = arrays[f"params/{prototypes}"][number]
        after = after / np.linalg.norm(after, axis=0)
        np.testing.assert_allclose(step.params[prototypes], after, rtol=0, atol=allowed)
        np.testing.assert_allclose(before[number], arrays["prototypes_used"][number], rtol=0, atol=allowed)
        gradient = arrays[f"gradients/{prototypes}"][number]
        np.testing.assert_allclose(step.gradient[prototypes], gradient, rtol=0, atol=allowed)
        queue = arrays["queue_after"][number]
        if queue.size:
            np.testing.assert_allclose(step.method_state["queue"].swapaxes(0, 1), queue, rtol=0, atol=allowed)
    assert (name == "step_swav_queue") == bool(arrays["queue_used"].any())
