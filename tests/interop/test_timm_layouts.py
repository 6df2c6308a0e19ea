"""Names of timm's and torchvision's networks other than ResNets, which recorded features show to be theirs."""

import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.interop import detect, pytorch_layouts, timm_layouts
from tests.interop import test_detect

CASES = [
    ({"name": "vit_tiny", "patch_size": 4, "position_grid": 8}, "timm"),
    ({"name": "vit_small", "pool": "mean"}, "timm"),
    ({"name": "vit_tiny"}, "torchvision"),
    ({"name": "convnext_tiny"}, "torchvision"),
    ({"name": "convnext_base"}, "timm"),
    ({"name": "efficientnet_b0"}, "torchvision"),
    ({"name": "efficientnet_b1"}, "timm"),
    ({"name": "efficientnet_lite0"}, "timm"),
]


def by_name_of(arguments) -> dict[str, np.ndarray]:
    return test_detect.shapes_by_name(models.make_encoder(**arguments))


@pytest.mark.few(2)
@pytest.mark.parametrize(("arguments", "layout"), CASES, ids=lambda case: str(case))
def test_what_was_written_in_a_layout_is_read_and_recognised(arguments, layout):
    ours = by_name_of(arguments)
    ours["supervised_head/dense/kernel"] = np.zeros((models.make_encoder(**arguments).num_features, 5), np.float32)
    ours["supervised_head/dense/bias"] = np.zeros(5, np.float32)
    state = timm_layouts.to_torch(ours, layout=layout)
    read = pytorch_layouts.read({f"model.{name}": value for name, value in state.items()})
    assert {name: value.shape for name, value in read.by_name.items()} == {k: v.shape for k, v in ours.items()}
    assert not read.unknown and not read.missing and not read.ignored
    found = detect.find_architecture(read.by_name, padding="torchvision")
    assert {key: found.encoder[key] for key in arguments} == arguments and found.num_classes == 5


def test_every_size_is_recognised_by_its_shapes():
    sizes = {(encoder().width, encoder().depth): name for name, encoder in models.ENCODERS.items() if name[:3] == "vit"}
    assert sizes == detect.TRANSFORMERS
    convnexts = {name: encoder() for name, encoder in models.ENCODERS.items() if name.startswith("convnext")}
    assert {(net.widths[2], net.num_blocks[2]): name for name, net in convnexts.items()} == detect.CONVNEXTS
    kinds = {f"efficientnet_{kind}" for kind in detect.EFFICIENTNETS.values()}
    assert kinds == {name for name in models.ENCODERS if name.startswith("efficientnet_b")}


def test_of_moco_v3s_file_the_base_encoder_is_read_with_its_twelve_heads():
    """Its names: two networks with a projector each in the place of timm's head, and a predictor."""
    ours = by_name_of({"name": "vit_small"})
    bare = timm_layouts.to_torch(ours, layout="timm")
    bare |= {"head.0.weight": np.zeros((8, 384)), "head.1.weight": np.zeros(8)}
    state = {f"module.{net}_encoder.{name}": value for net in ("base", "momentum") for name, value in bare.items()}
    # Different weights: else the two count as one network.
    state["module.momentum_encoder.norm.weight"] = np.ones(384, np.float32)
    state |= {"module.predictor.0.weight": np.zeros((8, 8))}
    read = pytorch_layouts.read(state)
    assert read.by_name.keys() == ours.keys() and read.unknown == []
    assert read.encoder == {"num_heads": 12} and "MoCo v3" in read.note and "base_encoder" in read.layout


def test_a_convnext_of_another_size_is_refused_with_the_known_ones():
    ours = by_name_of({"name": "convnext_tiny"})
    short = {name: value for name, value in ours.items() if "stage3/block9/" not in name}
    with pytest.raises(base.InputError, match=r"convnext_tiny 384 x 9, .*got 384 x 8\. Convert one"):
        detect.find_architecture(short, padding="torchvision")


def test_a_variable_without_a_place_is_refused():
    with pytest.raises(base.InputError, match="timm has no place for encoder/register"):
        timm_layouts.to_torch({**by_name_of({"name": "vit_tiny"}), "encoder/register": np.zeros(3)}, layout="timm")
