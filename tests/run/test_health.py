"""Scores while training, and what is said of a run that goes wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, data, probes
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, health
from tests.data import test_streaming

SMALL = ["--config.augment.image_size=8", "--config.probe.batch_size=16"]


class Flat:
    """An encoder without layers: the mean colours of an image, times one weight."""

    @staticmethod
    def apply(variables, images, *, train):
        assert not train
        return images.mean(axis=(1, 2)) * variables["params"]["weight"]


def settings(*overrides):
    return config_lib.load_file("smoke", *SMALL, *overrides).to_dict()


@pytest.fixture
def image_set():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.zeros(40, np.int32)
    return data.ImageSet(images, np.full((40, 2), 8, np.int32), labels, ("one",), tuple(map(str, range(40))), "", ())


def state_of(weight, **method_state):
    params = {"encoder": {"weight": jnp.float32(weight)}}
    return base.TrainState(jnp.zeros((), jnp.int32), params, {"batch_stats": {}, **method_state}, ())


def make_measure(config, image_set):
    mesh = sharding.make_mesh()
    encode = features.make_encode(Flat(), **features.evaluation_settings(config))
    return health.make_measure(config, Flat(), mesh, train_set=image_set, encode=encode)


@pytest.mark.slow
def test_scores_are_those_of_evenly_spaced_images_and_of_two_views_of_them(image_set):
    config = settings("--config.probe.label_free_rows=20")
    measure = make_measure(config, image_set)
    rows = np.linspace(0, 39, 20).astype(int)
    h = image_set.images.mean(axis=(1, 2)) / np.float32(255)
    scores, signs = measure(state_of(1.0), None)
    expected = probes.label_free_scores(h[rows])
    # The evaluation crop of a whole image of that size is the image.
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert 0 < scores["alignment"] < 1 and set(scores) == {*expected, "alignment"}
    assert (signs.num_features, signs.finite_share, signs.temperature) == (3, 1.0, config["method"]["temperature"])
    assert measure(state_of(1.0), h)[0] == pytest.approx(scores, rel=1e-4)
    broken, signs = measure(state_of(float("nan")), None)
    assert broken == {} and signs.finite_share == 0.0


def test_no_scores_are_measured_where_none_are_wanted(image_set):
    measure = make_measure(settings("--config.probe.label_free_rows=0"), image_set)
    assert measure(state_of(1.0), None) == ({}, probes.Signs())


@pytest.mark.slow
def test_a_split_that_stays_encoded_has_the_scores_of_the_decoded_one_and_its_damaged_images_are_left_out(tmp_path):
    pytest.importorskip("cv2")
    test_streaming.write_pictures(tmp_path / "set")
    config = settings("--config.feed.num_workers=1", "--config.probe.label_free_rows=20")
    how = {"cache_dir": "", "canvas_size": 64, "progress": False}
    decoded, encoded = (data.load_split(f"folder:{tmp_path}/set", "all", stream_above=n, **how) for n in (np.inf, -1))
    assert data.is_encoded(encoded) and not data.is_encoded(decoded)
    expected = make_measure(config, decoded)(state_of(1.0), None)[0]
    scores = make_measure(config, encoded)(state_of(1.0), None)[0]
    # Crops that the host cuts are rounded to levels; the pairs are of the same canvases.
    assert scores == pytest.approx(expected, rel=0.02)
    assert scores["alignment"] == pytest.approx(expected["alignment"], rel=1e-6)
    (tmp_path / "set" / encoded.ids[0]).write_bytes(b"nothing")
    pairs_of = health.make_encode_pairs(config, Flat(), sharding.make_mesh(), image_set=encoded, rows=np.arange(7))
    assert pairs_of({"params": {"weight": jnp.float32(1.0)}}).shape == (6, 2, 3)


def test_alignment_is_zero_where_views_are_whole_images(image_set):
    plain = [f"--config.augment.{name}_probability=0.0" for name in ("flip", "color_jitter", "grayscale", "blur")]
    config = settings(*plain, "--config.augment.crop_min_scale=1.0")
    encode = health.make_encode_pairs(config, Flat(), sharding.make_mesh(), image_set=image_set, rows=np.arange(40))
    pairs = encode({"params": {"weight": jnp.float32(2.0)}})
    assert pairs.shape == (16, 2, 3)
    rows = np.linspace(0, 39, 16).astype(int)
    mean = image_set.images[rows].mean(axis=(1, 2)) / np.float32(255)
    # A crop of the whole image may leave out a pixel's row: the sampler rounds.
    np.testing.assert_allclose(pairs[:, 0], 2 * mean, atol=0.2)
    assert np.abs(pairs[:, 0] - pairs[:, 1]).max() < 0.2


@pytest.mark.slow
def test_a_momentum_network_that_stands_still_or_is_the_trained_one_is_noticed(image_set):
    config = settings()
    measure = make_measure(config, image_set)
    target = {"params": {"encoder": {"weight": jnp.float32(3.0)}}, "batch_stats": {}}
    scores, signs = measure(state_of(6.0, target=target), None)
    assert (scores["target_norm"], scores["target_distance"]) == (3.0, 1.0)

    def said(*rows):
        rows = [{"step": step, **row} for step, row in enumerate(rows)]
        return health.diagnose(config, probes.Signs(), rows, num_steps=100, num_classes=2)

    moved = {"target_norm": 3.0, "target_distance": 0.1}
    assert said(moved, {**moved, "target_norm": 3.01}) == [] == said(moved)
    assert "has not moved" in said(moved, moved)[0]
    assert "the trained one itself" in said({**moved, "target_distance": 0.0})[0]
    assert health.diagnose(config, signs, [], num_steps=100, num_classes=2) == []


def test_a_loss_that_has_not_moved_is_told_only_after_a_quarter_of_the_run():
    config = settings("--config.method.temperature=5.0", "--config.train.batch_size=64")
    equal = 2 * np.log(2 * 64 - 1)
    rows = [{"step": 10, "loss": float(equal)}, {"step": 30, "loss": float(equal) * 1.001}]

    def said(num_steps):
        return health.diagnose(config, probes.Signs(temperature=5.0), rows, num_steps=num_steps, num_classes=2)

    assert "temperature of 5" in said(100)[0] and said(200) == []
    # One that falls through that value has moved.
    rows[1:] = [{"step": 60 + at, "loss": float(equal) * (1.4 - 0.05 * at)} for at in range(9)]
    assert rows[-1]["loss"] == pytest.approx(equal) and said(100) == []


def test_a_student_is_measured_by_its_teachers_classes():
    config = {"method": {"name": "distill"}, "train": {"batch_size": 8}, "teacher": {"num_classes": 10}}
    assert health.uninformed_loss(config, num_classes=0) == pytest.approx(np.log(10))
