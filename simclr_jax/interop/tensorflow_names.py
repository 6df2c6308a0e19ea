"""The names of the official SimCLR checkpoints, of TF1 and of TF2: which of them is which of our variables by name.

What belongs here: names only; all arrays are used as they are (HWIO and [in, out]).

TF1 counts convolutions and BatchNorms of the encoder in the order of their creation, 0 without a number:
base_model/conv2d, conv2d_1, ...; base_model/batch_normalization, ... A block creates its projection first, then the
convolutions of its main path, then those of squeeze-and-excitation; a selective kernel creates its convolution, the
squeezing one and the expanding one, the last without BatchNorm. TF2 names an object by its place in the lists of
layers, where layers without variables (ReLU, padding, DropBlock) take places too.

Reference: resnet.py, model_util.py and tf2/resnet.py, tf2/model.py of the SimCLR code.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from simclr_jax.interop import detect

_NORM = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
_LAYER = {"kernel": "kernel", "bias": "bias"}
_KEY_END = "/.ATTRIBUTES/VARIABLE_VALUE"
_EMA = "ema_model/"
# What is no weight of the network -> how it shows.
_IGNORED = {
    "optimizer slots": r".*/(Momentum|Adam|Adam_1|RMSProp|RMSProp_1)$|.*/\.OPTIMIZER_SLOT/.*|beta[12]_power$",
    "optimizer settings": r"optimizer/.*|model/optimizer/.*",
    "counters": r"global_step(/.*)?$|save_counter/.*",
    "memory buffers": r"(.*/)?(memory|queue)[^/]*(/.*)?$",
    "Keras' own": r"(.*/)?keras_api/.*",
}
_TF1_HEADS = (
    (r"head_contrastive/n?l_(\d+)/dense/(kernel)", "projection_head/dense{}", _LAYER),
    (r"head_contrastive/n?l_(\d+)/batch_normalization/(\w+)", "projection_head/bn{}", _NORM),
    (r"head_supervised/linear_layer/dense/(kernel|bias)", "supervised_head/dense", _LAYER),
)
_STEM = "model/resnet_model/initial_conv_relu_max_pool"
_BLOCK = r"model/resnet_model/block_groups/(\d+)/layers/(\d+)"
_MAIN = _BLOCK + "/conv_relu_dropblock_layers"
_BASIC = _BLOCK + "/conv2d_bn_layers"
_OURS = "encoder/block_group{}/block{}"
# Pattern -> our module, how its leaves are called. Numbers are filled in, counted from 1.
_TF2 = (
    *((f"{_STEM}/{at}/conv2d/(kernel)", f"encoder/stem/conv{n}", _LAYER) for at, n in ((0, 1), (2, 2), (4, 3))),
    # A stem of one convolution has a layer without variables before its BatchNorm, the deep one has none.
    *((rf"{_STEM}/{at}/bn/(\w+)", f"encoder/stem/bn{n}", _NORM) for at, n in ((1, 1), (2, 1), (3, 2), (6, 3))),
    (_BLOCK + r"/(?:projection|shortcut)_layers/\d/conv2d/(kernel)", _OURS + "/proj_conv", _LAYER),
    (_BLOCK + r"/(?:projection|shortcut)_layers/\d/bn/(\w+)", _OURS + "/proj_bn", _NORM),
    *((f"{_BASIC}/{at}/conv2d/(kernel)", f"{_OURS}/conv{n}", _LAYER) for at, n in ((0, 1), (2, 2))),
    *((rf"{_BASIC}/{at}/bn/(\w+)", f"{_OURS}/bn{n}", _NORM) for at, n in ((1, 1), (3, 2))),
    # The last convolution of a bottleneck is at 6, or at 5 after a selective kernel.
    *((f"{_MAIN}/{at}/conv2d/(kernel)", f"{_OURS}/conv{n}", _LAYER) for at, n in ((0, 1), (3, 2), (5, 3), (6, 3))),
    *((rf"{_MAIN}/{at}/bn/(\w+)", f"{_OURS}/bn{n}", _NORM) for at, n in ((1, 1), (4, 2), (6, 3), (7, 3))),
    (_MAIN + "/3/conv2d_fixed_padding/conv2d/(kernel)", _OURS + "/sk/conv", _LAYER),
    (_MAIN + r"/3/batch_norm_relu/bn/(\w+)", _OURS + "/sk/bn", _NORM),
    (_MAIN + "/3/conv2d_0/(kernel)", _OURS + "/sk/squeeze_conv", _LAYER),
    (_MAIN + r"/3/batch_norm_relu_1/bn/(\w+)", _OURS + "/sk/squeeze_bn", _NORM),
    (_MAIN + "/3/conv2d_1/(kernel)", _OURS + "/sk/expand_conv", _LAYER),
    (_BLOCK + r"/(?:\w+/\d|se_layer)/se_reduce/(kernel|bias)", _OURS + "/se/squeeze_conv", _LAYER),
    (_BLOCK + r"/(?:\w+/\d|se_layer)/se_expand/(kernel|bias)", _OURS + "/se/expand_conv", _LAYER),
    (r"model/_projection_head/linear_layers/(\d+)/dense/(kernel)", "projection_head/dense{}", _LAYER),
    (r"model/_projection_head/linear_layers/(\d+)/bn_relu/bn/(\w+)", "projection_head/bn{}", _NORM),
    (r"model/supervised_head/linear_layer/dense/(kernel|bias)", "supervised_head/dense", _LAYER),
)


class Names(NamedTuple):
    """What the names of a checkpoint mean.

    layout: its name in messages. found: our name -> the file's. ignored: kind -> the file's names that are no weights.
    unknown: names without a meaning. missing: names that the closest known network has and the file lacks.
    """

    layout: str
    found: dict[str, str]
    ignored: dict[str, list[str]]
    unknown: list[str]
    missing: list[str]


class _Layer(NamedTuple):
    """A convolution in the order of creation, with its BatchNorm, if it has one, and whether it has a bias."""

    conv: str
    norm: str | None
    bias: bool = False


def is_tensorflow(names: Iterable[str]) -> bool:
    """Whether the names are those of an official checkpoint, of TF1 or TF2."""
    return any(name.startswith(("base_model/", "model/resnet_model/", _EMA)) for name in names)


def match_names(names: Iterable[str], *, ema: bool) -> Names:
    """The meaning of the names of an official checkpoint.

    Args:
        names: all names of the checkpoint.
        ema: take the moving averages of the weights that TF1 checkpoints of SimCLRv2 pretraining hold beside them
            (ema_model/...) in place of the weights.
    """
    weights, ignored = _without_ignored(names, ema=ema)
    if any(name.startswith("model/") for name in weights):
        found, unknown = _match(weights, [(rule + re.escape(_KEY_END), ours, leaves) for rule, ours, leaves in _TF2])
        return Names("TF2 checkpoint of SimCLR", found, ignored, unknown, [])
    bare = {name.removeprefix(_EMA): name for name in weights}
    heads, rest = _match(bare, _TF1_HEADS)
    encoder = _closest_encoder(rest)
    found = {ours: bare[theirs] for ours, theirs in {**heads, **encoder}.items() if theirs in bare}
    unknown = sorted(set(bare) - set(heads.values()) - set(encoder.values()))
    missing = sorted(set(encoder.values()) - set(bare))
    return Names("TF1 checkpoint of SimCLR", found, ignored, unknown, missing)


def encoder_names(name: str, *, selective: bool = False, excited: bool = False, cifar: bool = False) -> dict[str, str]:
    """Our names -> TF1's (base_model/conv2d_7/kernel) of the variables of an encoder.

    Args:
        name: a key of detect.STRUCTURES.
        selective: with selective kernels (and, unless `cifar`, the deep stem).
        excited: with squeeze-and-excitation.
        cifar: with the stem for small images.
    """
    names, num_norms = {}, 0
    for number, layer in enumerate(_creation_order(detect.STRUCTURES[name], selective, excited, cifar)):
        conv = f"base_model/conv2d{_counted(number)}"
        names.update({f"{layer.conv}/{leaf}": f"{conv}/{leaf}" for leaf in ("kernel", "bias")[: 1 + layer.bias]})
        if layer.norm:
            norm = f"base_model/batch_normalization{_counted(num_norms)}"
            names.update({f"{layer.norm}/{ours}": f"{norm}/{theirs}" for theirs, ours in _NORM.items()})
            num_norms += 1
    return names


def _creation_order(structure: detect.Structure, selective: bool, excited: bool, cifar: bool) -> Iterator[_Layer]:
    for number in range(1, 4 if selective and not cifar else 2):
        yield _Layer(f"encoder/stem/conv{number}", f"encoder/stem/bn{number}")
    for group, num_blocks in enumerate(structure.sizes, start=1):
        for number in range(1, num_blocks + 1):
            block = f"encoder/block_group{group}/block{number}"
            if number == 1:
                yield _Layer(f"{block}/proj_conv", f"{block}/proj_bn")
            for conv in range(1, 4 if structure.bottleneck else 3):
                if selective and structure.bottleneck and conv == 2:
                    yield _Layer(f"{block}/sk/conv", f"{block}/sk/bn")
                    yield _Layer(f"{block}/sk/squeeze_conv", f"{block}/sk/squeeze_bn")
                    yield _Layer(f"{block}/sk/expand_conv", None)
                else:
                    yield _Layer(f"{block}/conv{conv}", f"{block}/bn{conv}")
            for part in ("squeeze_conv", "expand_conv") if excited else ():
                yield _Layer(f"{block}/se/{part}", None, bias=True)


def _closest_encoder(theirs: Iterable[str]) -> dict[str, str]:
    """Our names -> TF1's for the encoder whose names differ least from those of the file; no two have the same."""
    theirs = set(theirs)
    flags = [(s, e, c) for s in (False, True) for e in (False, True) for c in (False, True) if s or not c]
    candidates = [
        encoder_names(name, selective=s, excited=e, cifar=c)
        for name, structure in detect.STRUCTURES.items()
        if structure.inner_width == 1
        for s, e, c in flags
    ]
    return min(candidates, key=lambda names: len(theirs ^ set(names.values())))


