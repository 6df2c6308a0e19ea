"""An encoder as an ONNX graph: weights inside, any batch size and, but for transformers, any image size.

What belongs here: the model around the graph of `onnx_networks`. It is written by hand, as programs that translate JAX
take the shapes of one call for those of all.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simclr_jax.interop import card, files, onnx_networks, onnx_nodes

OPSET = 17
FAMILIES = tuple(onnx_networks.NETWORKS)  # as `card.family` calls them


def make_model(
    by_name: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any],
    *,
    channel_groups: Callable[[int], int] | None = None,
) -> bytes:
    """The frozen encoder as an ONNX model: images float32 [n, 3, height, width] in [0, 1] -> h float32 [n, D].

    Of a vision transformer height and width are those of the images that its positions are for.
    It computes in float32, also where the run computes in bfloat16, and normalises by the moving averages.

    Args:
        by_name: the encoder's variables; of a vision transformer "encoder/positions", also where these are fixed, with
            a row for the class token and for each patch of a square image.
        arguments: all arguments of `models.make_encoder`.
        channel_groups: channels -> groups of GroupNorm (`models.norms.num_channel_groups`); None for a BatchNorm.

    Raises:
        base.InputError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise files.missing_library("'simclr-jax[onnx]'", "onnx", "ONNX") from error
    graph = onnx_nodes.Graph(onnx.helper, onnx.numpy_helper, by_name, [], {}, channel_groups)
    h = onnx_networks.add_network(graph, arguments)
    graph.nodes.append(onnx.helper.make_node("Identity", [h], ["h"]))
    width = onnx_networks.representation_size(graph, arguments)
    whole = onnx.helper.make_graph(
        graph.nodes,
        arguments["name"],
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, *_sides(by_name, arguments)])],
        [onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["n", width])],
        [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    # The oldest version of the file that has this opset, so that older programs read it.
    model = onnx.helper.make_model(whole, opset_imports=[opset], ir_version=8, producer_name="simclr_jax")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _sides(by_name: Mapping[str, np.ndarray], arguments: Mapping[str, Any]) -> tuple[int | str, int | str]:
    """Height and width of the input, by name where they are free."""
    if card.family(arguments) != "vit":
        return "height", "width"
    patches = len(by_name["encoder/positions"]) - ("encoder/class_token" in by_name)
    side = arguments["patch_size"] * math.isqrt(patches)
    return side, side
