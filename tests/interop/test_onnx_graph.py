"""Our encoders as ONNX graphs: onnxruntime gives the official code's features, and ours."""

import inspect
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.cli import export_torch
from simclr_jax.interop import detect, foreign, onnx_graph, variables
from simclr_jax.models import norms, vit
from tests import golden, oracles
from tests.cli import test_convert
from tests.golden import record_encoders
from tests.models import test_convnext, test_vit

onnxruntime = pytest.importorskip("onnxruntime")
# Relative to the largest feature, as between any two float32 libraries; observed at most 2e-6.
TOLERANCE = 1e-4
DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(models.make_encoder).parameters.items()}
CASES = [
    # Maps of odd and of even sides in front of every pool and stride.
    ({"name": "resnet10", "width_multiplier": 0.125, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.2)}, (33, 40)),
    ({"name": "resnet10", "width_multiplier": 0.125, "stem": "cifar", "sk_ratio": 0.0625, "se_ratio": 0.25}, (9, 8)),
    ({"name": "resnet10", "width_multiplier": 0.5, "norm": "group"}, (35, 32)),
    pytest.param(
        {"name": "resnet50", "width_multiplier": 0.125, "padding": "torchvision"}, (67, 64), marks=pytest.mark.slow
    ),
    pytest.param({"name": "resnet18", "width_multiplier": 2.0, "norm": "frozen"}, (64, 64), marks=pytest.mark.slow),
    pytest.param({"name": "resnet50", "width_multiplier": 0.125, "sk_ratio": 0.0625}, (34, 45), marks=pytest.mark.slow),
]


def make(encoder: dict, sides: tuple[int, int]) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    """(the ONNX model, images -> our h) of an encoder with golden weights."""
    network = models.make_encoder(**encoder)
    images = jax.ShapeDtypeStruct((2, *sides, 3), np.float32)
    trees = oracles.golden_variables(jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images))
    by_name = variables.flatten({"encoder": trees["params"]}, {"encoder": trees.get("batch_stats", {})})
    model = onnx_graph.make_model(by_name, DEFAULTS | encoder, channel_groups=norms.num_channel_groups)
    return model, lambda images: np.asarray(jax.jit(lambda v, x: network.apply(v, x, train=False))(trees, images))


