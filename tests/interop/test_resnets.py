"""ResNets among other names: found under the names of many programs, and told apart from what is none."""

import re

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.interop import pytorch_layouts, resnets
from tests.interop import test_torchvision

RNG = np.random.default_rng(0)
NAMES = test_torchvision.state_shapes("resnet50")


def state(name: str = "resnet50", *, side: int = 7) -> dict[str, np.ndarray]:
    """torchvision's entries with their shapes and one number each, which takes no memory; no classifier."""
    shapes = test_torchvision.state_shapes(name) | {"conv1.weight": (64, 3, side, side)}
    return {key: np.broadcast_to(RNG.random(), shape) for key, shape in shapes.items() if key[:2] != "fc"}


def renamed(names, *rules: tuple[str, str]):
    """The entries under the names that the rules (pattern, replacement), applied in a row, give."""
    result = {}
    for name, value in names.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        result[name] = value
    return result


def positional(prefix: str, first_group: int):
    """As nn.Sequential names the children of a ResNet, whose first group is child number `first_group`."""
    groups = [(rf"^layer{group}\.", f"{prefix}{first_group + group - 1}.") for group in (1, 2, 3, 4)]
    return [(r"^conv1\.", f"{prefix}0."), (r"^bn1\.", f"{prefix}1."), *groups]


HUGGING_FACE = [
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    *[(rf"^layer{group}\.(\d+)\.", rf"resnet.encoder.stages.{group - 1}.layers.\1.") for group in (1, 2, 3, 4)],
    *[(rf"(s\.\d+)\.conv{i}\.", rf"\1.layer.{i - 1}.convolution.") for i in (1, 2, 3)],
    *[(rf"(s\.\d+)\.bn{i}\.", rf"\1.layer.{i - 1}.normalization.") for i in (1, 2, 3)],
    (r"downsample\.0", "shortcut.convolution"),
    (r"downsample\.1", "shortcut.normalization"),
]
DETECTRON = [
    (r"^(conv1|bn1)\.", r"stem.\1."),
    *[(rf"^layer{group}", f"res{group + 1}") for group in (1, 2, 3, 4)],
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
    (r"bn(\d)\.", r"conv\1.norm."),
]
PREFIXES = [
    *("module.", "module.encoder_q.", "encoder_q.0.", "online_encoder.", "online_network.encoder.", "convnet."),
    *("student.module.backbone.", "_orig_mod.", "classy_state_dict.base_model.model.trunk._feature_blocks."),
    *("model.encoder.f.", "nets.0.layer1.2."),
]
LAYOUTS = {
    "bare": ("", []),
    **{prefix: (prefix, [("^", prefix)]) for prefix in PREFIXES},
    "lightly tutorial": ("backbone.", positional("backbone.", 4)),
    "no max-pool": ("f.", positional("f.", 3)),
    "no ReLU": ("", positional("", 2)),
    "more children": ("model.0.", positional("model.0.", 6)),
    "shortcut": ("", [("downsample", "shortcut")]),
    "hugging face": ("resnet.", HUGGING_FACE),
    "detectron2": ("", DETECTRON),
}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resnet_is_found_under_the_names_of_other_programs(layout, name):
    prefix, rules = LAYOUTS[layout]
    expected = state(name)
    found = renamed(expected, *rules)
    heads = {f"{prefix}fc.0.weight": np.ones((8, 9)), "queue": np.ones((3, 4)), "predictor.0.weight": np.ones((2, 2))}
    nets = resnets.find(found | {"bn0.num_batches_tracked": np.zeros(())} | (heads if prefix else {}))
    assert [net.prefix for net in nets] == [prefix]
    assert {nets[0].names[key] for key in found} == expected.keys()
    assert all(expected[nets[0].names[key]] is value for key, value in found.items())


def test_positions_tell_how_many_modules_without_weights_follow_the_stem():
    counts = {first: resnets.find(renamed(state(), *positional("b.", first)))[0].between for first in (2, 3, 4)}
    assert counts == {2: 0, 3: 1, 4: 2} and resnets.find(state())[0].between is None


