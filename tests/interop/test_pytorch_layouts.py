"""State dicts of PyTorch programs: each of their names is the variable that it stands for there."""

import numpy as np
import pytest

from simclr_jax.interop import pytorch_layouts, torchvision
from tests.interop import test_torchvision

RNG = np.random.default_rng(0)
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def simclrv2_modules(*, selective: bool, num_proj_layers: int) -> list[tuple[str, str]]:
    """(their module, ours), in the order in which SimCLRv2-Pytorch builds a ResNet-50."""
    stem = [("0", "conv1"), ("1.0", "bn1"), ("2", "conv2"), ("3.0", "bn2"), ("4", "conv3"), ("5.0", "bn3")]
    rows = [(f"resnet.net.0.{a}", f"encoder/stem/{b}") for a, b in (stem if selective else stem[:2])]
    plain = [("0", "conv1"), ("1.0", "bn1"), ("2", "conv2"), ("3.0", "bn2"), ("4", "conv3"), ("5.0", "bn3")]
    mixed = [("0", "conv1"), ("1.0", "bn1"), ("2.main_conv.0", "sk/conv"), ("2.main_conv.1.0", "sk/bn")]
    mixed += [("2.mixing_conv.0", "sk/squeeze_conv"), ("2.mixing_conv.1.0", "sk/squeeze_bn")]
    mixed += [("2.mixing_conv.2", "sk/expand_conv"), ("3", "conv3"), ("4.0", "bn3")]
    for group, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            theirs, ours = f"resnet.net.{group}.blocks.{block}", f"encoder/block_group{group}/block{block + 1}"
            if block == 0:
                rows.append((f"{theirs}.projection.shortcut" + ".2" * selective, f"{ours}/proj_conv"))
                rows.append((f"{theirs}.projection.bn.0", f"{ours}/proj_bn"))
            rows += [(f"{theirs}.net.{a}", f"{ours}/{b}") for a, b in (mixed if selective else plain)]
    for layer in range(num_proj_layers):
        rows.append((f"head.layers.{3 * layer}", f"projection_head/dense{layer + 1}"))
        rows.append((f"head.layers.{3 * layer + 1}", f"projection_head/bn{layer + 1}"))
    return rows


def simclrv2_state(*, selective: bool, num_proj_layers: int = 3):
    """(state, our variables): every array differs, kernels have four different sides."""
    state, expected = {}, {}
    for theirs, ours in simclrv2_modules(selective=selective, num_proj_layers=num_proj_layers):
        if "bn" in ours:
            last = ours == f"projection_head/bn{num_proj_layers}"
            for leaf, our_leaf in NORM.items():
                state[f"{theirs}.{leaf}"] = RNG.normal(size=3) * (not (last and leaf == "bias"))
                if not (last and leaf == "bias"):
                    expected[f"{ours}/{our_leaf}"] = state[f"{theirs}.{leaf}"]
            state[f"{theirs}.num_batches_tracked"] = np.zeros((), np.int64)
        else:
            kernel = RNG.normal(size=(2, 3) if "dense" in ours else (1, 2, 3, 4))
            expected[f"{ours}/kernel"] = kernel
            state[f"{theirs}.weight"] = kernel.T if kernel.ndim == 2 else np.transpose(kernel, (3, 2, 0, 1))
    state["resnet.fc.weight"], state["resnet.fc.bias"] = RNG.normal(size=(5, 3)), RNG.normal(size=5)
    expected["supervised_head/dense/kernel"] = state["resnet.fc.weight"].T
    expected["supervised_head/dense/bias"] = state["resnet.fc.bias"]
    return state, expected


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("prefix", ["resnet.", ""])
def test_every_entry_of_simclrv2_pytorch_is_its_variable(selective, prefix):
    state, expected = simclrv2_state(selective=selective)
    state = {prefix + name.removeprefix("resnet."): v for name, v in state.items() if name[:4] != "head"} | {
        name: v for name, v in state.items() if name[:4] == "head"
    }
    read = pytorch_layouts.read(state)
    assert read.layout == "PyTorch conversion of SimCLRv2"
    assert_same(read.by_name, expected)
    assert read.unknown == [] and read.padding == "reference" and read.torchvision == {}
    assert read.ignored["the zero bias of the last BatchNorm"] == ["head.layers.7.bias"]
    assert len(read.ignored["BatchNorm's counters"]) == sum("bn" in ours for _, ours in simclrv2_modules(
        selective=selective, num_proj_layers=3))  # fmt: skip


