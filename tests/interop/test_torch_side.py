"""torchvision's own network for weights of any width and stem: it computes what torchvision computes."""

import importlib
import sys

import numpy as np
import pytest

from simclr_jax.interop import detect, torch_side

IMAGES = np.random.default_rng(0).random((2, 33, 32, 3), np.float32)


@pytest.fixture
def models(torchvision):
    return torchvision.models


def numpy_state(model):
    return {name: value.numpy() for name, value in model.state_dict().items() if "num_batches" not in name}


def test_without_torch_there_are_no_features_and_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    h, reason = torch_side.torchvision_features({}, IMAGES, structure=detect.STRUCTURES["resnet18"])
    assert h is None and "torch is not installed" in reason


def test_features_are_those_of_torchvisions_class(models):
    torch = importlib.import_module("torch")
    model = models.resnet18()
    state = numpy_state(model)
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).numpy()
    h, _ = torch_side.torchvision_features(state, IMAGES, structure=detect.STRUCTURES["resnet18"])
    np.testing.assert_allclose(h, expected, rtol=1e-6)


def test_weights_of_another_class_have_no_features(models):
    state = numpy_state(models.resnet18()) | {"layer1.0.downsample.0.weight": np.ones((64, 64, 1, 1), np.float32)}
    h, reason = torch_side.torchvision_features(state, IMAGES, structure=detect.STRUCTURES["resnet18"])
    assert h is None and "downsample" in reason
