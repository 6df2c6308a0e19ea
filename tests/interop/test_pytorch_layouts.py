"""State dicts of PyTorch programs: each of their names is the variable that it stands for there."""

import numpy as np
import pytest

from simclr_jax.interop import pytorch_layouts, torchvision

RNG = np.random.default_rng(0)
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def simclrv2_modules(*, selective: bool, head_layers: int) -> list[tuple[str, str]]:
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
    for layer in range(head_layers):
        rows.append((f"head.layers.{3 * layer}", f"projection_head/dense{layer + 1}"))
        rows.append((f"head.layers.{3 * layer + 1}", f"projection_head/bn{layer + 1}"))
    return rows


def simclrv2_state(*, selective: bool, head_layers: int = 3):
    """(state, our variables): every array differs, kernels have four different sides."""
    state, expected = {}, {}
    for theirs, ours in simclrv2_modules(selective=selective, head_layers=head_layers):
        if "bn" in ours:
            last = ours == f"projection_head/bn{head_layers}"
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
    assert pytorch_layouts.is_simclrv2(state) and not pytorch_layouts.is_torchvision(state)
    read = pytorch_layouts.read_simclrv2(state)
    assert_same(read.by_name, expected)
    assert read.unknown == [] and read.padding == "reference" and read.torchvision == {}
    assert read.ignored["the zero bias of the last BatchNorm"] == ["head.layers.7.bias"]
    assert len(read.ignored["BatchNorm's counters"]) == sum("bn" in ours for _, ours in simclrv2_modules(
        selective=selective, head_layers=3))  # fmt: skip


def test_a_last_bias_that_is_not_zero_is_kept_so_that_the_shapes_refuse_it():
    state, _ = simclrv2_state(selective=False)
    state["head.layers.7.bias"] = np.ones(3)
    assert "projection_head/bn3/bias" in pytorch_layouts.read_simclrv2(state).by_name


def test_what_simclrv2_pytorch_does_not_have_is_unknown():
    state, _ = simclrv2_state(selective=False)
    extra = {"resnet.net.1.blocks.0.net.9.weight": np.ones(1), "queue": np.ones(1), "head.layers.2.weight": np.ones(1)}
    assert pytorch_layouts.read_simclrv2(state | extra).unknown == list(extra)


def torchvision_state(*, projection_first: bool = False) -> dict[str, np.ndarray]:
    """The beginning of a bottleneck network, in the order in which torchvision or simclr-converter lists it."""
    block = {f"layer1.0.conv{i}.weight": RNG.normal(size=(4, 3, 2, 1)) for i in (1, 2, 3)}
    block |= {f"layer1.0.bn{i}.{leaf}": RNG.normal(size=3) for i in (1, 2, 3) for leaf in NORM}
    projection = {"layer1.0.downsample.0.weight": RNG.normal(size=(4, 3, 1, 1))}
    projection |= {f"layer1.0.downsample.1.{leaf}": RNG.normal(size=3) for leaf in NORM}
    stem = {"conv1.weight": RNG.normal(size=(4, 3, 7, 7)), "bn1.num_batches_tracked": np.zeros((), np.int64)}
    return stem | (projection | block if projection_first else block | projection) | {"fc.bias": RNG.normal(size=5)}


PREFIXES = ["", "module.", "model.", "encoder.", "backbone.", "module.encoder_q.", "model.backbone.", "resnet."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_torchvisions_names_are_found_behind_the_usual_prefixes(prefix):
    state = torchvision_state()
    weights = {name: value for name, value in state.items() if "num_batches" not in name}
    wrapped = {prefix + name: value for name, value in state.items()}
    assert pytorch_layouts.is_torchvision(wrapped) and not pytorch_layouts.is_simclrv2(wrapped)
    read = pytorch_layouts.read_torchvision(wrapped)
    assert_same(read.by_name, torchvision.from_torchvision(weights))
    assert_same(read.torchvision, weights)
    assert read.unknown == [] and read.padding == "torchvision" and not read.note
    assert read.ignored == {"BatchNorm's counters": [prefix + "bn1.num_batches_tracked"]}


def test_names_outside_the_prefix_and_other_stems_are_unknown():
    state = {"module.encoder_q." + name: value for name, value in torchvision_state().items()}
    names = ["module.queue", "module.encoder_q.fc.0.weight", "module.encoder_q.conv1.0.weight", "fc.weight"]
    extra = dict.fromkeys(names, np.ones((3, 3)))
    assert pytorch_layouts.read_torchvision(state | extra).unknown == list(extra)


def test_our_own_projection_head_beside_a_prefix_is_kept():
    state = {"encoder." + name: value for name, value in torchvision_state().items()}
    read = pytorch_layouts.read_torchvision(state | {"projection_head.dense1.weight": np.ones((2, 3))})
    assert read.by_name["projection_head/dense1/kernel"].shape == (3, 2) and read.unknown == []


def test_simclr_converter_shows_by_listing_the_projection_first():
    read = pytorch_layouts.read_torchvision(torchvision_state(projection_first=True))
    assert "simclr-converter" in read.layout and read.padding == "reference" and "random bias" in read.note


@pytest.mark.parametrize(
    "names", [["conv1.weight"], ["layer1.0.conv1.weight"], ["my.conv1.weight", "my.layer1.0.conv1.weight"]]
)
def test_other_names_are_not_torchvisions(names):
    assert not pytorch_layouts.is_torchvision(names)
