"""The queue: recorded contents after every batch, neighbours, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.methods import queue
from tests import golden

QUEUE = golden.load("family/queue")


@pytest.mark.parametrize("case", ["wrap", "exact", "one_by_one"])
def test_batches_take_the_place_of_the_oldest_rows(case):
    start, batches = QUEUE[f"moco/{case}/start"], QUEUE[f"moco/{case}/keys"]
    now = {"rows": jnp.asarray(start), "pointer": jnp.int32(0)}
    enqueue = jax.jit(queue.enqueue)
    for number, keys in enumerate(batches):
        now = enqueue(now, jnp.asarray(keys))
        np.testing.assert_array_equal(now["rows"], QUEUE[f"moco/{case}/queue_after"][number])
        assert int(now["pointer"]) == QUEUE[f"moco/{case}/pointer_after"][number]


@pytest.mark.parametrize("case", ["main", "dup"])
def test_neighbors_and_the_queue_are_the_recorded_ones(case):
    """The recorded queue holds the first view's unit vectors; a batch is looked up before it is written."""
    z, index = QUEUE[f"nnclr/{case}/z"].astype(np.float64), QUEUE[f"nnclr/{case}/index"]
    units = z / np.linalg.norm(z, axis=-1, keepdims=True)
    rows = QUEUE[f"nnclr/{case}/start"].astype(np.float64)
    with jax.enable_x64(True):
        now = {"rows": jnp.asarray(rows), "pointer": jnp.int32(0)}
        for number in range(len(z)):
            before = np.asarray(now["rows"])
            found = queue.nearest(now, jnp.asarray(units[number]))
            np.testing.assert_array_equal(found, before[index[number]])
            np.testing.assert_allclose(found, QUEUE[f"nnclr/{case}/neighbours_f64"][number], rtol=0, atol=1e-10)
            now = queue.enqueue(now, jnp.asarray(units[number][:, 0]))
            np.testing.assert_allclose(now["rows"], QUEUE[f"nnclr/{case}/queue_after_f64"][number], rtol=0, atol=1e-10)


def test_a_queue_starts_with_random_unit_rows():
    made = queue.init_queue(jax.random.key(0), 64, jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert made["rows"].shape == (64, 5) and int(made["pointer"]) == 0
    np.testing.assert_allclose(np.linalg.norm(made["rows"], axis=1), 1.0, rtol=1e-6)
    assert np.abs(np.mean(made["rows"], axis=0)).max() < 0.3


def test_mistakes_are_refused_with_what_fits():
    with pytest.raises(base.InputError, match=r"multiple of the batch size; got 10 and 4. Use 8 or 12."):
        queue.enqueue({"rows": jnp.ones((10, 2)), "pointer": jnp.int32(0)}, jnp.ones((4, 2)))
    with pytest.raises(base.InputError, match=r"Use 64\."):
        queue.check_batch(16, 64)
    with pytest.raises(base.InputError, match="at least 1; got 0"):
        queue.check_length(0)
