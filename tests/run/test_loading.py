"""Encoders from files of other programs: their normalisation is part of the network, and they can be made again."""

import functools
import json

import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax import base
from simclr_jax.interop import foreign, torchvision, variables
from simclr_jax.run import loading
from tests.cli.test_convert import golden_by_name

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network under torchvision's names."""
    path = tmp_path_factory.mktemp("loading") / "resnet.safetensors"
    variables.save(path, torchvision.to_torchvision(golden_by_name(padding="torchvision")))
    return path


def test_weights_of_pytorch_normalise_their_images(weights):
    encoder = simclr_jax.load(weights)
    assert encoder.resize == "bilinear" and encoder.module.mean == foreign.IMAGENET_MEAN
    views = RNG.random((2, 16, 16, 3), np.float32)
    normalized = (views - np.asarray(foreign.IMAGENET_MEAN, np.float32)) / np.asarray(foreign.IMAGENET_STD, np.float32)
    plain = simclr_jax.load(weights, normalize="none")
    assert plain.module.mean == ()
    of_views, of_normalized = (
        jax.jit(functools.partial(one.module.apply, train=False))(one.variables, images)
        for one, images in ((encoder, views), (plain, normalized))
    )
    np.testing.assert_allclose(of_views, of_normalized, rtol=1e-4, atol=1e-5)
    # The same weights, whatever stands in front of them.
    assert encoder.fingerprint == plain.fingerprint


def test_an_encoder_is_made_again_from_its_settings(weights, small_run, tmp_path):
    images = RNG.integers(0, 256, (2, 12, 12, 3), np.uint8)
    asked = {"image_size": 16, "resize": "bicubic", "crop_fraction": 0.9, "normalize": "none"}
    for encoder in (simclr_jax.load(weights, **asked), simclr_jax.load(small_run)):
        settings = json.loads(json.dumps(encoder.settings()))
        again = loading.reload(settings, fingerprint=encoder.fingerprint)
        assert again.settings() == encoder.settings()
        np.testing.assert_array_equal(again(images), encoder(images))
        with pytest.raises(base.InputError, match="have changed since"):
            loading.reload(settings, fingerprint="another")


def test_what_is_refused(weights, tmp_path):
    for wrong, told in (
        ({"normalize": "cifar"}, "normalize must be one of auto, none, imagenet"),
        ({"resize": "lanczos"}, "resize must be one of tf2, tf1, bilinear, bicubic"),
        ({"image_size": 4}, "image_size must be 8 to 4096"),
        ({"crop_fraction": 1.5}, r"crop_fraction must lie in \(0, 1\]"),
        ({"resize": "tf2", "crop_fraction": 0.5}, "crop_fraction is for Pillow's resizing, .*; the resizing is tf2"),
        ({"checkpoint": "best"}, "checkpoint is for the folder of a run; .*resnet.safetensors is none"),
    ):
        with pytest.raises(base.InputError, match=told):
            simclr_jax.load(weights, **wrong)
    cut = {
        name: value[:2] if name == "layer1.0.conv1.weight" else value for name, value in variables.load(weights).items()
    }
    variables.save(tmp_path / "cut.safetensors", cut)
    with pytest.raises(base.InputError, match="block1/conv1/kernel"):
        simclr_jax.load(tmp_path / "cut.safetensors")


def test_what_has_no_effect_is_refused(weights, small_run, tmp_path):
    (tmp_path / "a").mkdir()
    for source, asked, how, told in (
        (
            small_run,
            {"network": "teacher"},
            {},
            "network is for a file of PyTorch with several; .* is the folder of a run",
        ),
        (small_run, {"crop_fraction": 0.5}, {}, "crop_fraction is for Pillow's resizing, .*; the resizing is tf2"),
        (small_run, {}, {"data_dir": "somewhere"}, "data_dir is for data sets on a disk.*; images is digits"),
        (weights, {}, {"canvas_size": 300}, "canvas_size is for the resizing tf2 and tf1.*; got 300 with bilinear"),
    ):
        with pytest.raises(base.InputError, match=f"{told}.*Leave it out"):
            simclr_jax.load(source, **asked).embed("digits", **how)
    with pytest.raises(base.InputError, match="data_dir is for data sets on a disk"):
        simclr_jax.load(small_run).embed(tmp_path / "a", data_dir="somewhere")
