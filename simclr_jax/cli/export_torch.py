"""The part of `simclr-jax export` that writes weights under the names of PyTorch's programs.

What belongs here: which networks other programs have, and which file holds what of them.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.interop import card, detection, timm_layouts, torchvision, variables
from simclr_jax.models import vit


def obstacle(by_name: variables.ByName, arguments: Mapping[str, Any], *, selector: int) -> str:
    """Why there are no weights under the names of other programs; "" if there are."""
    if card.torch_class(arguments) is None:
        ratios = f"sk_ratio {arguments['sk_ratio']}, se_ratio {arguments['se_ratio']}"
        return f"torchvision has no selective kernels and no squeeze-excitation; this encoder has {ratios}."
    if arguments["norm"] == "group" and card.family(arguments) != "vit":
        return "torchvision's networks have BatchNorm; this encoder has norm group."
    if selector and variables.only(by_name, "supervised_head"):
        return f"torchvision's fc takes h; this run's classifier takes layer {selector} of its head."
    return ""


def detection_obstacle(by_name: variables.ByName, arguments: Mapping[str, Any]) -> str:
    """Why a network that has torch weights is no backbone of a detector; "" if it is one."""
    if card.family(arguments) != "resnet":
        return f"The backbones of detectors are ResNets; this encoder is {arguments['name']}."
    if arguments["stem"] != "imagenet" or arguments["width_multiplier"] != 1:
        found = f"stem {arguments['stem']} and width {arguments['width_multiplier']:g}"
        return f"The backbones of detectors have the stem imagenet and width 1; this encoder has {found}."
    is_bottleneck = "encoder/block_group1/block1/conv3/kernel" in by_name
    if card.torch_class(arguments) == card.OWN_LOADER and not is_bottleneck:
        return "Detectors' ResNets have no projection in the first group; this encoder, of padding reference, has one."
    return ""


def write(folder: pathlib.Path, by_name: variables.ByName, arguments: Mapping[str, Any]) -> list[pathlib.Path]:
    """encoder.safetensors with torchvision's or timm's names and classifier, projection_head.safetensors beside it."""
    by_part = {part: variables.only(by_name, part) for part in variables.parts(by_name)}
    network = by_part["encoder"] | by_part.get("supervised_head", {})
    layout = card.torch_layout(arguments)
    if layout is None:
        states = {"encoder.safetensors": torchvision.to_torchvision(network)}
    else:
        states = {"encoder.safetensors": timm_layouts.to_torch(_with_positions(network, arguments), layout=layout)}
    if "projection_head" in by_part:
        states["projection_head.safetensors"] = torchvision.to_torchvision(by_part["projection_head"])
    for name, state in states.items():
        variables.save(folder / name, state)
    return [folder / name for name in states]


def write_detection(folder: pathlib.Path, by_name: variables.ByName) -> list[pathlib.Path]:
    """The backbone under the names of torchvision's detectors and of Detectron2's."""
    own = variables.only(by_name, "encoder")
    files = {"torchvision_fpn": detection.to_torchvision_fpn(own), "detectron2": detection.to_detectron2(own)}
    for name, state in files.items():
        variables.save(folder / f"backbone_{name}.safetensors", state)
    return [folder / f"backbone_{name}.safetensors" for name in files]


def _with_positions(network: variables.ByName, arguments: Mapping[str, Any]) -> variables.ByName:
    """Fixed positions as the table that timm has for learned ones; that of the class token is 0."""
    if arguments.get("positions") != "sincos" or card.family(arguments) != "vit":
        return network
    grid, width = arguments["position_grid"], network["encoder/norm/scale"].size
    table = vit.sincos_positions((grid, grid), width, trained_grid=grid).astype(np.float32)
    rows = [np.zeros((1, width), np.float32), table] if "encoder/class_token" in network else [table]
    return {**network, "encoder/positions": np.concatenate(rows)}