def _match(names: Iterable[str], rules: Iterable[tuple[str, str, dict[str, str]]]) -> tuple[dict[str, str], list[str]]:
    """(our name -> theirs, names that no rule knows). The last group of a pattern is the leaf, the others count."""
    found, unknown, patterns = {}, [], [(re.compile(pattern), ours, leaves) for pattern, ours, leaves in rules]
    for name in names:
        for pattern, ours, leaves in patterns:
            match = pattern.fullmatch(name)
            if match and match[match.lastindex or 0] in leaves:
                *numbers, leaf = match.groups()
                module = ours.format(*(int(number) + 1 for number in numbers))
                found[f"{module}/{leaves[leaf]}"] = name
                break
        else:
            unknown.append(name)
    return found, unknown


def _without_ignored(names: Iterable[str], *, ema: bool) -> tuple[list[str], dict[str, list[str]]]:
    """(names of weights, kind -> other names)."""
    weights: list[str] = []
    ignored: dict[str, list[str]] = {}
    for name in names:
        kind = next((kind for kind, pattern in _IGNORED.items() if re.fullmatch(pattern, name)), None)
        if kind is None and name.startswith(_EMA) != ema:
            kind = "weights that are not averaged" if ema else "averaged weights (ema_model)"
        if kind is None:
            weights.append(name)
        else:
            ignored.setdefault(kind, []).append(name)
    return weights, ignored


def _counted(number: int) -> str:
    return f"_{number}" if number else ""
