"""Our encoders as the nodes of an ONNX graph: ResNets, vision transformers, ConvNeXts and EfficientNets.

What belongs here: one function a family, (graph, all arguments of `models.make_encoder`) -> the name of h [n, D].
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simclr_jax.interop import card, detect
from simclr_jax.interop import onnx_nodes as nodes

# As in models.efficientnet, which this room cannot see; tests compare the features.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_AS_REFERENCE = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")


def resnet(graph: nodes.Graph, arguments: Mapping[str, Any]) -> str:
    """A ResNet: stem, blocks and the mean over places."""
    x = nodes.normalized_images(graph, arguments)
    is_small = arguments["stem"] == "cifar"
    for number in (1, 2, 3):
        if f"encoder/stem/conv{number}/kernel" in graph.weights:
            x = nodes.conv(graph, x, f"encoder/stem/conv{number}", strides=2 if number == 1 and not is_small else 1)
            x = nodes.norm(graph, x, f"encoder/stem/bn{number}", relu=True)
    if not is_small:
        # SAME_UPPER is the reference's rule: even sides are padded at their end only.
        same = arguments["padding"] == "reference"
        pads = {"auto_pad": "SAME_UPPER"} if same else {"pads": [1, 1, 1, 1]}
        x = nodes.add(graph, "MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], **pads)
    for group, num_blocks in enumerate(detect.structure(arguments).sizes, start=1):
        for block in range(1, num_blocks + 1):
            strides = 2 if group > 1 and block == 1 else 1
            smooth = arguments["sk_ratio"] > 0
            x = _block(graph, x, f"encoder/block_group{group}/block{block}", strides=strides, smooth=smooth)
    return _mean_over_places(graph, x)


def _block(graph: nodes.Graph, x: str, name: str, *, strides: int, smooth: bool) -> str:
    """A residual block; which layers it has, its weights say."""
    residual = x
    if f"{name}/proj_conv/kernel" in graph.weights:
        shortcut = _mean_pool(graph, x, strides) if smooth else x
        shortcut = nodes.conv(graph, shortcut, f"{name}/proj_conv", strides=1 if smooth else strides)
        residual = nodes.norm(graph, shortcut, f"{name}/proj_bn")
    is_bottleneck = f"{name}/conv3/kernel" in graph.weights
    x = nodes.conv(graph, x, f"{name}/conv1", strides=1 if is_bottleneck else strides)
    x = nodes.norm(graph, x, f"{name}/bn1", relu=True)
    if f"{name}/sk/conv/kernel" in graph.weights:
        x = _selective(graph, x, f"{name}/sk", strides=strides)
    else:
        x = nodes.conv(graph, x, f"{name}/conv2", strides=strides if is_bottleneck else 1)
        x = nodes.norm(graph, x, f"{name}/bn2", relu=is_bottleneck)
    if is_bottleneck:
        x = nodes.norm(graph, nodes.conv(graph, x, f"{name}/conv3"), f"{name}/bn3")
    if f"{name}/se/squeeze_conv/kernel" in graph.weights:
        x = nodes.squeeze_excite(graph, x, f"{name}/se", activate=lambda graph, x: nodes.add(graph, "Relu", [x]))
    return nodes.add(graph, "Relu", [nodes.add(graph, "Add", [x, residual])])


def _selective(graph: nodes.Graph, x: str, name: str, *, strides: int) -> str:
    """Two streams, mixed by a softmax over them, which is a sigmoid of the difference."""
    both = nodes.norm(graph, nodes.conv(graph, x, f"{name}/conv", strides=strides), f"{name}/bn", relu=True)
    first, second = nodes.split(graph, both, 2)
    squeezed = nodes.add(graph, "GlobalAveragePool", [nodes.add(graph, "Add", [first, second])])
    squeezed = nodes.norm(graph, nodes.conv(graph, squeezed, f"{name}/squeeze_conv"), f"{name}/squeeze_bn", relu=True)
    logits = nodes.split(graph, nodes.conv(graph, squeezed, f"{name}/expand_conv"), 2)
    share = nodes.add(graph, "Sigmoid", [nodes.add(graph, "Sub", list(logits))])
    rest = nodes.add(graph, "Sub", [nodes.constant(graph, "one", 1.0), share])
    return nodes.add(graph, "Add", [nodes.add(graph, "Mul", [first, share]), nodes.add(graph, "Mul", [second, rest])])


def _mean_pool(graph: nodes.Graph, x: str, strides: int) -> str:
    """`models.layers.mean_pool`: with stride 1 the last row and column are repeated, with stride 2 zeros follow."""
    ends = nodes.constant(graph, "one_more", [0, 0, 0, 0, 0, 0, 1, 1], dtype=np.int64)
    padded = nodes.add(graph, "Pad", [x, ends], mode="edge" if strides == 1 else "constant")
    return nodes.add(graph, "AveragePool", [padded], kernel_shape=[2, 2], strides=[strides] * 2)


def _mean_over_places(graph: nodes.Graph, x: str) -> str:
    return nodes.add(graph, "Flatten", [nodes.add(graph, "GlobalAveragePool", [x])])


def transformer(graph: nodes.Graph, arguments: Mapping[str, Any]) -> str:
    """A vision transformer of any design, with a position for every patch of the one size of images that it takes."""
    positions = graph.weights["encoder/positions"]
    width, is_timms = positions.shape[1], arguments["design"] == "timm"
    epsilon = 1e-6 if is_timms else 1e-5
    x = nodes.normalized_images(graph, arguments)
    x = nodes.conv(graph, x, "encoder/patch_projection", strides=arguments["patch_size"], padding="none")
    x = nodes.add(graph, "Reshape", [x, nodes.constant(graph, "rows", [0, width, -1], dtype=np.int64)])
    x = nodes.add(graph, "Transpose", [x], perm=[0, 2, 1])
    if "encoder/class_token" in graph.weights:
        token = nodes.constant(graph, "encoder/class_token", graph.weights["encoder/class_token"])
        shape = [
            nodes.add(graph, "Shape", [x], end=1),
            nodes.constant(graph, "token_shape", [1, width], dtype=np.int64),
        ]
        token = nodes.add(graph, "Expand", [token, nodes.add(graph, "Concat", shape, axis=0)])
        x = nodes.add(graph, "Concat", [token, x], axis=1)
    x = nodes.add(graph, "Add", [x, nodes.constant(graph, "encoder/positions", positions)])
    x = x if is_timms else nodes.layer_norm(graph, x, "encoder/norm_pre", epsilon=epsilon)
    number = 1
    while f"encoder/block{number}/qkv/kernel" in graph.weights:
        x = _transformer_block(graph, x, f"encoder/block{number}", arguments=arguments, epsilon=epsilon)
        number += 1
    if arguments["pool"] == "token":
        x = nodes.add(graph, "Gather", [x, nodes.constant(graph, "first", 0, dtype=np.int64)], axis=1)
    else:
        x = nodes.add(graph, "ReduceMean", [x], axes=[1], keepdims=0)
    return nodes.layer_norm(graph, x, "encoder/norm", epsilon=epsilon)


def _transformer_block(graph: nodes.Graph, x: str, name: str, *, arguments: Mapping[str, Any], epsilon: float) -> str:
    width = graph.weights[f"{name}/proj/kernel"].shape[0]
    heads = arguments["num_heads"] or width // 64
    y = nodes.dense(graph, nodes.layer_norm(graph, x, f"{name}/norm1", epsilon=epsilon), f"{name}/qkv")
    y = _attention(graph, y, width=width, heads=heads)
    x = nodes.add(graph, "Add", [x, nodes.dense(graph, y, f"{name}/proj")])
    y = nodes.dense(graph, nodes.layer_norm(graph, x, f"{name}/norm2", epsilon=epsilon), f"{name}/mlp1")
    y = nodes.swish(graph, y, factor=1.702) if arguments["design"] == "openai" else nodes.gelu(graph, y)
    return nodes.add(graph, "Add", [x, nodes.dense(graph, y, f"{name}/mlp2")])


def _attention(graph: nodes.Graph, qkv: str, *, width: int, heads: int) -> str:
    """[n, T, 3D] -> [n, T, D]."""
    size = width // heads
    shape = nodes.constant(graph, "of_heads", [0, 0, 3 * heads, size], dtype=np.int64)
    by_head = nodes.add(graph, "Transpose", [nodes.add(graph, "Reshape", [qkv, shape])], perm=[0, 2, 1, 3])
    q, k, v = nodes.split(graph, by_head, 3)
    q = nodes.add(graph, "Mul", [q, nodes.constant(graph, "attention_scale", size**-0.5)])
    scores = nodes.add(graph, "MatMul", [q, nodes.add(graph, "Transpose", [k], perm=[0, 1, 3, 2])])
    seen = nodes.add(graph, "MatMul", [nodes.add(graph, "Softmax", [scores], axis=-1), v])
    seen = nodes.add(graph, "Transpose", [seen], perm=[0, 2, 1, 3])
    return nodes.add(graph, "Reshape", [seen, nodes.constant(graph, "of_tokens", [0, 0, width], dtype=np.int64)])


def convnext(graph: nodes.Graph, arguments: Mapping[str, Any]) -> str:
    """A ConvNeXt; LayerNorm and dense layers take maps with the channels last."""
    x = nodes.normalized_images(graph, arguments)
    x = nodes.channels_last(graph, nodes.conv(graph, x, "encoder/stem/conv", strides=4, padding="none"))
    x = nodes.channels_first(graph, nodes.layer_norm(graph, x, "encoder/stem/norm", epsilon=1e-6))
    stage = 1
    while f"encoder/stage{stage}/block1/layer_scale" in graph.weights:
        down = f"encoder/stage{stage}/downsample"
        if stage > 1:
            x = nodes.layer_norm(graph, nodes.channels_last(graph, x), f"{down}/norm", epsilon=1e-6)
            x = nodes.conv(graph, nodes.channels_first(graph, x), f"{down}/conv", strides=2, padding="none")
        block = 1
        while f"encoder/stage{stage}/block{block}/layer_scale" in graph.weights:
            x = _convnext_block(graph, x, f"encoder/stage{stage}/block{block}")
            block += 1
        stage += 1
    return nodes.layer_norm(graph, _mean_over_places(graph, x), "encoder/norm", epsilon=1e-6)


def _convnext_block(graph: nodes.Graph, x: str, name: str) -> str:
    scale = graph.weights[f"{name}/layer_scale"]
    y = nodes.channels_last(graph, nodes.conv(graph, x, f"{name}/depthwise", groups=scale.size))
    y = nodes.dense(graph, nodes.layer_norm(graph, y, f"{name}/norm", epsilon=1e-6), f"{name}/mlp1")
    y = nodes.dense(graph, nodes.gelu(graph, y), f"{name}/mlp2")
    y = nodes.add(graph, "Mul", [y, nodes.constant(graph, f"{name}/layer_scale", scale)])
    return nodes.add(graph, "Add", [x, nodes.channels_first(graph, y)])


def efficientnet(graph: nodes.Graph, arguments: Mapping[str, Any]) -> str:
    """An EfficientNet, B0 to B7 or lite."""
    x = nodes.normalized_images(graph, arguments)
    x = _conv_norm(graph, x, "encoder/stem", arguments=arguments, strides=2)
    for stage, strides in enumerate(_STRIDES, start=1):
        block = 1
        while f"encoder/stage{stage}/block{block}/project/conv/kernel" in graph.weights:
            name = f"encoder/stage{stage}/block{block}"
            x = _mb_conv(graph, x, name, arguments=arguments, strides=strides if block == 1 else 1)
            block += 1
    return _mean_over_places(graph, _conv_norm(graph, x, "encoder/head", arguments=arguments))


def _mb_conv(graph: nodes.Graph, x: str, name: str, *, arguments: Mapping[str, Any], strides: int) -> str:
    """A block; which layers it has, its weights say."""
    widens = f"{name}/expand/conv/kernel" in graph.weights
    y = _conv_norm(graph, x, f"{name}/expand", arguments=arguments) if widens else x
    y = _conv_norm(graph, y, f"{name}/depthwise", arguments=arguments, strides=strides)
    if f"{name}/se/squeeze_conv/kernel" in graph.weights:
        y = nodes.squeeze_excite(graph, y, f"{name}/se", activate=nodes.swish)
    y = _conv_norm(graph, y, f"{name}/project", arguments=arguments, activate=False)
    first = graph.weights[f"{name}/{'expand' if widens else 'depthwise'}/conv/kernel"]
    channels = first.shape[2] if widens else first.shape[3]
    fits = strides == 1 and channels == graph.weights[f"{name}/project/conv/kernel"].shape[3]
    return nodes.add(graph, "Add", [x, y]) if fits else y


def _conv_norm(
    graph: nodes.Graph, x: str, name: str, *, arguments: Mapping[str, Any], strides: int = 1, activate: bool = True
) -> str:
    is_reference = arguments["padding"] == "reference"
    kernel = graph.weights[f"{name}/conv/kernel"]
    groups = kernel.shape[3] if name.endswith("/depthwise") else 1
    padding = "same" if is_reference else "kernel"
    x = nodes.conv(graph, x, f"{name}/conv", strides=strides, groups=groups, padding=padding)
    epsilon = 1e-3 if is_reference or arguments["name"] in _AS_REFERENCE else 1e-5
    x = nodes.norm(graph, x, f"{name}/bn", epsilon=epsilon)
    if not activate:
        return x
    if "lite" in arguments["name"]:
        limits = [nodes.constant(graph, f"limit{limit}", limit) for limit in (0, 6)]
        return nodes.add(graph, "Clip", [x, *limits])
    return nodes.swish(graph, x)


NETWORKS: dict[str, Callable[[nodes.Graph, Mapping[str, Any]], str]] = {
    "resnet": resnet,
    "vit": transformer,
    "convnext": convnext,
    "efficientnet": efficientnet,
}


def add_network(graph: nodes.Graph, arguments: Mapping[str, Any]) -> str:
    """The nodes of an encoder; the name of h."""
    return NETWORKS[card.family(arguments)](graph, arguments)


def representation_size(graph: nodes.Graph, arguments: Mapping[str, Any]) -> int:
    """D of h, read off the weights."""
    weights = graph.weights
    if "encoder/norm/scale" in weights:
        return int(weights["encoder/norm/scale"].size)
    if "encoder/head/bn/scale" in weights:
        return int(weights["encoder/head/bn/scale"].size)
    structure = detect.structure(arguments)
    last = f"encoder/block_group{len(structure.sizes)}/block1/{'conv3' if structure.bottleneck else 'conv1'}/kernel"
    return int(weights[last].shape[-1])