def taken_away(pattern):
    return {name: value for name, value in state().items() if not re.match(pattern, name)}


NONE = {
    "nothing": {},
    "no stem": taken_away("conv1"),
    "no BatchNorm in the stem": taken_away("bn1"),
    "three groups": taken_away("layer4"),
    "a gap between the blocks": taken_away(r"layer3\.2\."),
    "a convolution without BatchNorm": taken_away(r"layer2\.1\.bn2"),
    "no statistics": taken_away(r".*running_"),
    "grey images": state() | {"conv1.weight": np.ones((64, 1, 7, 7))},
    "squeeze-excitation": state() | {"layer1.0.se.fc1.weight": np.ones((4, 4, 1, 1))},
    "an average before the shortcut": renamed(state(), (r"downsample\.1", "downsample.2"), (r"le\.0", "le.1")),
    "other kernels": state() | {"layer1.0.conv2.weight": np.ones((64, 64, 5, 5))},
    "biases": state() | {"layer1.0.conv2.bias": np.ones(64)},
}


@pytest.mark.parametrize("case", NONE)
def test_what_is_no_complete_resnet_is_not_found(case):
    assert resnets.find(NONE[case]) == []


CHOICES = [
    ("online_network.encoder.", "target_network.encoder."),
    ("module.encoder_q.", "module.encoder_k."),
    ("backbone.", "backbone_momentum."),
    ("encoder.", "momentum_encoder."),
    ("state_dict.", "state_dict_ema."),
    ("", "ema_model."),
]


def several(prefixes):
    return {prefix + name: value for prefix in prefixes for name, value in state("resnet18").items()}


@pytest.mark.parametrize("prefixes", CHOICES)
def test_of_a_network_and_its_moving_average_the_network_is_taken_unless_asked(prefixes):
    arrays = several(prefixes)
    found = resnets.find(arrays)
    assert [net.prefix for net in found] == list(prefixes)
    assert resnets.choose(found[::-1], arrays, "").prefix == prefixes[0]
    for prefix in prefixes:
        assert resnets.choose(found, arrays, prefix.rstrip(".") or ".").prefix == prefix


def test_of_teacher_and_student_one_must_be_chosen():
    arrays = several(("student.module.backbone.", "teacher.backbone."))
    found = resnets.find(arrays)
    with pytest.raises(base.InputError, match=r"--network=student.module.backbone or --network=teacher.backbone\.$"):
        resnets.choose(found, arrays, "")
    assert resnets.choose(found, arrays, "teacher").prefix == "teacher.backbone."
    for wrong in ("backbone", "teach", "tutor\n"):
        with pytest.raises(base.InputError, match=r"must name one of the networks") as error:
            resnets.choose(found, arrays, wrong)
        assert str(error.value).isprintable()


def test_a_network_that_is_registered_twice_is_one():
    once = state("resnet18")
    arrays = {prefix + name: value for prefix in ("model.", "model_b.") for name, value in once.items()}
    assert resnets.choose(resnets.find(arrays), arrays, "").prefix == "model."


def test_what_is_left_out_beside_a_network_is_named():
    arrays = {f"module.encoder_q.{name}": value for name, value in state().items()}
    arrays |= {f"module.encoder_k.{name}": value for name, value in state().items()}
    arrays |= {"module.encoder_q.fc.weight": np.ones((128, 2048)), "module.queue": np.ones((3, 4))}
    arrays |= {"module.encoder_k.fc.weight": np.ones((128, 2048)), "text.conv.weight": np.ones((1, 1, 1, 1))}
    read = pytorch_layouts.read(arrays)
    # Beside a second network, the layer on top is the projection of MoCo and no classifier.
    assert "supervised_head/dense/kernel" not in read.by_name and len(read.by_name) == len(state())
    assert {kind: len(names) for kind, names in read.ignored.items()} == {
        "of the network module.encoder_k": len(state()) + 1, "of module.encoder_q.fc": 1, "of module.queue": 1,
        "of text": 1,
    }  # fmt: skip
    assert read.unknown == [] and read.missing == []
