"""The network that a set of variables belongs to, read back from the shapes of the networks we build."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.interop import detect
from simclr_jax.models import resnet

CASES = [
    {"name": "resnet10", "width_multiplier": 0.0625, "stem": "cifar"},
    {"name": "resnet18", "padding": "torchvision"},
    {"name": "resnet50", "width_multiplier": 0.03125, "sk_ratio": 0.0625},
    {"name": "wide_resnet50_2", "group_sizes": (1, 2), "width_multiplier": 0.25, "stem": "cifar"},
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in [
            {"name": "resnet18", "width_multiplier": 2.0},
            {"name": "resnet10", "group_sizes": (3, 1, 2), "stem": "cifar"},
            {"name": "wide_resnet101_2", "padding": "torchvision"},
            {"name": "resnet34", "width_multiplier": 0.25, "sk_ratio": 0.0625},
            {"name": "resnet34", "width_multiplier": 0.5, "se_ratio": 0.25},
            {"name": "resnet50", "width_multiplier": 4.0, "padding": "torchvision"},
            {"name": "resnet50", "sk_ratio": 0.25},
            {"name": "resnet50", "stem": "cifar", "sk_ratio": 0.0625},
            {"name": "resnet50", "width_multiplier": 0.1, "se_ratio": 0.0625},
            {"name": "resnet101", "width_multiplier": 3.0, "sk_ratio": 0.0625},
        ]
    ),
]
KEYS = ("name", "group_sizes", "stem", "sk_ratio", "padding")
DEFAULTS = {"width_multiplier": 1.0, "stem": "imagenet", "sk_ratio": 0.0, "se_ratio": 0.0, "padding": "reference"}


def shapes_by_name(encoder) -> dict[str, np.ndarray]:
    """Arrays without content: only names and shapes are looked at."""
    return dict(_shapes_by_name(encoder))


@functools.cache
def _shapes_by_name(encoder) -> dict[str, np.ndarray]:
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    tree = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), image)
    leaves = jax.tree.leaves_with_path(tree)
    names = ["encoder/" + jax.tree_util.keystr(path[1:], simple=True, separator="/") for path, _ in leaves]
    return {name: np.broadcast_to(np.float32(0), leaf.shape) for name, (_, leaf) in zip(names, leaves, strict=True)}


def test_the_structures_are_those_of_the_encoders():
    kinds = {
        resnet.BasicBlock: (False, 1),
        resnet.BottleneckBlock: (True, 1),
        resnet.WideBottleneckBlock: (True, 2),
    }
    nets = {name: encoder() for name, encoder in models.ENCODERS.items() if encoder.func is resnet.ResNet}
    for name, net in nets.items():
        assert detect.STRUCTURES[name] == (net.group_sizes, *kinds[net.block])
    assert detect.STRUCTURES.keys() == nets.keys()


@pytest.mark.few(3)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_the_arguments_of_an_encoder_are_read_back_from_its_variables(case):
    found = detect.find_architecture(
        shapes_by_name(models.make_encoder(**case)), padding=case.get("padding", "reference")
    )
    arguments = {**DEFAULTS, **case}
    assert {key: found.encoder.get(key, ()) for key in KEYS} == {key: arguments.get(key, ()) for key in KEYS}
    # Thin networks round down, so another factor may be found; what it builds is the same.
    assert shapes_of(found.encoder) == shapes_of(arguments)
    assert (found.num_proj_layers, found.proj_out_dim, found.num_classes) == (0, 0, 0)


def shapes_of(arguments) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in shapes_by_name(models.make_encoder(**arguments)).items()}


@pytest.mark.parametrize(("padding", "expected"), [("reference", "reference"), ("torchvision", "torchvision")])
def test_a_bottleneck_network_is_padded_as_its_layout_says(padding, expected):
    found = detect.find_architecture(shapes_by_name(models.make_encoder("resnet50")), padding=padding)
    assert found.encoder["padding"] == expected


def test_a_basic_block_shows_its_padding_whatever_the_layout_says():
    for padding in ("reference", "torchvision"):
        by_name = shapes_by_name(models.make_encoder("resnet18", padding=padding))
        for said in ("reference", "torchvision"):
            assert detect.find_architecture(by_name, padding=said).encoder["padding"] == padding


def test_heads_are_counted_and_measured():
    by_name = shapes_by_name(models.make_encoder("resnet10", width_multiplier=0.0625))
    by_name |= {f"projection_head/dense{i}/kernel": np.zeros((32, 32 if i < 3 else 7)) for i in (1, 2, 3)}
    by_name |= {f"projection_head/bn{i}/bias": np.zeros(32) for i in (1, 2)}
    by_name |= {"supervised_head/dense/kernel": np.zeros((32, 11))}
    found = detect.find_architecture(by_name, padding="reference")
    assert (found.num_proj_layers, found.head_stored, found.proj_out_dim, found.num_classes) == (3, 3, 7, 11)


def test_a_head_whose_last_batch_norm_has_a_bias_was_cut_off():
    by_name = shapes_by_name(models.make_encoder("resnet10", width_multiplier=0.0625))
    by_name |= {"projection_head/dense1/kernel": np.zeros((32, 32)), "projection_head/bn1/bias": np.zeros(32)}
    found = detect.find_architecture(by_name, padding="reference")
    assert (found.num_proj_layers, found.head_stored, found.proj_out_dim) == (2, 1, 0)


def test_blocks_that_are_not_numbered_in_a_row_are_refused():
    by_name = shapes_by_name(models.make_encoder("resnet18", width_multiplier=0.0625))
    short = {name: value for name, value in by_name.items() if "block_group3/block1" not in name}
    with pytest.raises(base.InputError, match="counted from 1 in every group; got 2-2-1-2 blocks"):
        detect.find_architecture(short, padding="reference")
    with pytest.raises(base.InputError, match="got no blocks"):
        detect.find_architecture({"encoder/x": np.zeros(1)}, padding="reference")


def test_a_missing_first_kernel_is_named():
    by_name = shapes_by_name(models.make_encoder("resnet18", width_multiplier=0.0625))
    del by_name["encoder/block_group4/block1/conv1/kernel"]
    with pytest.raises(base.InputError, match="block_group4/block1/conv1/kernel"):
        detect.find_architecture(by_name, padding="reference")
