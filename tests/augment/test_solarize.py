"""Solarisation: recorded bytes and floats, the threshold, and how often it happens in each view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import augment
from tests import golden

SOLARISE = golden.load("family/solarise")


@pytest.mark.parametrize("case", ["noise", "ramp"])
def test_bytes_and_floats_are_the_recorded_ones(case):
    image = SOLARISE[f"{case}/input_u8"]
    ours = augment.adjust_solarize(jnp.asarray(image))
    np.testing.assert_allclose(ours, SOLARISE[f"{case}/float_threshold_0.5"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.rint(np.asarray(ours) * 255), SOLARISE[f"{case}/pil_threshold_128_u8"])


def test_values_at_the_threshold_are_inverted():
    edge = jnp.asarray(SOLARISE["edge/input"])
    np.testing.assert_allclose(augment.adjust_solarize(edge), SOLARISE["edge/float_threshold_0.5"], atol=1e-6)
    other = augment.adjust_solarize(edge, threshold=float(SOLARISE["edge/other_threshold"]))
    np.testing.assert_allclose(other, SOLARISE["edge/float_other_threshold"], atol=1e-6)


def test_a_probability_of_one_always_solarises_and_zero_never():
    image = jnp.linspace(0, 1, 48).reshape(4, 4, 3)
    key = jax.random.key(0)
    np.testing.assert_array_equal(augment.random_solarize(key, image, probability=0.0), image)
    np.testing.assert_array_equal(augment.random_solarize(key, image, probability=1.0), augment.adjust_solarize(image))
