"""State dicts of PyTorch programs as our variables by name: torchvision's and timm's ResNets, and SimCLR conversions.

What belongs here: how the names of a state dict are found behind prefixes, and the layout of Separius/SimCLRv2-Pytorch.
The names of torchvision's ResNet itself are in `torchvision`. Arrays are NumPy's; torch is not needed.

Reference, for their names only: tonylins/simclr-converter (SimCLR, torchvision's names) and
Separius/SimCLRv2-Pytorch (SimCLRv2, names of its own). Both run the official weights with a max-pool padded on all
sides, and the latter averages with zeros at the border of the first group's shortcut; the weights were trained with
TensorFlow's padding, which is therefore what they are given here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.interop import torchvision

# Names that programs put before those of the network; a prefix is any row of them.
_WRAPPER = re.compile(r"(?:(?:module|model|encoder|encoder_q|base_encoder|backbone|net|network|resnet)\.)*")
_COUNTER = "num_batches_tracked"
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_LAYER = {"weight": "kernel", "bias": "bias"}
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

    layout: for people. padding: what the weights were made for, "reference" or "torchvision".
    by_name: our variables. ignored: kind -> names without meaning for us. unknown: names that nobody knows.
    missing: names that the file lacks. torchvision: the same weights as torchvision's class loads them; empty for
    another layout.
    pretrained: whether files of this layout are known to hold a pretrained network, whose classifier was added later.
    note: what a user should know about files of this layout.
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


def is_torchvision(names: Iterable[str]) -> bool:
    """Whether the names are those of torchvision's ResNet, behind any of the usual prefixes."""
    return _prefix(list(names)) is not None


def read_torchvision(arrays: Mapping[str, np.ndarray]) -> State:
    """Our variables from a state dict with the names of torchvision's ResNet, prefixes taken off."""
    prefix = _prefix(list(arrays)) or ""
    ignored, rest = _without_counters(arrays)
    by_name, bare, unknown = {}, {}, []
    for name, value in rest.items():
        short = name.removeprefix(prefix)
        try:
            # The head of our own exports has no prefix, whatever stands before the ResNet.
            outside = not name.startswith((prefix, "projection_head."))
            by_name.update(torchvision.from_torchvision({"" if outside else short: value}))
        except base.InputError:
            unknown.append(name)
        else:
            bare[short] = value
    if _projection_first([name.removeprefix(prefix) for name in arrays]):
        layout = "PyTorch conversion of SimCLR (simclr-converter)"
        note = "files of simclr-converter hold a random bias of the classifier: its logits are not the official ones"
        return State(layout, "reference", by_name, ignored, unknown, [], bare, True, note)
    return State("torchvision's ResNet", "torchvision", by_name, ignored, unknown, [], bare)


def _prefix(names: list[str]) -> str | None:
    """What stands before the names of torchvision's ResNet, None if they are not there."""
    for name in names:
        prefix = name.removesuffix("conv1.weight")
        if prefix != name and _WRAPPER.fullmatch(prefix) and f"{prefix}layer1.0.conv1.weight" in names:
            return prefix
    return None


def _projection_first(names: list[str]) -> bool:
    """Whether blocks list their projection before conv1: simclr-converter does so to get TensorFlow's order."""
    pair = ["layer1.0.downsample.0.weight", "layer1.0.conv1.weight"]
    # Some writers sort; in sorted names the projection comes behind conv1, so order proves something only here.
    return [name for name in names if name in pair] == pair


def _without_counters(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    counters = [name for name in arrays if name.endswith(_COUNTER)]
    rest = {name: value for name, value in arrays.items() if not name.endswith(_COUNTER)}
    return ({"BatchNorm's counters": counters} if counters else {}), rest


def _our_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf == "kernel":
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)
