"""The operators of ONNX graphs: what is being written, and the layers that all our networks are made of.

What belongs here: how one layer becomes nodes. Maps are [n, C, h, w], tokens [n, T, D]; weights go by our names.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

EPSILON = 1e-5  # of all normalisations of ResNets, as in models.norms
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


class Graph(NamedTuple):
    """What is being written: onnx.helper and onnx.numpy_helper, the weights, the nodes and constants so far."""

    helper: Any
    arrays: Any
    weights: Mapping[str, np.ndarray]
    nodes: list[Any]
    constants: dict[str, np.ndarray]
    channel_groups: Callable[[int], int] | None


def add(graph: Graph, kind: str, inputs: list[str], **attributes: Any) -> str:
    """A node behind all others; the name of its result."""
    name = f"{kind}{len(graph.nodes)}"
    graph.nodes.append(graph.helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name


def constant(graph: Graph, name: str, value: Any, *, dtype: Any = np.float32) -> str:
    """A constant under a name of its own, which is returned."""
    graph.constants[name] = np.asarray(value, dtype, order="C")
    return name


def normalized_images(graph: Graph, arguments: Mapping[str, Any]) -> str:
    """The input, normalised by the encoder's mean and std if it has any."""
    x = "images"
    for kind, name in (("Sub", "mean"), ("Div", "std")):
        if len(arguments[name]):
            x = add(graph, kind, [x, constant(graph, name, np.reshape(arguments[name], (1, 3, 1, 1)))])
    return x


def split(graph: Graph, x: str, count: int) -> tuple[str, ...]:
    """Equal parts along axis 1."""
    name = f"Split{len(graph.nodes)}"
    parts = tuple(f"{name}.{number}" for number in range(count))
    graph.nodes.append(graph.helper.make_node("Split", [x], list(parts), name=name, axis=1))
    return parts


def conv(graph: Graph, x: str, name: str, *, strides: int = 1, groups: int = 1, padding: str = "kernel") -> str:
    """The convolution `name`; with as many groups as channels, of each channel by itself.

    padding: "kernel": (k-1)//2 in front and the rest behind; "none"; or "same", TensorFlow's.
    """
    kernel = graph.weights[f"{name}/kernel"]
    before, after = (kernel.shape[0] - 1) // 2, kernel.shape[0] // 2
    edges: Mapping[str, dict[str, Any]] = {
        "kernel": {"pads": [before, before, after, after]},
        "none": {"pads": [0] * 4},
        "same": {"auto_pad": "SAME_UPPER"},
    }
    inputs = [x, constant(graph, f"{name}/kernel", kernel.transpose(3, 2, 0, 1))]
    if f"{name}/bias" in graph.weights:
        inputs.append(constant(graph, f"{name}/bias", graph.weights[f"{name}/bias"]))
    return add(graph, "Conv", inputs, strides=[strides] * 2, group=groups, **edges[padding])


def dense(graph: Graph, x: str, name: str) -> str:
    """A dense layer with a bias on the last axis."""
    kernel = constant(graph, f"{name}/kernel", graph.weights[f"{name}/kernel"])
    bias = constant(graph, f"{name}/bias", graph.weights[f"{name}/bias"])
    return add(graph, "Add", [add(graph, "MatMul", [x, kernel]), bias])


def norm(graph: Graph, x: str, name: str, *, relu: bool = False, epsilon: float = EPSILON) -> str:
    """BatchNorm by its moving averages, or GroupNorm, as the weights are; with `relu`, max(., 0) of that."""
    leaves = {leaf: graph.weights.get(f"{name}/{leaf}") for leaf in ("scale", "bias", "mean", "var")}
    if leaves["mean"] is None:
        x = _group_norm(graph, x, name, epsilon=epsilon)
    else:
        inputs = [x, *(constant(graph, f"{name}/{leaf}", value) for leaf, value in leaves.items())]
        x = add(graph, "BatchNormalization", inputs, epsilon=epsilon)
    return add(graph, "Relu", [x]) if relu else x


def _group_norm(graph: Graph, x: str, name: str, *, epsilon: float) -> str:
    """GroupNorm as an instance normalisation of the groups, for opset 17 has no GroupNorm."""
    assert graph.channel_groups is not None
    scale, bias = (np.reshape(graph.weights[f"{name}/{leaf}"], (1, -1, 1, 1)) for leaf in ("scale", "bias"))
    groups = graph.channel_groups(scale.size)
    shape = constant(graph, f"groups{groups}", [0, groups, -1], dtype=np.int64)
    ones, zeros = (constant(graph, f"{kind}s{groups}", [float(kind)] * groups) for kind in "10")
    grouped = add(graph, "Reshape", [x, shape])
    normal = add(graph, "InstanceNormalization", [grouped, ones, zeros], epsilon=epsilon)
    whole = add(graph, "Reshape", [normal, add(graph, "Shape", [x])])
    scaled = add(graph, "Mul", [whole, constant(graph, f"{name}/scale", scale)])
    return add(graph, "Add", [scaled, constant(graph, f"{name}/bias", bias)])


def layer_norm(graph: Graph, x: str, name: str, *, epsilon: float) -> str:
    """LayerNorm over the last axis."""
    inputs = [x, *(constant(graph, f"{name}/{leaf}", graph.weights[f"{name}/{leaf}"]) for leaf in ("scale", "bias"))]
    return add(graph, "LayerNormalization", inputs, epsilon=epsilon)


def channels_last(graph: Graph, x: str) -> str:
    """[n, C, h, w] -> [n, h, w, C]."""
    return add(graph, "Transpose", [x], perm=_TO_LAST)


def channels_first(graph: Graph, x: str) -> str:
    """[n, h, w, C] -> [n, C, h, w]."""
    return add(graph, "Transpose", [x], perm=_TO_FIRST)


def swish(graph: Graph, x: str, *, factor: float = 1.0) -> str:
    """x sigmoid(factor x)."""
    scaled = x if factor == 1 else add(graph, "Mul", [x, constant(graph, "swish_factor", factor)])
    return add(graph, "Mul", [x, add(graph, "Sigmoid", [scaled])])


def gelu(graph: Graph, x: str) -> str:
    """x (1 + erf(x / sqrt(2))) / 2; opset 17 has no such operator."""
    root = add(graph, "Mul", [x, constant(graph, "half_root", math.sqrt(0.5))])
    doubled = add(graph, "Add", [add(graph, "Erf", [root]), constant(graph, "one", 1.0)])
    return add(graph, "Mul", [add(graph, "Mul", [x, constant(graph, "half", 0.5)]), doubled])


def squeeze_excite(graph: Graph, x: str, name: str, *, activate: Callable[[Graph, str], str]) -> str:
    """Every channel times a share that the means over places give."""
    share = conv(graph, add(graph, "GlobalAveragePool", [x]), f"{name}/squeeze_conv")
    share = conv(graph, activate(graph, share), f"{name}/expand_conv")
    return add(graph, "Mul", [x, add(graph, "Sigmoid", [share])])