def run(model: bytes, images: np.ndarray) -> np.ndarray:
    """h of onnxruntime for images [N, H, W, 3]."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (h,) = session.run(["h"], {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)})
    assert h.dtype == np.float32 and session.get_outputs()[0].shape[1] == h.shape[1]
    return h


@pytest.mark.parametrize("name", ["ckpt_tf1_r18_w0.0625", "ckpt_tf1_r50_sk_w0.03125"])
def test_onnxruntime_gives_what_the_official_code_computed_with_a_checkpoint(tmp_path, name):
    arrays = test_convert.official_file(tmp_path / "w.safetensors", name)
    by_name = variables.only(foreign.read(tmp_path / "w.safetensors").by_name, "encoder")
    arguments = {**DEFAULTS, **detect.find_architecture(by_name, padding="reference").encoder}
    h, expected = run(onnx_graph.make_model(by_name, arguments), arrays["input"]), arrays["features"]
    np.testing.assert_allclose(h, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "encoder"),
    [
        ("resnet_r50_sk_imagenet_64", {"name": "resnet50", "sk_ratio": 0.0625}),
        ("resnet_r50_imagenet_64", {"name": "resnet50"}),
        ("resnet_r18_w2_cifar_32", {"name": "resnet18", "stem": "cifar", "width_multiplier": 2.0}),
    ],
)
def test_onnxruntime_gives_the_recorded_features_of_the_official_code(file, encoder):
    recorded = golden.load(file)
    model, _ = make(encoder, recorded["input"].shape[1:3])
    h, expected = run(model, recorded["input"]), recorded["eval/features_f64"]
    np.testing.assert_allclose(h, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def arguments_of(module, name: str) -> dict:
    """All arguments of `make_encoder` for a network of its own size."""
    fields = {field: getattr(module, field) for field in DEFAULTS if hasattr(module, field) and field != "name"}
    return DEFAULTS | fields | {"name": name}


def model_of(module, trees, name: str, *, side: int) -> bytes:
    """The ONNX model of any network for images of that many pixels."""
    arguments = arguments_of(module, name)
    by_name = variables.flatten({"encoder": trees["params"]}, {"encoder": trees.get("batch_stats", {})})
    by_name = export_torch.with_positions(by_name, arguments, side=side // arguments["patch_size"])
    return onnx_graph.make_model(by_name, arguments, channel_groups=norms.num_channel_groups)


@pytest.mark.parametrize(
    ("row", "module", "layout", "name"),
    [
        ("vit/token/16", test_vit.small(), "timm", "vit_tiny"),
        ("vit/token/24", test_vit.small(), "timm", "vit_tiny"),
        ("vit/mean/16", test_vit.small(pool="mean"), "timm", "vit_tiny"),
        ("convnext/torchvision", test_convnext.small(), "torchvision", "convnext_tiny"),
        ("convnext/timm", test_convnext.small(), "timm", "convnext_tiny"),
        ("efficientnet_lite0", models.make_encoder("efficientnet_lite0", padding="torchvision"), "timm", None),
        *(
            pytest.param(row, models.make_encoder(name, padding=padding), layout, name, marks=pytest.mark.slow)
            for row, name, padding, layout in (
                ("efficientnet_b0", "efficientnet_b0", "torchvision", "torchvision"),
                ("efficientnet_b5", "efficientnet_b5", "torchvision", "torchvision"),
                ("tf_efficientnet_b0", "efficientnet_b0", "reference", "timm"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_onnxruntime_gives_timms_and_torchvisions_features(row, module, layout, name):
    """Transformers, ConvNeXts and EfficientNets; at 24 pixels with interpolated positions."""
    side = {"vit/token/24": 24, "convnext/timm": 45}.get(row, 16 if row.startswith("vit") else record_encoders.SIDE)
    model = model_of(module, test_vit.weights_of(module, layout), name or row, side=side)
    h, expected = run(model, record_encoders.images(side)), golden.load("encoders")[row]
    np.testing.assert_allclose(h, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(
    "arguments",
    [
        {"design": "clip", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.2)},
        {"design": "openai", "positions": "sincos", "pool": "mean", "position_grid": 3},
    ],
)
def test_onnxruntime_gives_our_features_of_a_transformer_of_clips_designs(arguments):
    module = vit.ViT(32, 2, **{"patch_size": 8, "num_heads": 4, "position_grid": 2, **arguments})
    rng, images = np.random.default_rng(0), np.random.default_rng(1).random((3, 16, 16, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    trees = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, shapes)
    expected = np.asarray(jax.jit(lambda v, x: module.apply(v, x, train=False))(trees, images))
    model = model_of(module, trees, "vit_tiny", side=16)
    h = run(model, images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(h, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    np.testing.assert_allclose(run(model, images[:1]), h[:1], rtol=0, atol=TOLERANCE * np.abs(expected).max())
    with pytest.raises(Exception, match="Expected: 16"):  # the batch is free, the sides are not
        run(model, images[:, :8])


@pytest.mark.few(1)
@pytest.mark.parametrize(("encoder", "sides"), CASES)
def test_onnxruntime_gives_our_features_at_any_batch_and_size(encoder, sides):
    images = np.random.default_rng(0).random((3, *sides, 3), np.float32)
    model, ours = make(encoder, sides)
    h, expected = run(model, images), ours(images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(h, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    np.testing.assert_allclose(run(model, images[:1]), h[:1], rtol=0, atol=TOLERANCE * np.abs(expected).max())
    assert run(model, images[:, :-1, :-2]).shape == h.shape


def test_without_onnx_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(base.InputError, match=r"onnx, which is not installed\. pip install 'simclr-jax\[onnx\]'"):
        onnx_graph.make_model({}, {})
