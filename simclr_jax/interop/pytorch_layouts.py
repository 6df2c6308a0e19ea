"""State dicts of PyTorch programs as our variables by name: torchvision's and timm's networks, and SimCLR conversions.

What belongs here: what is taken and what is left out beside a network that `resnets` or `timm_layouts` finds, and the
layout of Separius/SimCLRv2-Pytorch. torchvision's names are in `torchvision`. Arrays are NumPy's; torch is not needed.

Reference, for their names only: tonylins/simclr-converter (SimCLR, torchvision's names) and
Separius/SimCLRv2-Pytorch (SimCLRv2, names of its own). Both run the official weights with a max-pool padded on all
sides, and the latter averages with zeros at the border of the first group's shortcut; the weights were trained with
TensorFlow's padding, which is therefore what they are given here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.interop import open_clip_layouts, resnets, timm_layouts, torchvision

_COUNTER = "num_batches_tracked"
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_LAYER = {"weight": "kernel", "bias": "bias"}
_CLASSIFIERS = ("fc", "linear", "classifier")
_STEM = r"(?:resnet\.)?net\.0"
_BLOCK = r"(?:resnet\.)?net\.(\d)\.blocks\.(\d+)"
_OURS = "encoder/block_group{}/block{}"
# Pattern of a module -> our module, how its leaves are called. Groups are counted from 1, blocks from 0.
_SIMCLRV2 = (
    *((rf"{_STEM}\.{at}", f"encoder/stem/conv{n}", _LAYER) for at, n in ((0, 1), (2, 2), (4, 3))),
    *((rf"{_STEM}\.{at}\.0", f"encoder/stem/bn{n}", _NORM) for at, n in ((1, 1), (3, 2), (5, 3))),
    (_BLOCK + r"\.projection\.shortcut(?:\.2)?", _OURS + "/proj_conv", _LAYER),
    (_BLOCK + r"\.projection\.bn\.0", _OURS + "/proj_bn", _NORM),
    (_BLOCK + r"\.net\.0", _OURS + "/conv1", _LAYER),
    (_BLOCK + r"\.net\.1\.0", _OURS + "/bn1", _NORM),
    (_BLOCK + r"\.net\.2", _OURS + "/conv2", _LAYER),
    (_BLOCK + r"\.net\.3\.0", _OURS + "/bn2", _NORM),
    (_BLOCK + r"\.net\.2\.main_conv\.0", _OURS + "/sk/conv", _LAYER),
    (_BLOCK + r"\.net\.2\.main_conv\.1\.0", _OURS + "/sk/bn", _NORM),
    (_BLOCK + r"\.net\.2\.mixing_conv\.0", _OURS + "/sk/squeeze_conv", _LAYER),
    (_BLOCK + r"\.net\.2\.mixing_conv\.1\.0", _OURS + "/sk/squeeze_bn", _NORM),
    (_BLOCK + r"\.net\.2\.mixing_conv\.2", _OURS + "/sk/expand_conv", _LAYER),
    # Behind a selective kernel, which is one module, the last convolution stands at 3.
    (_BLOCK + r"\.net\.[34]", _OURS + "/conv3", _LAYER),
    (_BLOCK + r"\.net\.[45]\.0", _OURS + "/bn3", _NORM),
    (r"(?:resnet\.)?fc", "supervised_head/dense", _LAYER),
)

_HEAD = re.compile(r"head\.layers\.(\d+)\.(\w+)")


class State(NamedTuple):
    """What a state dict means.

    layout: its name in messages. padding: what the weights were made for, "reference" or "torchvision".
    by_name: our variables. ignored: kind -> names without meaning for us. unknown: names that nobody knows.
    missing: names that the file lacks. torchvision: the same weights as torchvision's class loads them; empty for
    another layout.
    pretrained: whether files of this layout are known to hold a pretrained network, whose classifier was added later.
    note: what a user should know about files of this layout.
    encoder: arguments of models.make_encoder that the file decides and that neither names nor shapes tell.
    normalization: what images are normalised by, a key of foreign.NORMALIZATIONS; "" for what the padding suggests.
    """

    layout: str
    padding: str
    by_name: dict[str, np.ndarray]
    ignored: dict[str, list[str]]
    unknown: list[str]
    missing: list[str]
    torchvision: dict[str, np.ndarray]
    pretrained: bool = False
    note: str = ""
    encoder: Mapping[str, Any] = {}
    normalization: str = ""


def is_simclrv2(names: Iterable[str]) -> bool:
    """Whether the names are those of Separius/SimCLRv2-Pytorch."""
    return any(name.endswith("net.1.blocks.0.net.0.weight") for name in names)


def read_simclrv2(arrays: Mapping[str, np.ndarray]) -> State:
    """Our variables from a state dict, or {"resnet", "head"} joined by ".", of Separius/SimCLRv2-Pytorch."""
    ignored, rest = _without_counters(arrays)
    by_name, unknown = {}, []
    last = max((int(m[1]) for m in map(_HEAD.fullmatch, rest) if m), default=0)
    for name, value in rest.items():
        head = _HEAD.fullmatch(name)
        ours = _simclrv2_name(name)
        if head and int(head[1]) == last and head[2] == "bias" and not value.any():
            # A BatchNorm of torch has a bias also where SimCLR's has none; it is zero and was never trained.
            ignored["the zero bias of the last BatchNorm"] = [name]
        elif ours:
            by_name[ours] = _our_layout(ours.rsplit("/", 1)[-1], value)
        else:
            unknown.append(name)
    return State("PyTorch conversion of SimCLRv2", "reference", by_name, ignored, unknown, [], {})


def _simclrv2_name(name: str) -> str | None:
    """Our name of an entry, None if the layout has no such entry."""
    module, _, leaf = name.rpartition(".")
    head = _HEAD.fullmatch(name)
    if head:
        layer, part = divmod(int(head[1]), 3)  # of dense, BatchNorm and ReLU
        leaves = (_LAYER, _NORM, {})[part]
        return f"projection_head/{'bn' if part else 'dense'}{layer + 1}/{leaves[leaf]}" if leaf in leaves else None
    for pattern, ours, leaves in _SIMCLRV2:
        match = re.fullmatch(pattern, module)
        if match and leaf in leaves:
            place = [int(number) + index for index, number in enumerate(match.groups())]
            return f"{ours.format(*place)}/{leaves[leaf]}"
    return None


def read(arrays: Mapping[str, np.ndarray], *, network: str = "") -> State | None:
    """Our variables from a state dict of any layout that is known, None for another one.

    Args:
        arrays: the state dict.
        network: which of several networks, as `resnets.choose` takes it.

    Raises:
        base.InputError: several networks and no choice between them, or no such network.
    """
    if is_simclrv2(arrays):
        return read_simclrv2(arrays)
    clip = open_clip_layouts.find(list(arrays))
    if clip is not None:
        return _read_clip(arrays, clip)
    found = resnets.find(arrays)
    if found:
        net = resnets.choose(found, arrays, network)
        return _read_resnet(arrays, net, [other for other in found if other is not net])
    others = timm_layouts.find(arrays)
    if others:
        chosen = resnets.choose([other.net for other in others], arrays, network)
        return _read_other(arrays, next(other for other in others if other.net is chosen), others)
    prefix = _prefix(list(arrays))
    return None if prefix is None else _read_incomplete(arrays, prefix)


def _read_resnet(arrays: Mapping[str, np.ndarray], net: resnets.ResNet, others: list[resnets.ResNet]) -> State:
    """The variables of one ResNet and of the heads that are known; the rest by what it belongs to."""
    ignored, rest = _without_counters(arrays)
    bare = {net.names[name]: value for name, value in rest.items() if name in net.names}
    unknown: list[str] = []
    for name, value in rest.items():
        other = next((other for other in others if _belongs(name, other, net)), None)
        head = _head_name(name, net, arrays, is_alone=not others)
        if name in net.names:
            continue
        if head:
            bare[head] = value
        elif other:
            ignored.setdefault(f"of the network {other.title}", []).append(name)
        elif not name.startswith(net.prefix) or _is_head(name, net.prefix, rest):
            ignored.setdefault(f"of {_owner(name, net.prefix)}", []).append(name)
        else:
            unknown.append(name)
    by_name = torchvision.from_torchvision(bare)
    if _projection_first([net.names[name] for name in arrays if name in net.names]):
        layout = "PyTorch conversion of SimCLR (simclr-converter)"
        note = "files of simclr-converter hold a random bias of the classifier: its logits are not the official ones"
        return State(layout, "reference", by_name, ignored, unknown, [], bare, True, note)
    plain = all(net.prefix + theirs == name for name, theirs in net.names.items())
    layout = "torchvision's ResNet" if plain else "a ResNet of PyTorch under other names than torchvision's"
    layout += f", network {net.title}" if net.prefix and (others or not plain) else ""
    note = _note(net, bare["conv1.weight"].shape[-1])
    return State(layout, "torchvision", by_name, ignored, unknown, [], bare, bool(others), note)


def _read_clip(arrays: Mapping[str, np.ndarray], found: open_clip_layouts.Found) -> State:
    """The variables of both towers of a CLIP."""
    ignored, rest = _without_counters(arrays)
    by_name = {
        ours: open_clip_layouts.from_torch_array(ours, theirs, rest[theirs]) for theirs, ours in found.names.items()
    }
    others = [name for name in rest if name not in found.names]
    unknown = [name for name in others if not open_clip_layouts.is_ignored(name)]
    ignored |= {"sizes and masks": [name for name in others if name not in unknown]} if others != unknown else {}
    title = f"CLIP under the names of {'OpenAI' if found.is_openai else 'open_clip'}"
    design = {} if "encoder/pool/positions" in by_name else {"design": "openai" if found.is_openai else "clip"}
    rest_of_state = {"pretrained": True, "encoder": design, "normalization": "clip"}
    return State(title, "torchvision", by_name, ignored, unknown, found.missing, {}, **rest_of_state)  # type: ignore[arg-type]


def _read_other(
    arrays: Mapping[str, np.ndarray], found: timm_layouts.Found, all_found: list[timm_layouts.Found]
) -> State:
    """The variables of one network of `timm_layouts` and of its classifier; the rest by what it belongs to."""
    ignored, rest = _without_counters(arrays)
    net, others = found.net, [other.net for other in all_found if other is not found]
    by_name: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for name, value in rest.items():
        other = next((other for other in others if _belongs(name, other, net)), None)
        module, _, leaf = name.removeprefix(net.prefix).rpartition(".")
        is_classifier = not others and name.startswith(net.prefix) and module in found.heads and leaf in _LAYER
        if name in net.names:
            by_name[net.names[name]] = timm_layouts.from_torch_array(net.names[name], value)
        elif is_classifier:
            ours = f"supervised_head/dense/{_LAYER[leaf]}"
            by_name[ours] = timm_layouts.from_torch_array(ours, value)
        elif other:
            ignored.setdefault(f"of the network {other.title}", []).append(name)
        elif not name.startswith(net.prefix) or _is_head(name, net.prefix, rest):
            ignored.setdefault(f"of {_owner(name, net.prefix)}", []).append(name)
        else:
            unknown.append(name)
    title = f"{found.title}, network {net.title}" if net.prefix else found.title
    note, encoder = _moco_v3(net.prefix, by_name)
    return State(title, "torchvision", by_name, ignored, unknown, found.missing, {}, bool(others), note, encoder)


def _moco_v3(prefix: str, by_name: Mapping[str, np.ndarray]) -> tuple[str, dict[str, int]]:
    """(a note, arguments) for a transformer of MoCo v3's code, whose ViT-S has heads of 32 where timm's have 64."""
    token = by_name.get("encoder/class_token")
    if "base_encoder" not in prefix or token is None or token.size != 384:
        return "", {}
    return "by the names this is MoCo v3's, whose ViT-S has 12 heads of attention (timm's: 6)", {"num_heads": 12}


def _belongs(name: str, other: resnets.ResNet, net: resnets.ResNet) -> bool:
    """Whether an entry is part of another network than the one that is taken, or of a head on it."""
    return name in other.names or (name.startswith(other.prefix) and not net.prefix.startswith(other.prefix))


def _read_incomplete(arrays: Mapping[str, np.ndarray], prefix: str) -> State:
    """What there is of torchvision's names: what is missing or too many is found by the shapes of the network."""
    ignored, rest = _without_counters(arrays)
    bare, unknown = {}, []
    for name, value in rest.items():
        try:
            torchvision.from_torchvision({name.removeprefix(prefix): value})
        except base.InputError:
            unknown.append(name)
        else:
            bare[name.removeprefix(prefix)] = value
    by_name = torchvision.from_torchvision(bare)
    return State("torchvision's ResNet", "torchvision", by_name, ignored, unknown, [], bare)


