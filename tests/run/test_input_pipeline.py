"""Both feeds hand out the same batches; which one is taken depends on the room there is."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.distributed import sharding
from simclr_jax.run import input_pipeline


@pytest.fixture
def image_set() -> data.ImageSet:
    rng = np.random.default_rng(0)
    return data.ImageSet(
        images=rng.integers(0, 256, (23, 6, 6, 3), np.uint8),
        sizes=rng.integers(2, 7, (23, 2)).astype(np.int32),
        labels=np.arange(23, dtype=np.int32),
        class_names=tuple(map(str, range(23))),
        ids=tuple(map(str, range(23))),
        fingerprint="",
        skipped=(),
    )


def make(image_set, *, gigabytes, shape=(1, 8)):
    return input_pipeline.make_feed(
        image_set, sharding.make_mesh(), seed=3, shape=shape, max_resident_gigabytes=gigabytes
    )


def test_the_streamed_feed_hands_out_the_batches_of_the_resident_one(image_set):
    resident, streamed = make(image_set, gigabytes=None), make(image_set, gigabytes=0.0)
    assert (resident.source_is_rows, streamed.source_is_rows) == (False, True)
    positions = jnp.arange(8, dtype=jnp.int32)
    for step in (0, 2, 7):  # the third batch straddles two epochs
        batches = []
        for rows in (resident, streamed):
            source, indices = rows.draw(step)
            batches.append(rows.load_batch(source, indices[0], positions))
        for name in base.Batch.__annotations__:
            np.testing.assert_array_equal(batches[0][name], batches[1][name])
        np.testing.assert_array_equal(batches[0]["image"], image_set.images[np.asarray(batches[0]["label"])])


def test_an_epoch_visits_every_example_once(image_set):
    rows = make(image_set, gigabytes=None, shape=(23, 1))
    _, indices = rows.draw(0)
    assert sorted(np.asarray(indices).ravel().tolist()) == list(range(23))


def test_a_dispatch_of_several_steps_holds_the_batches_of_the_single_steps(image_set):
    several, single = make(image_set, gigabytes=None, shape=(3, 8)), make(image_set, gigabytes=None)
    expected = [np.asarray(single.draw(step)[1])[0] for step in (5, 6, 7)]
    np.testing.assert_array_equal(several.draw(5)[1], expected)


def test_streaming_several_steps_at_once_is_refused(image_set):
    with pytest.raises(base.InputError, match="steps_per_dispatch must be 1"):
        make(image_set, gigabytes=0.0, shape=(2, 8))


def test_a_negative_budget_is_refused(image_set):
    with pytest.raises(base.InputError, match="must not be negative; got -1"):
        make(image_set, gigabytes=-1.0)
