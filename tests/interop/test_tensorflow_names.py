"""Every variable of the official checkpoints by name, against the tables that were recorded from the official code."""

import re

import pytest

from simclr_jax.interop import tensorflow_names
from tests import golden

TF1_LAYOUTS = [f"{net}_head{layers}" for net in ("r18_cifar_stem", "r50", "r50_sk") for layers in (2, 3)]
TF2_LAYOUTS = ["r18_cifar_stem_head3", "r50_head3", "r50_sk_head3"]
FULL_SIZE = "full-size R18, R50, R50 SK: names"
CHECKPOINTS = [f"ckpt_{tf}_{net}" for tf in ("tf1", "tf2") for net in ("r18_w0.0625", "r50_sk_w0.03125")]


def our_name(canonical: str) -> str:
    """The golden table says gamma and beta, and leaves out the part "encoder"."""
    name = canonical.replace("/gamma", "/scale").replace("/beta", "/bias")
    return name if name.startswith(("projection_head/", "supervised_head/")) else f"encoder/{name}"


def compare_names(found: dict[str, str], expected: dict[str, str], *, words: str, source: str, compare) -> None:
    """How many variables are found, and how many of them under another name of ours than the recorded one."""
    compare(words, len(found), len(expected), source=source)
    compare(words, sum(expected.get(ours) != theirs for ours, theirs in found.items()), 0, source=source)


def table(canonical, theirs) -> dict[str, str]:
    return {our_name(str(ours)): str(name) for ours, name in zip(canonical, theirs, strict=True)}


@pytest.mark.parametrize("layout", TF1_LAYOUTS)
def test_every_tf1_name_is_the_recorded_variable(layout, compare):
    arrays = golden.load("layouts_tf1")
    expected = table(arrays[f"{layout}/canonical_names"], arrays[f"{layout}/tf1_variable_names"])
    names = tensorflow_names.match_names(expected.values(), ema=False)
    compare_names(names.found, expected, words=FULL_SIZE, source="TF1, TF2", compare=compare)
    assert not names.unknown and not names.missing and not names.ignored