def _head_name(name: str, net: resnets.ResNet, arrays: Mapping[str, np.ndarray], *, is_alone: bool) -> str | None:
    """torchvision's name of an entry of the classifier, or ours of our own head; None if it is neither."""
    short = name.removeprefix(net.prefix)
    if re.fullmatch(r"projection_head\.(dense|bn)\d+\.\w+", short):
        return short
    module, _, leaf = short.rpartition(".")
    # Beside a second network the layer on top is a projection, as in MoCo, and no classifier.
    if not (is_alone and name.startswith(net.prefix) and module in _CLASSIFIERS and leaf in _LAYER):
        return None
    weight = arrays.get(f"{net.prefix}{module}.weight")
    return f"fc.{leaf}" if weight is not None and weight.ndim == 2 else None


def _is_head(name: str, prefix: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether an entry belongs to dense layers on top of the network: a head, which nothing of the network needs."""
    child = name.removeprefix(prefix).split(".")[0]
    inside = {other: value for other, value in arrays.items() if other.startswith(f"{prefix}{child}.")}
    leaves = {other.rpartition(".")[2] for other in inside}
    return any(value.ndim == 2 for value in inside.values()) and (
        leaves <= {*_NORM, "weight_g", "weight_v"} and all(value.ndim <= 2 for value in inside.values())
    )


def _owner(name: str, prefix: str) -> str:
    """What an entry belongs to: its name up to where it leaves the way to the network."""
    ours, theirs = prefix.split("."), name.split(".")
    shared = next((at for at, part in enumerate(theirs) if at >= len(ours) or part != ours[at]), len(theirs) - 1)
    return ".".join(theirs[: shared + 1])


def _note(net: resnets.ResNet, kernel: int) -> str:
    """What positions in a Sequential tell of ReLU and max-pool after the first convolution, if it is unusual."""
    if net.between == 0:
        return (
            "by its positions, no ReLU follows the first BatchNorm in this Sequential (lightly's ResNetGenerator taken "
            "apart has none); here one does, so features differ until the run is fine-tuned"
        )
    if net.between == 1 and kernel > 3:
        return "by its positions, this Sequential has no ReLU or no max-pool after the first convolution; here are both"
    return ""


def _prefix(names: list[str]) -> str | None:
    """What stands before the names of torchvision's ResNet, None if they are not there."""
    for name in names:
        prefix = name.removesuffix("conv1.weight")
        if (prefix == "" or prefix.endswith(".")) and prefix != name and f"{prefix}layer1.0.conv1.weight" in names:
            return prefix
    return None


def _projection_first(names: list[str]) -> bool:
    """Whether blocks list their projection before conv1: simclr-converter does so to get TensorFlow's order."""
    pair = ["layer1.0.downsample.0.weight", "layer1.0.conv1.weight"]
    # Some writers sort; in sorted names the projection comes after conv1, so order proves something only here.
    return [name for name in names if name in pair] == pair


def _without_counters(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    counters = [name for name in arrays if name.endswith(_COUNTER)]
    rest = {name: value for name, value in arrays.items() if not name.endswith(_COUNTER)}
    return ({"BatchNorm's counters": counters} if counters else {}), rest


def _our_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf == "kernel":
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)
