"""torchvision's names: bijective, complete, and with the layouts turned the right way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.interop import torchvision, variables
from simclr_jax.models import resnet

Shapes = dict[str, tuple[int, ...]]


def norm_shapes(name: str, width: int) -> Shapes:
    return {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def state_shapes(name: str) -> Shapes:
    """Names and shapes of torchvision's resnet18 or resnet50 with 1000 classes, written down from its layout."""
    blocks, bottleneck = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}[name]
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm_shapes("bn1", 64)}
    before = 64
    for layer, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        after = 4 * width if bottleneck else width
        for block in range(count):
            prefix = f"layer{layer}.{block}"
            if bottleneck:
                convolutions = [(width, before, 1, 1), (width, width, 3, 3), (after, width, 1, 1)]
            else:
                convolutions = [(width, before, 3, 3), (width, width, 3, 3)]
            for number, shape in enumerate(convolutions, start=1):
                shapes |= {f"{prefix}.conv{number}.weight": shape, **norm_shapes(f"{prefix}.bn{number}", shape[0])}
            if block == 0 and (layer > 1 or bottleneck):
                shapes |= {f"{prefix}.downsample.0.weight": (after, before, 1, 1)}
                shapes |= norm_shapes(f"{prefix}.downsample.1", after)
            before = after
    return {**shapes, "fc.weight": (1000, before), "fc.bias": (1000,)}


@functools.cache
def stand_ins(name: str, **arguments) -> dict[str, np.ndarray]:
    """Zeros of no memory by name, shaped like an encoder's variables."""
    encoder = models.make_encoder(name, **arguments)
    images = jnp.zeros((2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    return variables.flatten({"encoder": zeros["params"]}, {"encoder": zeros["batch_stats"]})


def shapes_of(arrays) -> Shapes:
    return {name: value.shape for name, value in arrays.items()}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("resnet18", "resnet50") else pytest.param(name, marks=pytest.mark.slow)
        for name, encoder in models.ENCODERS.items()
        if encoder.func is resnet.ResNet
    ],
)
def test_names_are_bijective_for_every_encoder(name):
    # Thin: the layouts are turned for real, and ResNet-200 is large.
    ours = stand_ins(name, width_multiplier=0.0625)
    theirs = torchvision.to_torchvision(ours)
    assert len(theirs) == len(ours)
    assert shapes_of(torchvision.from_torchvision(theirs)) == shapes_of(ours)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_padding_has_exactly_torchvisions_names_and_shapes(name):
    ours = stand_ins(name, padding="torchvision")
    expected = state_shapes(name)
    width = expected["fc.weight"][1]
    ours |= {"supervised_head/dense/kernel": np.zeros((width, 1000)), "supervised_head/dense/bias": np.zeros(1000)}
    assert shapes_of(torchvision.to_torchvision(ours)) == expected


def test_reference_padding_adds_only_the_projection_of_resnet18s_first_group():
    ours = {name: torchvision.to_torchvision(stand_ins(name)) for name in ("resnet18", "resnet50")}
    extra = shapes_of(ours["resnet18"]).items() - state_shapes("resnet18").items()
    assert dict(extra) == {
        "layer1.0.downsample.0.weight": (64, 64, 1, 1), **norm_shapes("layer1.0.downsample.1", 64)
    }  # fmt: skip
    assert shapes_of(ours["resnet50"]).items() <= state_shapes("resnet50").items()


def test_kernels_are_turned_entry_by_entry():
    kernel = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    dense = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = {"encoder/stem/conv1/kernel": kernel, "supervised_head/dense/kernel": dense}
    state = torchvision.to_torchvision(names)
    for row, column, inside, outside in np.ndindex(kernel.shape):
        assert state["conv1.weight"][outside, inside, row, column] == kernel[row, column, inside, outside]
    for inside, outside in np.ndindex(dense.shape):
        assert state["fc.weight"][outside, inside] == dense[inside, outside]
    assert all(value.flags.c_contiguous for value in state.values())
    back = torchvision.from_torchvision(state)
    for name, value in names.items():
        np.testing.assert_array_equal(back[name], value)


def test_batch_norm_leaves_go_to_their_namesakes():
    ours = {f"encoder/block_group3/block2/proj_bn/{leaf}": np.full(2, i) for i, leaf in enumerate(
        ("scale", "bias", "mean", "var"))}  # fmt: skip
    state = torchvision.to_torchvision(ours)
    prefix = "layer3.1.downsample.1"
    found = [state[f"{prefix}.{leaf}"][0] for leaf in ("weight", "bias", "running_mean", "running_var")]
    assert found == [0, 1, 2, 3]
    assert shapes_of(torchvision.from_torchvision(state)) == shapes_of(ours)


def test_blocks_are_counted_from_one_here_and_from_zero_there():
    ours = {"encoder/block_group3/block24/conv3/kernel": np.zeros((1, 1, 2, 2), np.float32)}
    state = torchvision.to_torchvision(ours)
    assert list(state) == ["layer3.23.conv3.weight"]
    assert list(torchvision.from_torchvision(state)) == list(ours)


def test_num_batches_tracked_is_ignored():
    assert torchvision.from_torchvision({"bn1.num_batches_tracked": np.int64(3)}) == {}


@pytest.mark.parametrize("options", [{"sk_ratio": 0.0625}, {"se_ratio": 0.25}])
def test_what_torchvision_has_no_place_for_is_refused(options):
    with pytest.raises(base.InputError, match="has no place for encoder/") as caught:
        torchvision.to_torchvision(stand_ins("resnet10", width_multiplier=0.0625, **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["module.conv1.weight", "conv1.weights", "conv1", "layer1.conv1.weight", "head.weight", "conv1.bias.x", ""]
)
def test_names_that_torchvision_does_not_have_are_refused(name):
    with pytest.raises(base.InputError, match="A torchvision ResNet has"):
        torchvision.from_torchvision({name: np.zeros((1, 1, 1, 1), np.float32)})
