"""Which network a set of variables by name belongs to, read off the names and shapes alone.

What belongs here: the structures that are known, and how depth, width, stem, attention and heads show in the names.
Whether every name and shape then fits is for the caller to check against the network it builds.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base


class Structure(NamedTuple):
    """A kind of ResNet: its blocks per group, whether they are bottlenecks, and how much wider these are inside."""

    sizes: tuple[int, ...]
    bottleneck: bool
    inner_width: int = 1


# The same networks as models.ENCODERS, which this room cannot see; a test compares them.
STRUCTURES = {
    "resnet10": Structure((1, 1, 1, 1), False),
    "resnet18": Structure((2, 2, 2, 2), False),
    "resnet34": Structure((3, 4, 6, 3), False),
    "resnet50": Structure((3, 4, 6, 3), True),
    "resnet101": Structure((3, 4, 23, 3), True),
    "resnet152": Structure((3, 8, 36, 3), True),
    "resnet200": Structure((3, 24, 36, 3), True),
    "wide_resnet50_2": Structure((3, 4, 6, 3), True, 2),
    "wide_resnet101_2": Structure((3, 4, 23, 3), True, 2),
}
# Of vision transformers: width and number of blocks; of ConvNeXts: width and blocks of the third stage; of
# EfficientNets: channels of the last stage, blocks of the second and of the fifth stage.
TRANSFORMERS = {
    (192, 12): "vit_tiny",
    (384, 12): "vit_small",
    (768, 12): "vit_base",
    (1024, 24): "vit_large",
}
CONVNEXTS = {
    (384, 9): "convnext_tiny",
    (384, 27): "convnext_small",
    (512, 27): "convnext_base",
    (768, 27): "convnext_large",
}
CLIP_RESNETS = ("clip_resnet50", "clip_resnet101")
EFFICIENTNETS = {
    **{(320, 2, 3): "b0", (320, 3, 4): "b1", (352, 3, 4): "b2", (384, 3, 5): "b3"},
    **{(448, 4, 6): "b4", (512, 5, 7): "b5", (576, 6, 8): "b6", (640, 7, 10): "b7"},
}
# The squeezed width of selective kernels: max(int(f * ratio), 32); SimCLRv2's ratio.
_SK_RATIO, _SK_MIN = 0.0625, 32


class Architecture(NamedTuple):
    """What the names and shapes of variables say of the network that they belong to.

    encoder: the arguments of models.make_encoder that the variables decide.
    num_proj_layers: of the projection head, 0 if there is none. proj_out_dim: its last width, 0 if there is none or it
        is not known. head_stored: how many of its layers are there; fewer than num_proj_layers in a fine-tuned network.
    num_classes: of the classifier, 0 if there is none.
    """

    encoder: dict[str, Any]
    num_proj_layers: int
    proj_out_dim: int
    head_stored: int
    num_classes: int


def structure(arguments: Mapping[str, Any]) -> Structure:
    """The structure of a ResNet by the arguments of models.make_encoder; those of older files lack group_sizes."""
    named, sizes = STRUCTURES[arguments["name"]], tuple(arguments.get("group_sizes", ()))
    return named._replace(sizes=sizes) if sizes else named


def find_architecture(by_name: Mapping[str, np.ndarray], *, padding: str) -> Architecture:
    """The architecture that the variables by name belong to.

    Args:
        by_name: at least the encoder's variables.
        padding: "reference" or "torchvision": what the weights were made for, where their shapes do not tell.

    Raises:
        base.InputError: there are no blocks, or they have a width that none has.
    """
    if "encoder/pool/positions" in by_name:
        return _with_heads(_clip_resnet(by_name), by_name)
    if "encoder/patch_projection/kernel" in by_name:
        return _with_heads(_transformer(by_name), by_name)
    if "encoder/stage1/block1/layer_scale" in by_name:
        return _with_heads({"name": _convnext(by_name)}, by_name)
    if "encoder/stage1/block1/depthwise/conv/kernel" in by_name:
        return _with_heads({"name": _efficientnet(by_name), "padding": padding}, by_name)
    return _with_heads(_resnet(by_name, padding), by_name)


def _resnet(by_name: Mapping[str, np.ndarray], padding: str) -> dict[str, Any]:
    found = _structure(by_name)
    name, group_sizes = _named(found)
    basic, last = not found.bottleneck, f"encoder/block_group{len(found.sizes)}/block1"
    # The widest group: thin networks are rounded down, here the least.
    features = _width(by_name, f"{last}/conv1/kernel") / found.inner_width
    selective = _first_shape(by_name, f"{last}/sk/squeeze_conv/kernel")
    excited = _first_shape(by_name, f"{last}/se/squeeze_conv/kernel")
    deep = "encoder/stem/conv2/kernel" in by_name
    small = _first_shape(by_name, "encoder/stem/conv1/kernel")[:1] == (3,) and not deep
    sk_ratio = _sk_ratio(features, selective[-1]) if selective else _SK_RATIO * deep
    # A basic block shows whom it is from: torchvision has no projection where the shapes fit.
    projects = "encoder/block_group1/block1/proj_conv/kernel" in by_name
    if sk_ratio or excited or (basic and projects):
        padding = "reference"
    return {
        "name": name,
        "width_multiplier": features / (64 * 2 ** (len(found.sizes) - 1)),
        "group_sizes": group_sizes,
        "stem": "cifar" if small else "imagenet",
        "sk_ratio": sk_ratio,
        "se_ratio": excited[-1] / features if excited else 0.0,
        "padding": "torchvision" if basic and not projects else padding,
    }


def _transformer(by_name: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arguments of a vision transformer that its shapes tell: not its number of heads."""
    kernel = by_name["encoder/patch_projection/kernel"].shape
    depth = len({match[1] for match in (re.match(r"encoder/block(\d+)/", name) for name in by_name) if match})
    if (kernel[-1], depth) not in TRANSFORMERS:
        known = ", ".join(f"{name} {width} x {blocks}" for (width, blocks), name in TRANSFORMERS.items())
        raise base.InputError(
            f"A vision transformer must have the width and the blocks of a known one ({known}); got {kernel[-1]} x "
            f"{depth}. Convert one of these."
        )
    has_token = "encoder/class_token" in by_name
    found: dict[str, Any] = {
        "name": TRANSFORMERS[kernel[-1], depth],
        "patch_size": kernel[0],
        "pool": "token" if has_token else "mean",
        # The other design of CLIP differs in no shape; who reads a file says so.
        "design": "clip" if "encoder/norm_pre/scale" in by_name else "timm",
    }
    positions = by_name.get("encoder/positions")
    if positions is None:
        return {**found, "positions": "sincos"}
    return {**found, "positions": "learned", "position_grid": math.isqrt(len(positions) - has_token)}


