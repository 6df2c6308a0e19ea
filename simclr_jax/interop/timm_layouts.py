"""The names and layouts of timm's and torchvision's transformers, ConvNeXts and EfficientNets, both ways, torch-free.

What belongs here: which of our variables is which entry of their state dicts. Every layout is one function from the
size of a network to {our name: theirs}; reading turns it around.

Leaves: kernel <-> weight, HWIO <-> OIHW and [in, out] <-> [out, in]; class_token [D] <-> [1, 1, D], positions [T, D]
<-> [1, T, D]; layer_scale [C] <-> timm's [C], torchvision's [C, 1, 1]; BatchNorm's scale, bias, mean, var <-> weight,
bias, running_mean, running_var, LayerNorm's two.

Reference: vision_transformer.py, convnext.py and efficientnet.py in timm/models and in torchvision/models.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.interop import resnets

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LAYER = {"kernel": "weight", "bias": "bias"}


class _Transformer(NamedTuple):
    """What a layout calls the parts of a vision transformer; `norm` without and with a class token."""

    patch: str
    token: str
    positions: str
    block: str
    parts: Mapping[str, str]
    norm: tuple[str, str]
    head: str


_TIMM_VIT = _Transformer(
    "patch_embed.proj",
    "cls_token",
    "pos_embed",
    "blocks.{}.",
    {"norm1": "norm1", "qkv": "attn.qkv", "proj": "attn.proj", "norm2": "norm2", "mlp1": "mlp.fc1", "mlp2": "mlp.fc2"},
    ("fc_norm", "norm"),
    "head",
)
_TORCHVISION_VIT = _Transformer(
    "conv_proj",
    "class_token",
    "encoder.pos_embedding",
    "encoder.layers.encoder_layer_{}.",
    {
        **{"norm1": "ln_1", "qkv": "self_attention.in_proj", "proj": "self_attention.out_proj"},
        **{"norm2": "ln_2", "mlp1": "mlp.0", "mlp2": "mlp.3"},
    },
    ("encoder.ln", "encoder.ln"),
    "heads.head",
)


class Found(NamedTuple):
    """A network in a file.

    net: as `resnets.ResNet`, but `names` leads to ours. title: of its layout. missing: names that the file should have.
    heads: modules that are called so are a classifier.
    """

    net: resnets.ResNet
    title: str
    missing: list[str]
    heads: tuple[str, ...]


def _leaves(ours: str, theirs: str, leaves: Mapping[str, str], only: Sequence[str]) -> dict[str, str]:
    # torch's own attention has no module for the three projections, only in_proj_weight and in_proj_bias.
    joint = "_" if theirs.endswith("in_proj") else "."
    return {f"encoder/{ours}/{leaf}": f"{theirs}{joint}{leaves[leaf]}" for leaf in only}


def _transformer_names(layout: _Transformer, *, depth: int, has_token: bool) -> dict[str, str]:
    """Our name -> theirs of a vision transformer with learned positions."""
    names = _leaves("patch_projection", layout.patch, _LAYER, ("kernel", "bias"))
    names |= {"encoder/class_token": layout.token} if has_token else {}
    names["encoder/positions"] = layout.positions
    for number in range(depth):
        for ours, part in layout.parts.items():
            leaves = _NORM if "norm" in ours else _LAYER
            theirs = layout.block.format(number) + part
            names |= _leaves(f"block{number + 1}/{ours}", theirs, leaves, list(leaves)[:2])
    return names | _leaves("norm", layout.norm[has_token], _NORM, ("scale", "bias"))


def _conv_norm(ours: str, conv: str, norm: str) -> dict[str, str]:
    return _leaves(f"{ours}/conv", conv, _LAYER, ("kernel",)) | _leaves(f"{ours}/bn", norm, _NORM, tuple(_NORM))


def _efficientnet_names(sizes: Sequence[int], *, in_timm: bool, is_lite: bool) -> dict[str, str]:
    """Our name -> theirs of an EfficientNet with so many blocks in its stages."""
    ends = (("conv_stem", "bn1"), ("conv_head", "bn2"))
    if not in_timm:
        last = len(sizes) + 1
        ends = (("features.0.0", "features.0.1"), (f"features.{last}.0", f"features.{last}.1"))
    names = _conv_norm("stem", *ends[0]) | _conv_norm("head", *ends[1])
    for stage, num_blocks in enumerate(sizes, start=1):
        for block in range(1, num_blocks + 1):
            ours = f"stage{stage}/block{block}"
            theirs = f"blocks.{stage - 1}.{block - 1}." if in_timm else f"features.{stage}.{block - 1}.block."
            names |= _block_names(ours, theirs, in_timm=in_timm, is_lite=is_lite, widens=stage > 1)
    return names


def _block_names(ours: str, theirs: str, *, in_timm: bool, is_lite: bool, widens: bool) -> dict[str, str]:
    parts = (["expand"] if widens else []) + ["depthwise"] + ([] if is_lite else ["se"]) + ["project"]
    # The last convolution of a block that does not widen is timm's first pointwise one.
    timm = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl" if widens else "conv_pw"}
    names: dict[str, str] = {}
    for place, part in enumerate(parts):
        if part == "se":
            pair = ("se.conv_reduce", "se.conv_expand") if in_timm else (f"{place}.fc1", f"{place}.fc2")
            for layer, module in zip(("squeeze_conv", "expand_conv"), pair, strict=True):
                names |= _leaves(f"{ours}/se/{layer}", theirs + module, _LAYER, ("kernel", "bias"))
        elif in_timm:
            number = [other for other in parts if other != "se"].index(part) + 1
            names |= _conv_norm(f"{ours}/{part}", theirs + timm[part], f"{theirs}bn{number}")
        else:
            names |= _conv_norm(f"{ours}/{part}", f"{theirs}{place}.0", f"{theirs}{place}.1")
    return names


def _convnext_names(sizes: Sequence[int], *, in_timm: bool) -> dict[str, str]:
    """Our name -> theirs of a ConvNeXt with so many blocks in its stages."""
    pair = ("kernel", "bias"), ("scale", "bias")
    ends = ("stem.0", "stem.1", "head.norm") if in_timm else ("features.0.0", "features.0.1", "classifier.0")
    names = _leaves("stem/conv", ends[0], _LAYER, pair[0])
    for ours, theirs in (("stem/norm", ends[1]), ("norm", ends[2])):
        names |= _leaves(ours, theirs, _NORM, pair[1])
    for stage, num_blocks in enumerate(sizes, start=1):
        if stage > 1:
            theirs = f"stages.{stage - 1}.downsample" if in_timm else f"features.{2 * stage - 2}"
            names |= _leaves(f"stage{stage}/downsample/norm", f"{theirs}.0", _NORM, pair[1])
            names |= _leaves(f"stage{stage}/downsample/conv", f"{theirs}.1", _LAYER, pair[0])
        for block in range(num_blocks):
            ours = f"stage{stage}/block{block + 1}"
            theirs = f"stages.{stage - 1}.blocks.{block}." if in_timm else f"features.{2 * stage - 1}.{block}."
            layers = ("conv_dw", "norm", "mlp.fc1", "mlp.fc2") if in_timm else [f"block.{at}" for at in (0, 2, 3, 5)]
            for part, layer in zip(("depthwise", "norm", "mlp1", "mlp2"), layers, strict=True):
                leaves, only = (_NORM, pair[1]) if part == "norm" else (_LAYER, pair[0])
                names |= _leaves(f"{ours}/{part}", theirs + layer, leaves, only)
            names[f"encoder/{ours}/layer_scale"] = theirs + ("gamma" if in_timm else "layer_scale")
    return names


def to_torch(by_name: Mapping[str, np.ndarray], *, layout: str) -> dict[str, np.ndarray]:
    """A transformer, a ConvNeXt or an EfficientNet, with its classifier if there is one, under the names of others.

    Args:
        by_name: our variables of the encoder and "supervised_head".
        layout: "timm" or "torchvision".

    Raises:
        base.InputError: a variable has no place in that layout, or the layout has no such network.
    """
    encoder = [name for name in by_name if name.startswith("encoder/")]
    is_timm = layout == "timm"
    if any("/patch_projection/" in name for name in encoder):
        depth = _highest(encoder, r"encoder/block(\d+)/")
        names = _transformer_names(
            _TIMM_VIT if is_timm else _TORCHVISION_VIT, depth=depth, has_token="encoder/class_token" in by_name
        )
        head = _TIMM_VIT.head if is_timm else _TORCHVISION_VIT.head
    else:
        stages = _highest(encoder, r"encoder/stage(\d+)/")
        sizes = [_highest(encoder, rf"encoder/stage{stage}/block(\d+)/") for stage in range(1, stages + 1)]
        if any(name.endswith("/layer_scale") for name in encoder):
            names = _convnext_names(sizes, in_timm=is_timm)
            head = "head.fc" if is_timm else "classifier.2"
        else:
            is_lite = not any("/se/" in name for name in encoder)
            names = _efficientnet_names(sizes, in_timm=is_timm, is_lite=is_lite)
            head = "classifier" if is_timm else "classifier.1"
    names |= {f"supervised_head/dense/{ours}": f"{head}.{theirs}" for ours, theirs in _LAYER.items()}
    unknown = sorted(set(by_name) - set(names))
    if unknown:
        raise base.InputError(f"{layout} has no place for {unknown[0]}. Use the flax or the stablehlo format.")
    # torchvision's layer scales have the axes of a map, timm's have one.
    arrays = {
        name: np.reshape(value, (-1, 1, 1)) if name.endswith("/layer_scale") and not is_timm else np.asarray(value)
        for name, value in by_name.items()
    }
    return {names[name]: _to_torch_array(name, value) for name, value in arrays.items()}


def find(arrays: Mapping[str, np.ndarray]) -> list[Found]:
    """All networks of these families in a file, in its order; of the arrays only the names are read."""
    found = []
    for name in arrays:
        for marker, title, heads, read in _MARKERS:
            prefix = name.removesuffix(marker[0])
            if prefix == name or not (prefix == "" or prefix.endswith(".")) or f"{prefix}{marker[1]}" not in arrays:
                continue
            own = [other.removeprefix(prefix) for other in arrays if other.startswith(prefix)]
            theirs = {f"{prefix}{there}": here for here, there in read(own).items()}
            missing = [there for there in theirs if there not in arrays]
            present = {there: here for there, here in theirs.items() if there in arrays}
            found.append(Found(resnets.ResNet(prefix, present, None), title, missing, heads))
    return found


def from_torch_array(name: str, value: np.ndarray) -> np.ndarray:
    """An entry of theirs in our layout; `name` is ours."""
    if name in ("encoder/class_token", "encoder/positions"):
        return np.ascontiguousarray(value.reshape(value.shape[2:] if name.endswith("token") else value.shape[1:]))
    if name.endswith("/layer_scale"):
        value = value.reshape(-1)
    if name.endswith("/kernel"):
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)


def _to_torch_array(name: str, value: np.ndarray) -> np.ndarray:
    if name in ("encoder/class_token", "encoder/positions"):
        return np.ascontiguousarray(value.reshape(1, -1, value.shape[-1]))
    if name.endswith("/kernel"):
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)


def _highest(names: Sequence[str], pattern: str) -> int:
    """The highest number in the place of the pattern's group, 0 where no name has it."""
    return max((int(match[1]) for match in (re.match(pattern, name) for name in names) if match), default=0)


