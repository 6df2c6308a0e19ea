"""PIRL's losses and memory against recorded values and a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from tests.losses import family, family_oracles

GOLDEN = family.load("loss_pirl")
CASES = family.cases(GOLDEN, "patches")


@functools.cache
def results(dtype: str, cases: tuple[str, ...]):
    def form(case):
        same = {name: case[name] for name in ("memory", "index", "temperature")}
        same["patches_weight"] = case["weight_patches"]
        if "partition_constant_f64" not in case:
            return losses.pirl_cross_entropy(case["patches"], case["image"], **same)
        return losses.pirl_nce(case["patches"], case["image"], partition=case["partition_constant_f64"], **same)

    return family.run(GOLDEN, cases, form, inputs=("patches", "image"), dtype=dtype)


@pytest.mark.parametrize(("case", "dtype"), family.rows(CASES))
def test_both_losses_equal_the_reference(case, dtype, compare):
    family.check(
        GOLDEN, case, results(dtype, family.program(CASES, case))[case], dtype=dtype, compare=(compare, "PIRL")
    )


@pytest.mark.parametrize("case", CASES[:1])
def test_memory_and_partition_equal_the_reference(case):
    values = family.own(GOLDEN, case)
    with jax.enable_x64(True):
        memory, image, patches = (jnp.asarray(values[name], "float64") for name in ("memory", "image", "patches"))
        after = losses.pirl_remember(memory, image, jnp.asarray(values["target"]), momentum=values["momentum"])
        partition = losses.pirl_partition(
            patches, memory=memory, index=jnp.asarray(values["index"]), temperature=values["temperature"]
        )
    np.testing.assert_allclose(after, values["memory_after_f64"], rtol=0, atol=1e-10)
    assert float(partition) == pytest.approx(values["partition_constant_f64"], rel=1e-10)


def test_noise_contrastive_estimation_equals_the_loop():
    rng = np.random.default_rng(0)
    memory = np.array([family_oracles.unit(row) for row in rng.normal(size=(9, 3))])
    index = rng.integers(0, 9, size=(4, 6))
    numbers = {"partition": 20.0, "temperature": 0.4}
    patches, image = rng.normal(size=(2, 4, 3))

    def oracle(patches, image):
        return sum(
            weight * family_oracles.pirl_nce(rows, memory, index, **numbers)
            for weight, rows in ((0.3, patches), (0.7, image))
        )

    def ours(patches, image):
        rest = {"memory": jnp.asarray(memory), "index": jnp.asarray(index)}
        return losses.pirl_nce(patches, image, patches_weight=0.3, **rest, **numbers)

    family.check_oracle(ours, oracle, patches, image)


def test_a_low_temperature_overflows_nothing():
    rest = {"memory": jnp.eye(4, 8), "index": jnp.asarray([[0, 1], [2, 3]])}
    rows = jnp.eye(4, 8)[::2]
    low = functools.partial(losses.pirl_nce, partition=1e30, temperature=0.005, **rest)
    value, gradient = jax.jit(jax.value_and_grad(lambda rows: low(rows, rows)[0]))(rows)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_wrong_inputs_are_refused():
    rest = {"memory": jnp.eye(4, 8), "index": jnp.asarray([[0, 1], [2, 3]])}
    with pytest.raises(base.InputError, match="PIRL needs patches and image"):
        losses.pirl_cross_entropy(jnp.ones((3, 8)), jnp.ones((3, 8)), **rest)
    with pytest.raises(base.InputError, match="patches_weight must be 0 to 1; got 2"):
        losses.pirl_cross_entropy(jnp.ones((2, 8)), jnp.ones((2, 8)), patches_weight=2, **rest)
    with pytest.raises(base.InputError, match="temperature of pirl_nce must be above 0"):
        losses.pirl_nce(jnp.ones((2, 8)), jnp.ones((2, 8)), partition=1.0, temperature=0.0, **rest)
