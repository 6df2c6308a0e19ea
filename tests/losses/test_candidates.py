"""InfoNCE, CPC's grid and CLIP's loss against recorded values and loops."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

INFO_NCE, CLIP = family.load("loss_infonce"), family.load("loss_clip")
CASES = {
    "info_nce": family.cases(INFO_NCE, "anchor"),
    "cpc": family.cases(INFO_NCE, "prediction"),
    "clip": family.cases(CLIP, "image"),
}


@functools.cache
def results(name: str, dtype: str, cases: tuple[str, ...]):
    if name == "clip":
        return family.run(
            CLIP,
            cases,
            lambda case: losses.clip(case["image"], case["text"], log_scale=case["log_scale"]),
            inputs=("image", "text", "log_scale"),
            dtype=dtype,
        )
    if name == "cpc":
        return family.run(
            INFO_NCE,
            cases,
            lambda case: losses.cpc_grid(case["prediction"], case["target"], step=case["step"], scale=case["scale"]),
            inputs=("prediction", "target"),
            dtype=dtype,
        )

    def info_nce(case):
        return losses.info_nce(case["anchor"], case["candidate"], case["positive"], temperature=case["temperature"])

    return family.run(INFO_NCE, cases, info_nce, inputs=("anchor", "candidate"), dtype=dtype)


@pytest.mark.few(2)
@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES["info_nce"]))
def test_info_nce_equals_the_reference(case, dtype, compare):
    family.check(
        INFO_NCE,
        case,
        results("info_nce", dtype, family.program(CASES["info_nce"], case))[case],
        dtype=dtype,
        compare=(compare, "InfoNCE"),
    )


@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES["cpc"]))
def test_cpc_grid_equals_the_reference(case, dtype, compare):
    family.check(
        INFO_NCE,
        case,
        results("cpc", dtype, family.program(CASES["cpc"], case))[case],
        dtype=dtype,
        compare=(compare, "CPC"),
    )


@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES["clip"]))
def test_clip_equals_the_reference_with_the_gradient_of_its_scale(case, dtype, compare):
    family.check(
        CLIP,
        case,
        results("clip", dtype, family.program(CASES["clip"], case))[case],
        dtype=dtype,
        compare=(compare, "CLIP"),
    )


def test_the_clamp_of_the_scale_equals_the_reference():
    np.testing.assert_array_equal(losses.clamp_log_scale(jnp.asarray(CLIP["clamp/before"])), CLIP["clamp/after"])
    assert math.exp(losses.CLIP_INITIAL_LOG_SCALE) == pytest.approx(1 / 0.07)


def test_all_equal_their_loops():
    rng = np.random.default_rng(0)
    anchors, candidates, positives = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)), [5, 0, 0, 2]
    family.check_oracle(
        lambda a, c: losses.info_nce(a, c, jnp.asarray(positives), temperature=0.2),
        lambda a, c: family_oracles.info_nce(a, c, positives, 0.2),
        anchors,
        candidates,
    )
    grid = rng.normal(size=(2, 2, 4, 3, 3))
    numbers = {"step": 1, "scale": 0.7}
    family.check_oracle(
        functools.partial(losses.cpc_grid, **numbers), functools.partial(family_oracles.cpc_grid, **numbers), *grid
    )
    family.check_oracle(
        lambda i, t, s: losses.clip(i, t, log_scale=s), family_oracles.clip, anchors, candidates[:4], np.asarray(1.5)
    )


def test_positives_are_the_rows_in_order_where_none_are_given():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    assert losses.info_nce(rows, rows)[0] == losses.info_nce(rows, rows, jnp.arange(3))[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.info_nce(jnp.ones((2, 3)), jnp.ones((2, 4))), "info_nce compares rows of one width"),
        (lambda: losses.info_nce(jnp.ones((3, 4)), jnp.ones((2, 4))), "needs a candidate for every anchor"),
        (lambda: losses.info_nce(jnp.ones((2, 4)), jnp.ones((2, 4)), jnp.ones(2)), "must be integers"),
        (lambda: losses.info_nce(jnp.ones((2, 4)), jnp.ones((2, 4)), temperature=0), "must be above 0; got 0"),
        (lambda: losses.cpc_grid(jnp.ones((2, 3, 3, 4)), jnp.ones((2, 3, 3, 5)), step=0), "of one shape"),
        (lambda: losses.cpc_grid(jnp.ones((2, 3, 3, 4)), jnp.ones((2, 3, 3, 4)), step=2), "must be 0 to 1 for a grid"),
        (lambda: losses.clip(jnp.ones((2, 4)), jnp.ones((3, 4)), log_scale=1.0), "clip needs image and text"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(call, message):
    with pytest.raises(base.InputError, match=message):
        call()
