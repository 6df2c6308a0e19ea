"""The momentum network: recorded decays and averages, by hand, and what follows and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.methods import momentum
from tests import golden

EMA, SCHEDULES = golden.load("family/ema"), golden.load("family/schedules")


def decays(ks, **settings) -> np.ndarray:
    with jax.enable_x64(True):
        share = jax.vmap(lambda k: momentum.share_of_new(k, **settings))(jnp.asarray(ks, jnp.int32))
        return 1 - np.asarray(share)


@pytest.mark.parametrize("case", ["byol_300", "byol_1000", "short", "one"])
def test_the_cosine_decay_is_the_recorded_one(case):
    base_decay, num_steps, ks, expected = (EMA[f"schedule/{case}/{key}"] for key in ("base", "steps", "k", "tau_f64"))
    ours = decays(ks, decay=float(base_decay), schedule="cosine", num_steps=int(num_steps))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


def test_the_decays_of_whole_runs_are_those_of_the_training_scripts():
    expected = SCHEDULES["byol/tau"]
    ours = decays(np.arange(210), decay=0.99, schedule="cosine", num_steps=210)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)
    # MoCo v3 moves at the beginning of a step: the method asks for the step after.
    np.testing.assert_allclose(ours, SCHEDULES["moco_v3/momentum"], rtol=0, atol=1e-10)


def test_the_average_is_the_recorded_one():
    with jax.enable_x64(True):
        online, target = EMA["update/online"], {"params": {"w": jnp.asarray(EMA["update/target_start"])}}
        for k, tau in enumerate(EMA["update/tau"]):
            target = momentum.follow(target, {"w": jnp.asarray(online[k + 1])}, jnp.asarray(1 - tau))
            expected = EMA["update/target_after_f64"][k]
            np.testing.assert_allclose(target["params"]["w"], expected, rtol=0, atol=1e-10)


def test_a_thousand_moves_in_float32_keep_their_digits():
    target = {"params": {"w": jnp.asarray(EMA["long/start"])}}
    share = momentum.share_of_new(jnp.int32(0), decay=float(EMA["long/decay"]), schedule="constant", num_steps=1)

    def move(_, target):
        return momentum.follow(target, {"w": jnp.asarray(EMA["long/online"])}, share)

    target = jax.jit(lambda start: jax.lax.fori_loop(0, 1000, move, start))(target)
    np.testing.assert_allclose(target["params"]["w"], EMA["long/after_1000_f64"], rtol=1e-5, atol=1e-5)


def test_only_the_targets_own_modules_follow_and_statistics_stay():
    params = {"encoder": jnp.ones(2), "predictor": jnp.ones(3)}
    target = momentum.start_target(params, {"encoder": jnp.zeros(2), "predictor": jnp.zeros(3)}, ("encoder",))
    assert set(target["params"]) == set(target["batch_stats"]) == {"encoder"}
    moved = momentum.follow(target, {"encoder": jnp.full(2, 3.0), "predictor": jnp.ones(3)}, jnp.asarray(0.25))
    assert moved["params"]["encoder"].tolist() == [1.5, 1.5] and not moved["batch_stats"]["encoder"].any()


@pytest.mark.parametrize(("decay", "schedule", "message"), [(1.5, "cosine", "0 to 1"), (0.9, "linear", "one of")])
def test_mistakes_are_refused(decay, schedule, message):
    with pytest.raises(base.InputError, match=message):
        momentum.check_decay(decay, schedule)
