"""Gathering on the device against plain NumPy indexing."""

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.data import imageset, resident


def _image_set(count=5, side=4):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = np.arange(count) + 10
    return imageset.make_image_set(images, labels, class_names=(), ids=tuple(map(str, range(count))))


def _split(image_set):
    sizes = image_set.sizes - np.arange(len(image_set.sizes), dtype=np.int32)[:, None]
    arrays = (image_set.images, sizes, image_set.labels)
    return resident.SplitArrays(*map(jnp.asarray, arrays))


def test_gather_batch_takes_the_named_rows():
    split = _split(_image_set())
    indices, positions = jnp.asarray([3, 0, 3], jnp.int32), jnp.asarray([8, 9, 10], jnp.int32)
    batch = jax.jit(resident.gather_batch)(split, indices, positions)
    assert set(batch) == set(base.Batch.__annotations__) - {"text"}
    np.testing.assert_array_equal(batch["image"], np.asarray(split.images)[[3, 0, 3]])
    np.testing.assert_array_equal(batch["size"], np.asarray(split.sizes)[[3, 0, 3]])
    np.testing.assert_array_equal(batch["label"], [13, 10, 13])
    np.testing.assert_array_equal(batch["position"], [8, 9, 10])
    assert batch["mask"].all()
    assert batch["image"].dtype == jnp.uint8
    assert {batch[name].dtype for name in ("size", "label", "position")} == {jnp.dtype("int32")}


def test_padding_rows_are_masked_and_unlabelled():
    batch = resident.gather_batch(_split(_image_set()), jnp.asarray([2, -1, -1]), jnp.arange(3))
    np.testing.assert_array_equal(batch["mask"], [True, False, False])
    np.testing.assert_array_equal(batch["label"], [12, -1, -1])
    np.testing.assert_array_equal(batch["image"][1], batch["image"][2])


def test_resident_bytes_counts_every_array():
    image_set = _image_set(count=5, side=4)
    assert resident.resident_bytes(image_set) == 5 * (4 * 4 * 3 + 2 * 4 + 4)