def _convnext(by_name: Mapping[str, np.ndarray]) -> str:
    width = _first_shape(by_name, "encoder/stage3/block1/layer_scale")[-1:]
    depth = sum(re.fullmatch(r"encoder/stage3/block\d+/layer_scale", name) is not None for name in by_name)
    if (*width, depth) not in CONVNEXTS:
        known = ", ".join(f"{name} {width} x {blocks}" for (width, blocks), name in CONVNEXTS.items())
        raise base.InputError(
            f"A ConvNeXt must have the width and the blocks of a known one in its third stage ({known}); got "
            f"{width[0] if width else 'none'} x {depth}. Convert one of these."
        )
    return CONVNEXTS[*width, depth]  # type: ignore[index]


def _clip_resnet(by_name: Mapping[str, np.ndarray]) -> dict[str, Any]:
    name, group_sizes = _named(_structure(by_name))
    if group_sizes or f"clip_{name}" not in CLIP_RESNETS:
        raise base.InputError(
            f"A ResNet of CLIP must have the blocks of {' or '.join(CLIP_RESNETS)}; got "
            f"{'-'.join(map(str, group_sizes or STRUCTURES[name].sizes))} blocks. Convert one of these."
        )
    return {
        "name": f"clip_{name}",
        "width_multiplier": _width(by_name, "encoder/block_group4/block1/conv1/kernel") / 512,
        "position_grid": math.isqrt(len(by_name["encoder/pool/positions"]) - 1),
    }


