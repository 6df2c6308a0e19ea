"""An encoder as an ONNX graph: one operator for each layer, weights inside, any batch and image size.

What belongs here: which operators our ResNets are. The graph is written by hand, as programs that translate JAX take
the shapes of one call for those of all.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.interop import detect, files

OPSET = 17
_EPSILON = 1e-5  # of all normalisations, as in models.norms


class _Graph(NamedTuple):
    """What is being written: onnx.helper and onnx.numpy_helper, the weights, the nodes and constants so far."""

    helper: Any
    arrays: Any
    weights: Mapping[str, np.ndarray]
    nodes: list[Any]
    constants: dict[str, np.ndarray]
    channel_groups: Callable[[int], int] | None


def make_model(
    by_name: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any],
    *,
    channel_groups: Callable[[int], int] | None = None,
) -> bytes:
    """The frozen encoder as an ONNX model: images float32 [n, 3, height, width] in [0, 1] -> h float32 [n, D].

    It computes in float32, also where the run computes in bfloat16, and normalises by the moving averages.

    Args:
        by_name: the encoder's variables.
        arguments: all arguments of `models.make_encoder`.
        channel_groups: channels -> groups of GroupNorm (`models.norms.num_channel_groups`); None for a BatchNorm.

    Raises:
        base.InputError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise files.missing_library("'simclr-jax[onnx]'", "onnx", "ONNX") from error
    graph = _Graph(onnx.helper, onnx.numpy_helper, by_name, [], {}, channel_groups)
    h = _add(graph, "Flatten", [_add(graph, "GlobalAveragePool", [_network(graph, arguments)])])
    graph.nodes.append(onnx.helper.make_node("Identity", [h], ["h"]))
    structure = detect.structure(arguments)
    last = f"encoder/block_group{len(structure.sizes)}/block1/{'conv3' if structure.bottleneck else 'conv1'}/kernel"
    width = by_name[last].shape[-1]
    whole = onnx.helper.make_graph(
        graph.nodes,
        arguments["name"],
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["n", width])],
        [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    # The oldest version of the file that has this opset, so that older programs read it.
    model = onnx.helper.make_model(whole, opset_imports=[opset], ir_version=8, producer_name="simclr_jax")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _add(graph: _Graph, kind: str, inputs: list[str], **attributes: Any) -> str:
    """A node behind all others; the name of its result."""
    name = f"{kind}{len(graph.nodes)}"
    graph.nodes.append(graph.helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name


def _constant(graph: _Graph, name: str, value: Any, dtype: Any = np.float32) -> str:
    graph.constants[name] = np.ascontiguousarray(value, dtype)
    return name


def _network(graph: _Graph, arguments: Mapping[str, Any]) -> str:
    """Normalisation of the images, stem and blocks; the last map [n, D, h, w]."""
    x = "images"
    for kind, name in (("Sub", "mean"), ("Div", "std")):
        if len(arguments[name]):
            x = _add(graph, kind, [x, _constant(graph, name, np.reshape(arguments[name], (1, 3, 1, 1)))])
    is_small = arguments["stem"] == "cifar"
    for number in (1, 2, 3):
        if f"encoder/stem/conv{number}/kernel" in graph.weights:
            x = _conv(graph, x, f"encoder/stem/conv{number}", strides=2 if number == 1 and not is_small else 1)
            x = _norm(graph, x, f"encoder/stem/bn{number}", relu=True)
    if not is_small:
        # SAME_UPPER is the reference's rule: even sides are padded at their end only.
        same = arguments["padding"] == "reference"
        pads = {"auto_pad": "SAME_UPPER"} if same else {"pads": [1, 1, 1, 1]}
        x = _add(graph, "MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], **pads)
    for group, num_blocks in enumerate(detect.structure(arguments).sizes, start=1):
        for block in range(1, num_blocks + 1):
            strides = 2 if group > 1 and block == 1 else 1
            smooth = arguments["sk_ratio"] > 0
            x = _block(graph, x, f"encoder/block_group{group}/block{block}", strides=strides, smooth=smooth)
    return x


def _block(graph: _Graph, x: str, name: str, *, strides: int, smooth: bool) -> str:
    """A residual block; which layers it has, its weights say."""
    residual = x
    if f"{name}/proj_conv/kernel" in graph.weights:
        shortcut = _mean_pool(graph, x, strides) if smooth else x
        shortcut = _conv(graph, shortcut, f"{name}/proj_conv", strides=1 if smooth else strides)
        residual = _norm(graph, shortcut, f"{name}/proj_bn")
    is_bottleneck = f"{name}/conv3/kernel" in graph.weights
    x = _conv(graph, x, f"{name}/conv1", strides=1 if is_bottleneck else strides)
    x = _norm(graph, x, f"{name}/bn1", relu=True)
    if f"{name}/sk/conv/kernel" in graph.weights:
        x = _selective(graph, x, f"{name}/sk", strides=strides)
    else:
        x = _conv(graph, x, f"{name}/conv2", strides=strides if is_bottleneck else 1)
        x = _norm(graph, x, f"{name}/bn2", relu=is_bottleneck)
    if is_bottleneck:
        x = _norm(graph, _conv(graph, x, f"{name}/conv3"), f"{name}/bn3")
    if f"{name}/se/squeeze_conv/kernel" in graph.weights:
        share = _conv(graph, _add(graph, "GlobalAveragePool", [x]), f"{name}/se/squeeze_conv")
        share = _conv(graph, _add(graph, "Relu", [share]), f"{name}/se/expand_conv")
        x = _add(graph, "Mul", [x, _add(graph, "Sigmoid", [share])])
    return _add(graph, "Relu", [_add(graph, "Add", [x, residual])])


def _selective(graph: _Graph, x: str, name: str, *, strides: int) -> str:
    """Two streams, mixed by a softmax over them, which is a sigmoid of the difference."""
    both = _norm(graph, _conv(graph, x, f"{name}/conv", strides=strides), f"{name}/bn", relu=True)
    first, second = _halves(graph, both)
    squeezed = _add(graph, "GlobalAveragePool", [_add(graph, "Add", [first, second])])
    squeezed = _norm(graph, _conv(graph, squeezed, f"{name}/squeeze_conv"), f"{name}/squeeze_bn", relu=True)
    logits = _halves(graph, _conv(graph, squeezed, f"{name}/expand_conv"))
    share = _add(graph, "Sigmoid", [_add(graph, "Sub", list(logits))])
    rest = _add(graph, "Sub", [_constant(graph, "one", 1.0), share])
    return _add(graph, "Add", [_add(graph, "Mul", [first, share]), _add(graph, "Mul", [second, rest])])


def _halves(graph: _Graph, x: str) -> tuple[str, str]:
    name = f"Split{len(graph.nodes)}"
    halves = (f"{name}.first", f"{name}.second")
    graph.nodes.append(graph.helper.make_node("Split", [x], list(halves), name=name, axis=1))
    return halves


def _conv(graph: _Graph, x: str, name: str, *, strides: int = 1) -> str:
    kernel = graph.weights[f"{name}/kernel"]
    before, after = (kernel.shape[0] - 1) // 2, kernel.shape[0] // 2
    inputs = [x, _constant(graph, f"{name}/kernel", kernel.transpose(3, 2, 0, 1))]
    if f"{name}/bias" in graph.weights:
        inputs.append(_constant(graph, f"{name}/bias", graph.weights[f"{name}/bias"]))
    return _add(graph, "Conv", inputs, strides=[strides] * 2, pads=[before, before, after, after])


def _norm(graph: _Graph, x: str, name: str, *, relu: bool = False) -> str:
    leaves = {leaf: graph.weights.get(f"{name}/{leaf}") for leaf in ("scale", "bias", "mean", "var")}
    if leaves["mean"] is None:
        x = _group_norm(graph, x, name)
    else:
        inputs = [x, *(_constant(graph, f"{name}/{leaf}", value) for leaf, value in leaves.items())]
        x = _add(graph, "BatchNormalization", inputs, epsilon=_EPSILON)
    return _add(graph, "Relu", [x]) if relu else x


def _group_norm(graph: _Graph, x: str, name: str) -> str:
    """GroupNorm as an instance normalisation of the groups, for opset 17 has no GroupNorm."""
    assert graph.channel_groups is not None
    scale, bias = (np.reshape(graph.weights[f"{name}/{leaf}"], (1, -1, 1, 1)) for leaf in ("scale", "bias"))
    groups = graph.channel_groups(scale.size)
    shape = _constant(graph, f"groups{groups}", [0, groups, -1], np.int64)
    ones, zeros = (_constant(graph, f"{kind}s{groups}", [float(kind)] * groups) for kind in "10")
    grouped = _add(graph, "Reshape", [x, shape])
    normal = _add(graph, "InstanceNormalization", [grouped, ones, zeros], epsilon=_EPSILON)
    whole = _add(graph, "Reshape", [normal, _add(graph, "Shape", [x])])
    scaled = _add(graph, "Mul", [whole, _constant(graph, f"{name}/scale", scale)])
    return _add(graph, "Add", [scaled, _constant(graph, f"{name}/bias", bias)])


def _mean_pool(graph: _Graph, x: str, strides: int) -> str:
    """`models.layers.mean_pool`: with stride 1 the last row and column are repeated, with stride 2 zeros follow."""
    ends = _constant(graph, "one_more", [0, 0, 0, 0, 0, 0, 1, 1], np.int64)
    padded = _add(graph, "Pad", [x, ends], mode="edge" if strides == 1 else "constant")
    return _add(graph, "AveragePool", [padded], kernel_shape=[2, 2], strides=[strides] * 2)