def _read_transformer(layout: _Transformer) -> Callable[[Sequence[str]], dict[str, str]]:
    def read(names: Sequence[str]) -> dict[str, str]:
        depth = _highest(names, re.escape(layout.block).replace(r"\{\}", r"(\d+)")) + 1
        return _transformer_names(layout, depth=depth, has_token=layout.token in names)

    return read


def _read_efficientnet(*, in_timm: bool) -> Callable[[Sequence[str]], dict[str, str]]:
    def read(names: Sequence[str]) -> dict[str, str]:
        place, first = (r"blocks\.{}\.{}\.", 0) if in_timm else (r"features\.{}\.{}\.block\.", 1)
        stages = _highest(names, place.format(r"(\d+)", r"\d+")) + 1 - first
        sizes = [_highest(names, place.format(stage + first, r"(\d+)")) + 1 for stage in range(stages)]
        is_lite = not any(".se." in name or ".fc1." in name for name in names)
        return _efficientnet_names(sizes, in_timm=in_timm, is_lite=is_lite)

    return read


def _read_convnext(*, in_timm: bool) -> Callable[[Sequence[str]], dict[str, str]]:
    def read(names: Sequence[str]) -> dict[str, str]:
        place, leaf = (r"stages\.{}\.blocks\.{}\.", "conv_dw") if in_timm else (r"features\.{}\.{}\.", "layer_scale")
        numbers = range(_highest(names, place.format(r"(\d+)", r"\d+") + leaf) + 1)
        # In torchvision what makes the map smaller stands between two stages.
        stages = numbers if in_timm else numbers[1::2]
        sizes = [_highest(names, place.format(stage, r"(\d+)") + leaf) + 1 for stage in stages]
        return _convnext_names(sizes, in_timm=in_timm)

    return read


# (two entries by which it is known), title, modules of its classifier, names of the file -> {our name: theirs}.
_MARKERS = (
    (
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        *("a vision transformer under timm's names", ("head",), _read_transformer(_TIMM_VIT)),
    ),
    (
        ("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),
        *("torchvision's vision transformer", ("heads.head", "heads"), _read_transformer(_TORCHVISION_VIT)),
    ),
    (
        ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
        *("a ConvNeXt under timm's names", ("head.fc",), _read_convnext(in_timm=True)),
    ),
    (
        ("features.0.0.weight", "features.1.0.layer_scale"),
        *("torchvision's ConvNeXt", ("classifier.2",), _read_convnext(in_timm=False)),
    ),
    (
        ("conv_stem.weight", "blocks.0.0.conv_dw.weight"),
        *("an EfficientNet under timm's names", ("classifier",), _read_efficientnet(in_timm=True)),
    ),
    (
        ("features.0.0.weight", "features.1.0.block.0.0.weight"),
        *("torchvision's EfficientNet", ("classifier.1", "classifier"), _read_efficientnet(in_timm=False)),
    ),
)
