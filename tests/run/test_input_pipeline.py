"""Both feeds hand out the same batches; which one is taken depends on the room there is."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.data import order
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, input_pipeline, splits
from tests.data import test_streaming


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


MIX = order.Mix((3.0, 0.5), np.repeat(np.int32([0, 1]), [7, 16]))


@pytest.mark.parametrize("mix", [None, MIX])
def test_the_streamed_feed_hands_out_the_batches_of_the_resident_one(image_set, mix):
    image_set = image_set._replace(mix=mix)
    resident, streamed = make(image_set, gigabytes=None), make(image_set, gigabytes=0.0)
    assert (resident.source_is_rows, streamed.source_is_rows) == (False, True)
    positions = jnp.arange(8, dtype=jnp.int32)
    for step in (0, 2, 7):  # the third batch straddles two epochs
        batches = []
        for rows in (resident, streamed):
            source, indices = rows.draw(step)
            batches.append(rows.load_batch(source, indices[0], positions))
        for name in base.Batch.__annotations__.keys() - {"text"}:
            np.testing.assert_array_equal(batches[0][name], batches[1][name])
        np.testing.assert_array_equal(batches[0]["image"], image_set.images[np.asarray(batches[0]["label"])])


def test_an_epoch_visits_every_example_once(image_set):
    rows = make(image_set, gigabytes=None, shape=(23, 1))
    _, indices = rows.draw(0)
    assert sorted(np.asarray(indices).ravel().tolist()) == list(range(23))


def test_an_epoch_of_a_mix_visits_examples_as_often_as_they_weigh(image_set):
    rows = make(image_set._replace(mix=MIX), gigabytes=None, shape=(29, 1))
    for step in (0, 29):
        times = np.bincount(np.asarray(rows.draw(step)[1]).ravel(), minlength=23)
        assert (times[:7] == 3).all() and times[7:].max() == 1 and times[7:].sum() == 8


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


@pytest.fixture
def config(tmp_path):
    pytest.importorskip("cv2")
    test_streaming.write_pictures(tmp_path / "set")
    words = [f"--config.data.name=folder:{tmp_path / 'set'}", f"--config.data.cache_dir={tmp_path / 'cache'}"]
    words += ["--config.augment.image_size=40", "--config.feed.num_workers=2", "--config.split.train=all"]
    return config_lib.load_file("smoke", *words).to_dict()


def with_feed(config, kind, **train):
    return {**config, "feed": {**config["feed"], "kind": kind}, "train": {**config["train"], **train}}


def test_the_size_of_a_split_decides_whether_it_is_streamed_unless_the_config_does(config):
    small = {"max_resident_gigabytes": 1e-6}
    assert not data.is_encoded(splits.load_split(with_feed(config, "auto"), "train"))
    assert data.is_encoded(splits.load_split(with_feed(config, "auto", **small), "train"))
    for kind in ("resident", "canvas"):
        assert not data.is_encoded(splits.load_split(with_feed(config, kind, **small), "train"))
    streamed = splits.load_split(with_feed(config, "streamed"), "train")
    assert data.is_encoded(streamed) and data.is_encoded(data.subset(streamed, np.arange(3)))
    assert data.is_encoded(splits.load_split(with_feed(config, "auto"), "test", like=streamed))


def test_evaluation_sees_every_streamed_picture_once_in_the_view_of_the_decoded_ones(config):
    shown = []
    for kind in ("canvas", "streamed"):
        settings = with_feed(config, kind)
        how = {**features.evaluation_settings(settings), "batch_size": 8}
        split = splits.load_split(settings, "train")
        mean = features.make_predict(lambda scale, images: scale * images.mean(axis=(1, 2, 3)), **how)
        shown.append((mean(jnp.float32(255), split), features.evaluation_images(split, **how), split.labels))
    assert shown[0][1].shape == shown[1][1].shape == (23, 40, 40, 3)  # three batches, the last of them padded
    np.testing.assert_array_equal(shown[0][2], shown[1][2])
    # Pictures here fit on their canvas, so that only the order of sums may move a level.
    np.testing.assert_allclose(shown[1][1].astype(int), shown[0][1].astype(int), rtol=0, atol=1)
    np.testing.assert_allclose(shown[1][0], shown[0][0], rtol=0, atol=0.5)


def test_a_damaged_picture_is_evaluated_as_another_one_of_its_class(config):
    settings = with_feed(config, "streamed")
    split = splits.load_split(settings, "train")
    how = {**features.evaluation_settings(settings), "batch_size": 8}
    whole = features.evaluation_images(split, **how)
    folder = pathlib.Path(config["data"]["name"].removeprefix("folder:"))
    for row in (0, 22):  # of both classes
        content = (folder / split.ids[row]).read_bytes()
        (folder / split.ids[row]).write_bytes(b"nothing")
        images = features.evaluation_images(split, **how)
        (folder / split.ids[row]).write_bytes(content)
        same = [n for n in range(23) if n != row and (images[row] == whole[n]).all()]
        assert split.labels[same].tolist() == [split.labels[row]]
        np.testing.assert_array_equal(np.delete(images, row, axis=0), np.delete(whole, row, axis=0))


def test_samples_of_views_are_the_same_of_a_streamed_split_and_damaged_pictures_are_left_out(config):
    def make_views(key, images, sizes, positions):
        return images[:, None, :16, :16].astype(jnp.float32) / 255

    how = {"size": 16, "num_images": 4, "key": jax.random.key(0)}
    sets = [splits.load_split(with_feed(config, kind), "train") for kind in ("canvas", "streamed")]
    decoded, streamed = (features.view_samples(make_views, image_set, **how) for image_set in sets)
    np.testing.assert_array_equal(streamed, decoded)
    folder = pathlib.Path(config["data"]["name"].removeprefix("folder:"))
    (folder / sets[1].ids[-1]).write_bytes(b"nothing")
    assert features.view_samples(make_views, sets[1], **how).shape == (3, 2, 16, 16, 3)


def test_the_streamed_feed_sends_the_crops_of_the_visited_pictures(config):
    settings = with_feed(config, "streamed")
    split = splits.load_split(settings, "train")._replace(mix=MIX)
    how = {"settings": input_pipeline.make_settings(num_workers=2).workers, "batch_size": 8, "num_steps": 5}
    cuts = input_pipeline.make_cuts(settings)
    rows = input_pipeline.make_streamed_feed(split, sharding.make_mesh(), cuts, **how, max_corrupt_fraction=0.0)
    source, indices = rows.draw(2)
    rows.close()
    seed = settings["seed"]
    np.testing.assert_array_equal(indices[0], order.make_stream(seed, num_examples=23, mix=MIX)(16, 8))
    batch = rows.load_batch(source, indices[0], jnp.arange(8, dtype=jnp.int32))
    assert batch["image"].shape == (8, 2, 40, 40, 3) and batch["image"].dtype == jnp.uint8
    np.testing.assert_array_equal(batch["label"], split.labels[np.asarray(indices[0])])
    assert np.asarray(batch["mask"]).all() and rows.is_cut and rows.source_is_rows


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "grain"}, "auto, resident, canvas, streamed; got 'grain'"),
        ({"workers": "fibres"}, "threads, processes; got 'fibres'"),
        ({"num_workers": 1.5}, "num_workers must be a whole number from 0 to 512; got 1.5"),
        ({"crop_method": "area"}, "exact, opencv; got 'area'"),
    ],
)
def test_feed_settings_that_no_run_can_have_are_refused(section, said):
    with pytest.raises(base.InputError, match=said):
        input_pipeline.make_settings(**section)


def test_views_that_the_host_cannot_cut_are_refused_and_evaluated_all_the_same(config):
    assert input_pipeline.make_cuts({**config, "augment": {**config["augment"], "crop_sampler": "torchvision"}})
    small = {"num_small_views": 2, "small_image_size": 16}
    settings = {**config, "augment": {**config["augment"], **small}}
    with pytest.raises(base.InputError, match=r"Use feed\.kind canvas"):
        input_pipeline.make_cuts(settings)
    assert input_pipeline.make_cuts(settings, num_views=0).size == 40
    too_large = with_feed(settings, "auto", max_resident_gigabytes=1e-6)
    assert not data.is_encoded(splits.load_split(too_large, "train"))  # sent from canvases, as before


def test_several_steps_a_dispatch_are_refused_where_pictures_are_streamed(config):
    input_pipeline.check_config(with_feed(config, "streamed"), steps_per_dispatch=1)
    input_pipeline.check_config(with_feed(config, "auto"), steps_per_dispatch=4)
    with pytest.raises(base.InputError, match="steps_per_dispatch must be 1 where pictures are streamed; got 4"):
        input_pipeline.check_config(with_feed(config, "streamed"), steps_per_dispatch=4)
