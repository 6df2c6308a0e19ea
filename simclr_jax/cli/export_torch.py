"""The part of `simclr-jax export` that writes weights under the names of PyTorch's programs.

What belongs here: which networks other programs have, and which file holds what of them.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax.interop import card, detection, open_clip_layouts, timm_layouts, torchvision, variables
from simclr_jax.models import vit


def obstacle(by_name: variables.ByName, arguments: Mapping[str, Any], *, selector: int) -> str:
    """Why there are no weights under the names of other programs; "" if there are."""
    if card.is_clips(arguments):
        return "timm's and torchvision's networks are not those of CLIP; a run of the method clip has open_clip."
    if card.torch_class(arguments) is None:
        found = ", ".join(f"{key} {arguments[key]}" for key in ("group_sizes", "sk_ratio", "se_ratio"))
        return (
            "torchvision's ResNets have four groups, no selective kernels and no squeeze-excitation; this encoder has "
            f"{found}."
        )
    if arguments["norm"] == "group" and card.family(arguments) not in ("vit", "convnext"):
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
        network = with_positions(network, arguments, side=arguments["position_grid"])
        states = {"encoder.safetensors": timm_layouts.to_torch(network, layout=layout)}
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


def open_clip_obstacle(of_texts: variables.ByName, arguments: Mapping[str, Any], *, method: Mapping[str, Any]) -> str:
    """Why a run is no CLIP under open_clip's names; "" if it is one."""
    if not of_texts or method["name"] != "clip":
        return f"The open_clip format is for runs of the method clip; this one is of {method['name']}."
    if not card.is_clips(arguments) or arguments.get("pool", "token") != "token":
        return (
            "open_clip's encoders are clip_resnet50, clip_resnet101, and transformers with design clip or openai and a "
            f"class token; this encoder is {arguments['name']}."
        )
    if card.family(arguments) == "vit" and (arguments["num_heads"] or arguments["positions"] != "learned"):
        return "open_clip's transformers have learned positions and a head for 64 channels; this one has not."
    # One switch of open_clip is for both towers; in its ResNets nothing depends on it.
    is_quick = method["text_activation"] == "quick_gelu"
    agree = card.family(arguments) == "clip" or is_quick == (arguments["design"] == "openai")
    if method["text_attention"] != "causal" or not agree:
        return "open_clip's CLIP has a causal text tower and the same activation in both towers; this run has not."
    return ""


def write_open_clip(
    folder: pathlib.Path, by_name: variables.ByName, arguments: Mapping[str, Any], *, method: Mapping[str, Any]
) -> list[pathlib.Path]:
    """Both towers as open_clip_model.safetensors, with the config that open_clip builds its network from."""
    weights, config = folder / "open_clip_model.safetensors", folder / open_clip_layouts.CONFIG
    mean, std = (list(arguments[name]) or default for name, default in (("mean", [0.0] * 3), ("std", [1.0] * 3)))
    is_quick = method["text_activation"] == "quick_gelu"
    told = open_clip_layouts.model_config(by_name, text_num_heads=method["text_num_heads"], is_quick=is_quick)
    variables.save(weights, open_clip_layouts.to_open_clip(by_name))
    content = {**told, "preprocess_cfg": {"mean": mean, "std": std}}
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [weights, config]


def with_positions(network: variables.ByName, arguments: Mapping[str, Any], *, side: int) -> variables.ByName:
    """A vision transformer with its positions for `side` patches along a side of images, fixed ones as a table too.

    The position of the class token is the first row, 0 where positions are fixed. Other networks are left as they are.
    """
    if card.family(arguments) != "vit":
        return network
    width, has_token = network["encoder/norm/scale"].size, "encoder/class_token" in network
    if arguments["positions"] == "sincos":
        table: Any = vit.sincos_positions((side, side), width, trained_grid=arguments["position_grid"])
        first = np.zeros((int(has_token), width))
    else:
        learned = network["encoder/positions"]
        first, table = learned[:has_token], vit.interpolated(learned[has_token:], (side, side))  # type: ignore[arg-type]
    return {**network, "encoder/positions": np.concatenate([first, table]).astype(np.float32)}