def _efficientnet(by_name: Mapping[str, np.ndarray]) -> str:
    stages: dict[int, set[str]] = {}
    for match in (re.match(r"encoder/stage(\d+)/block(\d+)/", name) for name in by_name):
        if match:
            stages.setdefault(int(match[1]), set()).add(match[2])
    width = _first_shape(by_name, "encoder/stage7/block1/project/conv/kernel")[-1:]
    size = (*width, len(stages.get(2, ())), len(stages.get(5, ())))
    kind = EFFICIENTNETS.get(size, "")  # type: ignore[arg-type]
    if "encoder/stage1/block1/se/squeeze_conv/kernel" not in by_name:
        # Lite networks keep the width of the stem and the depth of the last stage, which its shapes then tell.
        kind = kind.replace("b", "lite")
    if not kind:
        raise base.InputError(
            f"An EfficientNet must be B0 to B7 or lite0 to lite4; got one of {len(stages)} stages, the last of "
            f"{width[0] if width else 'no'} channels. Convert one of these."
        )
    return f"efficientnet_{kind}"


def _with_heads(encoder: dict[str, Any], by_name: Mapping[str, np.ndarray]) -> Architecture:
    """The architecture with this encoder: what the variables say of projection head and classifier."""
    head = [n for n in by_name if re.fullmatch(r"projection_head/dense\d+/kernel", n)]
    classes = _first_shape(by_name, "supervised_head/dense/kernel")
    # Only a head's last BatchNorm has no bias: where all have one, the later layers were cut off for fine-tuning.
    whole = f"projection_head/bn{len(head)}/bias" not in by_name
    return Architecture(
        encoder,
        num_proj_layers=len(head) + (not whole),
        proj_out_dim=_width(by_name, f"projection_head/dense{len(head)}/kernel") if head and whole else 0,
        head_stored=len(head),
        num_classes=classes[-1] if classes else 0,
    )


def _structure(by_name: Mapping[str, np.ndarray]) -> Structure:
    """The blocks that a file has."""
    blocks = {tuple(map(int, m.groups())) for m in map(_BLOCK.match, by_name) if m}
    sizes = tuple(sum(group == g for group, _ in blocks) for g in range(1, 1 + max((g for g, _ in blocks), default=0)))
    if not blocks or blocks != {(g, b) for g, size in enumerate(sizes, start=1) for b in range(1, size + 1)}:
        raise base.InputError(
            "The blocks of a file must be those of a ResNet, counted from 1 in every group; got "
            f"{'-'.join(map(str, sizes)) or 'no'} blocks. Convert a complete ResNet."
        )
    first = "encoder/block_group1/block1"
    if f"{first}/conv3/kernel" not in by_name:
        return Structure(sizes, False)
    inner, outer = (_width(by_name, f"{first}/{conv}/kernel") for conv in ("conv1", "conv3"))
    return Structure(sizes, True, max(4 * inner // outer, 1))


def _named(found: Structure) -> tuple[str, tuple[int, ...]]:
    """The encoder that has these blocks and (), or one with such blocks and what its group_sizes must be."""
    exact = [name for name, known in STRUCTURES.items() if known == found]
    alike = [name for name, known in STRUCTURES.items() if known[1:] == found[1:]]
    if not alike:
        raise base.InputError(
            f"Bottlenecks must be as wide inside as ResNet's or twice as wide; got {found.inner_width} times that. "
            "Convert one of these."
        )
    return (exact[0], ()) if exact else (alike[0], found.sizes)


def _sk_ratio(features: float, squeezed: int) -> float:
    """The official ratio if it explains the squeezed width, else the one that does."""
    return _SK_RATIO if max(int(features * _SK_RATIO), _SK_MIN) == squeezed else squeezed / features


def _width(by_name: Mapping[str, np.ndarray], name: str) -> int:
    """The number of output channels of a kernel."""
    shape = _first_shape(by_name, name)
    if len(shape) < 2:
        raise base.InputError(f"A network's width is read off {name}, a kernel; got {_shown(shape)}. Is it all there?")
    return shape[-1]


def _first_shape(by_name: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    return by_name[name].shape if name in by_name else ()


def _shown(shape: tuple[int, ...]) -> str:
    return f"shape {shape}" if shape else "none"


_BLOCK = re.compile(r"encoder/block_group(\d+)/block(\d+)/")