def test_a_last_bias_that_is_not_zero_is_kept_so_that_the_shapes_refuse_it():
    state, _ = simclrv2_state(selective=False)
    state["head.layers.7.bias"] = np.ones(3)
    assert "projection_head/bn3/bias" in pytorch_layouts.read_simclrv2(state).by_name


def test_what_simclrv2_pytorch_does_not_have_is_unknown():
    state, _ = simclrv2_state(selective=False)
    extra = {"resnet.net.1.blocks.0.net.9.weight": np.ones(1), "queue": np.ones(1), "head.layers.2.weight": np.ones(1)}
    assert pytorch_layouts.read_simclrv2(state | extra).unknown == list(extra)


def torchvision_state(*, projection_first: bool = False) -> dict[str, np.ndarray]:
    """A ResNet-50 of one number an entry, in the order in which torchvision or simclr-converter lists it."""
    shapes = test_torchvision.state_shapes("resnet50")
    order = sorted(shapes, key=lambda name: "downsample" not in name) if projection_first else list(shapes)
    state = {name: np.broadcast_to(RNG.random(), shapes[name]) for name in order}
    return state | {"bn1.num_batches_tracked": np.zeros((), np.int64)}


@pytest.mark.few(2)
@pytest.mark.parametrize("prefix", ["", "module.", "online_encoder.net."])
def test_torchvisions_names_are_found_behind_any_prefix(prefix):
    state = torchvision_state()
    weights = {name: value for name, value in state.items() if "num_batches" not in name}
    read = pytorch_layouts.read({prefix + name: value for name, value in state.items()})
    assert_same(read.by_name, torchvision.from_torchvision(weights))
    assert_same(read.torchvision, weights)
    assert read.unknown == [] and read.padding == "torchvision" and not read.note
    assert read.ignored == {"BatchNorm's counters": [prefix + "bn1.num_batches_tracked"]}


def test_what_is_inside_a_network_and_no_head_is_unknown():
    state = {"module.encoder." + name: value for name, value in torchvision_state().items()}
    names = ["module.encoder.conv2.weight", "module.encoder.mean", "module.encoder.pool.p"]
    extra = dict(zip(names, [np.ones((3, 3, 3, 3)), np.ones((1, 3, 1, 1)), np.ones(1)], strict=True))
    assert pytorch_layouts.read(state | extra).unknown == names


@pytest.mark.parametrize("name", ["projector.0.weight", "fc.2.weight", "prototypes.weight"])
def test_dense_layers_that_are_no_classifier_are_left_out(name):
    state = {key: value for key, value in torchvision_state().items() if key[:2] != "fc"}
    read = pytorch_layouts.read(state | {name: np.ones((2, 3))})
    assert read.unknown == [] and read.ignored[f"of {name.split('.')[0]}"] == [name]
    assert not any(ours.startswith("supervised_head") for ours in read.by_name)


def test_an_incomplete_network_is_read_for_the_shapes_to_say_what_is_missing():
    state = {"net." + name: value for name, value in torchvision_state().items() if name != "bn1.bias"}
    read = pytorch_layouts.read(state | {"net.conv1.0.weight": np.ones(1)})
    assert len(read.by_name) == len(state) - 1 and read.unknown == ["net.conv1.0.weight"]


def test_our_own_projection_head_beside_a_prefix_is_kept():
    state = {"encoder." + name: value for name, value in torchvision_state().items()}
    read = pytorch_layouts.read(state | {"projection_head.dense1.weight": np.ones((2, 3))})
    assert read.by_name["projection_head/dense1/kernel"].shape == (3, 2) and read.unknown == []


def test_simclr_converter_shows_by_listing_the_projection_first():
    read = pytorch_layouts.read(torchvision_state(projection_first=True))
    assert "simclr-converter" in read.layout and read.padding == "reference" and "random bias" in read.note


@pytest.mark.parametrize(
    "names", [["conv1.weight"], ["layer1.0.conv1.weight"], ["myconv1.weight", "mylayer1.0.conv1.weight"], []]
)
def test_other_names_are_of_no_known_layout(names):
    assert pytorch_layouts.read(dict.fromkeys(names, np.ones((1, 3, 1, 1)))) is None
