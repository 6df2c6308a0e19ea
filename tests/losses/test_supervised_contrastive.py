"""SupCon against recorded values, a loop, and what it shares with NT-Xent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

GOLDEN = family.load("loss_supcon")
CASES = family.cases(GOLDEN, "z")
Z = np.random.default_rng(0).normal(size=(5, 2, 4))


@functools.cache
def results(dtype: str, cases: tuple[str, ...]):
    def form(case):
        numbers = {name: case[name] for name in ("temperature", "base_temperature")}
        return losses.sup_con(case["z"], case["labels"], **numbers)

    return family.run(GOLDEN, cases, form, inputs=("z",), dtype=dtype)


@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES))
def test_sup_con_equals_the_reference(case, dtype, compare):
    family.check(
        GOLDEN, case, results(dtype, family.program(CASES, case))[case], dtype=dtype, compare=(compare, "SupCon")
    )


def test_sup_con_equals_the_loop_with_unlabelled_images():
    labels = [1, 0, 1, -1, -1]
    family.check_oracle(
        lambda z: losses.sup_con(z, jnp.asarray(labels), temperature=0.3, base_temperature=0.07),
        lambda z: family_oracles.sup_con(z, labels, temperature=0.3, base_temperature=0.07),
        Z,
    )


def test_labels_may_be_floats_as_outputs_of_a_network_must_be():
    z, form = jnp.asarray(Z, jnp.float32), jax.jit(losses.sup_con)
    whole, floats = (form(z, jnp.asarray([1, 0, 1, 2, 2], dtype)) for dtype in ("int32", "float32"))
    assert whole[0] == floats[0]


def test_unlabelled_images_alone_have_the_loss_nt_xent():
    z = jnp.asarray(Z, jnp.float32)
    ours, metrics = jax.jit(losses.sup_con)(z, jnp.full(5, -1), temperature=0.5)
    expected, _ = jax.jit(losses.nt_xent)(z, temperature=0.5)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)
    assert 0 <= float(metrics["contrastive_accuracy"]) <= 1


def test_accuracy_counts_anchors_with_a_positive_only():
    rows = jnp.asarray([[[1.0, 0.0]], [[0.9, 0.1]], [[0.0, 1.0]], [[0.85, 0.15]]])
    _, metrics = jax.jit(losses.sup_con)(rows, jnp.asarray([0, 0, 1, 2]))
    # Of the two anchors that have one, the first finds it and the second is nearest to the stranger (0.85, 0.15).
    assert float(metrics["contrastive_accuracy"]) == 0.5


@pytest.mark.parametrize(
    ("z", "labels"), [((1, 1, 4), (1,)), ((4, 2, 4), (8,)), ((8, 4), (8,))], ids=["one row", "labels", "no views"]
)
def test_wrong_shapes_are_refused(z, labels):
    with pytest.raises(base.InputError, match=r"sup_con needs z \[B, V, d\] of at least two rows and labels \[B\]"):
        losses.sup_con(jnp.ones(z), jnp.ones(labels))


@pytest.mark.parametrize("option", ["temperature", "base_temperature"])
def test_temperatures_that_are_not_positive_are_refused(option):
    with pytest.raises(base.InputError, match=f"^{option} of sup_con must be above 0; got 0.0"):
        losses.sup_con(jnp.ones((2, 2, 4)), jnp.ones(2), **{"temperature": 0.1, option: 0.0})