@pytest.mark.parametrize("layout", TF2_LAYOUTS)
def test_every_tf2_key_is_the_recorded_variable(layout, compare):
    arrays = golden.load("layouts_tf2")
    expected = table(arrays[f"{layout}/canonical_names"], arrays[f"{layout}/tf2_checkpoint_keys"])
    names = tensorflow_names.match_names(expected.values(), ema=False)
    compare_names(names.found, expected, words=FULL_SIZE, source="TF1, TF2", compare=compare)
    assert not names.unknown and not names.missing and not names.ignored


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_key_of_a_real_checkpoint_is_a_variable_or_ignored_by_name(checkpoint, compare):
    arrays = golden.load(checkpoint)
    theirs = arrays["variables/tf1_names"] if "tf1" in checkpoint else arrays["canonical_to_key"]
    expected = table(arrays["variables/canonical_names"], theirs)
    # The graph of objects is no variable; the reader of the files leaves it out.
    keys = [str(key) for key in arrays["keys"] if key != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    names = tensorflow_names.match_names(keys, ema=False)
    words = f"{'R18 1/16, CIFAR' if 'r18' in checkpoint else 'R50 SK 1/32'}: names of variables"
    source = checkpoint.split("_")[1].upper()
    compare_names(names.found, expected, words=words, source=source, compare=compare)
    assert not names.unknown and not names.missing
    ignored = [name for kind in names.ignored.values() for name in kind]
    assert sorted([*ignored, *expected.values()]) == sorted(keys)
    assert len(names.ignored.get("optimizer slots", [])) == sum("Momentum" in key for key in keys)


def test_resnet50_numbers_its_projections_as_the_closed_form_says():
    names = tensorflow_names.encoder_names("resnet50")
    at = [names[f"encoder/block_group{group}/block1/proj_conv/kernel"] for group in (1, 2, 3, 4)]
    assert at == [f"base_model/conv2d_{number}/kernel" for number in (1, 11, 24, 43)]
    assert names["encoder/block_group4/block3/conv3/kernel"] == "base_model/conv2d_52/kernel"


@pytest.mark.parametrize(
    ("name", "selective", "num_convs", "num_norms"),
    [("resnet50", False, 53, 53), ("resnet50", True, 87, 71), ("resnet152", True, 257, 207)],
)
def test_encoders_have_as_many_convolutions_and_batch_norms_as_the_official_ones(name, selective, num_convs, num_norms):
    theirs = tensorflow_names.encoder_names(name, selective=selective).values()
    assert sum(name.endswith("/kernel") for name in theirs) == num_convs
    assert sum(name.endswith("/gamma") for name in theirs) == num_norms


def test_squeeze_excitation_comes_last_in_a_block_and_has_biases_and_no_batch_norm():
    names = tensorflow_names.encoder_names("resnet10", excited=True)
    block = "encoder/block_group1/block1"
    order = ["proj_conv", "conv1", "conv2", "se/squeeze_conv", "se/expand_conv"]
    assert [names[f"{block}/{conv}/kernel"] for conv in order] == [f"base_model/conv2d_{i}/kernel" for i in range(1, 6)]
    assert names[f"{block}/se/expand_conv/bias"] == "base_model/conv2d_5/bias"
    assert names["encoder/block_group2/block1/proj_bn/scale"] == "base_model/batch_normalization_4/gamma"
    found = tensorflow_names.match_names(names.values(), ema=False)
    assert found.found == names and not found.unknown and not found.missing


def test_tf2_squeeze_excitation_is_found_behind_both_kinds_of_blocks():
    end = "kernel/.ATTRIBUTES/VARIABLE_VALUE"
    block = "model/resnet_model/block_groups/2/layers/1"
    keys = [
        f"{block}/se_layer/se_reduce/{end}",
        f"{block}/conv_relu_dropblock_layers/9/se_expand/{end}",
    ]
    found = tensorflow_names.match_names(keys, ema=False).found
    parts = ["se/squeeze_conv/kernel", "se/expand_conv/kernel"]
    assert found == {f"encoder/block_group3/block2/{part}": key for part, key in zip(parts, keys, strict=True)}


def test_averaged_weights_are_ignored_or_taken_in_place_of_the_weights():
    arrays = golden.load("layouts_tf1")
    ours = table(arrays["r50_sk_head3/canonical_names"], arrays["r50_sk_head3/tf1_variable_names"])
    averaged = {name: f"ema_model/{theirs}" for name, theirs in ours.items() if "head_supervised" not in theirs}
    names = [*ours.values(), *averaged.values(), "global_step", "base_model/conv2d/kernel/Momentum"]
    assert tensorflow_names.match_names(names, ema=False).found == ours
    taken = tensorflow_names.match_names(names, ema=True)
    assert taken.found == averaged
    assert not taken.unknown and not taken.missing


def test_a_missing_and_a_foreign_name_are_listed_against_the_closest_encoder():
    names = [*tensorflow_names.encoder_names("resnet34").values(), "base_model/batch_normalization/renorm"]
    names.remove("base_model/conv2d_7/kernel")
    found = tensorflow_names.match_names(names, ema=False)
    assert found.missing == ["base_model/conv2d_7/kernel"]
    assert found.unknown == ["base_model/batch_normalization/renorm"]


def test_linear_heads_and_other_optimizers_are_known():
    names = ["head_contrastive/l_0/dense/kernel", "head_contrastive/l_0/batch_normalization/gamma", "beta1_power"]
    names += ["base_model/conv2d/kernel/Adam_1", "memory_bank/rows"]
    found = tensorflow_names.match_names([*names, *tensorflow_names.encoder_names("resnet10").values()], ema=False)
    assert found.found["projection_head/dense1/kernel"] == names[0]
    assert found.found["projection_head/bn1/scale"] == names[1]
    assert sorted(name for kind in found.ignored.values() for name in kind) == sorted(names[2:])


def test_only_official_names_count_as_tensorflow():
    assert tensorflow_names.is_tensorflow(["base_model/conv2d/kernel"])
    assert tensorflow_names.is_tensorflow(["model/resnet_model/x"])
    assert not tensorflow_names.is_tensorflow(["conv1.weight", "encoder/stem/conv1/kernel"])


def test_an_index_beyond_the_network_is_unknown():
    names = [*tensorflow_names.encoder_names("resnet50").values(), "base_model/conv2d_53/kernel"]
    found = tensorflow_names.match_names(names, ema=False)
    assert found.unknown == ["base_model/conv2d_53/kernel"]
    assert not any(re.search("conv2d_53/", name) for name in found.found.values())
