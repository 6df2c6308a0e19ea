"""One call from a file of another program to our variables by name: it chooses the reader and the layout.

What belongs here: which file is read how, and what is done with names that mean nothing.
"""

import fnmatch
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.interop import card as card_lib
from simclr_jax.interop import files, open_clip_layouts, opening, pytorch_layouts, tensorflow_names

WEIGHTS = ("model", "ema")
# What torchvision, timm and most programs of PyTorch normalise images in [0, 1] by.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What a user may say, by name; "half" is that of timm's augreg transformers and tf_efficientnet_lite.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((), ()),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "clip": (open_clip_layouts.MEAN, open_clip_layouts.STD),
}
ACTIVATIONS = ("auto", "gelu", "quick_gelu")
_SHOWN = 6


class Foreign(NamedTuple):
    """The weights of a file, as our variables by name in float32, and what is known about them.

    layout: its name in messages. padding: what the weights were made for, "reference" or "torchvision".
    selector: the layer that the classifier stands on, None if the file does not say. step: of training, likewise.
    files: name -> SHA-256. ignored: kind -> number of variables.
    torchvision: the same weights as torchvision's class loads them; empty for another layout.
    pretrained: whether this kind of file is known to hold a pretrained network, whose classifier was added later.
    note: what a user should know about files of this kind, "" for nothing.
    encoder: arguments of models.make_encoder that are known and that neither names nor shapes tell.
    mean, std: what the network was trained to have its images normalised by: an export's own, ImageNet's for a network
        of PyTorch, () for SimCLR's, which take images in [0, 1].
    text: of a CLIP, what the shapes do not tell of its text tower: "num_heads" and "activation".
    """

    by_name: dict[str, np.ndarray]
    layout: str
    padding: str
    selector: int | None
    step: int | None
    files: dict[str, str]
    ignored: dict[str, int]
    torchvision: dict[str, np.ndarray]
    pretrained: bool
    note: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    encoder: Mapping[str, Any] = {}
    text: Mapping[str, Any] = {}


def read(
    path: pathlib.Path,
    *,
    weights: str = "model",
    ignore: tuple[str, ...] = (),
    network: str = "",
    activation: str = "auto",
) -> Foreign:
    """The weights that `path` names.

    Args:
        path: a .safetensors file, a file of torch.save, a TensorFlow checkpoint (prefix or one of its files), or a
            folder with one of these, such as an export.
        weights: "model", or "ema" for the moving averages that checkpoints of SimCLRv2 pretraining hold beside them.
        ignore: shell patterns of names, as the file has them, to leave out.
        network: in a file of PyTorch with several networks, the name of the one to take; "" to go by convention.
        activation: of a CLIP, "gelu" or "quick_gelu"; "auto" for what open_clip_config.json beside the file says, else
            "quick_gelu" for OpenAI's own files and "gelu" for others.

    Raises:
        base.InputError: no such file, one that cannot be read, an unknown layout, variables that mean nothing, or an
            activation for a file that is no CLIP's.
    """
    base.check_choice(weights, WEIGHTS, name="--weights")
    source = opening.open_weights(path)
    for file in source.files:
        card_lib.check_file(card_lib.read_card(file.parent), file)
    dropped = [name for name in source.names if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)]
    source = source._replace(names=tuple(name for name in source.names if name not in set(dropped)))
    state = _read(source, weights=weights, network=network)
    if state.unknown or state.missing:
        raise base.InputError(_unaccounted(path, state.unknown, state.missing))
    ignored = {kind: len(names) for kind, names in state.ignored.items()}
    ignored |= {"asked with --ignore": len(dropped)} if dropped else {}
    ignored |= {f"{', '.join(source.extras[:_SHOWN])} beside the weights": len(source.extras)} if source.extras else {}
    card = _read_card(path)
    padding, selector, mean, std, told = card or (state.padding, None, *_usual_normalization(state), {})
    text = _text_settings(source, state, activation)
    return Foreign(
        by_name={name: _as_weights(name, value) for name, value in sorted(state.by_name.items())},
        layout=state.layout,
        padding=padding,
        selector=selector,
        step=_step(source),
        files=files.digests(source),
        ignored=ignored,
        torchvision=state.torchvision,
        pretrained=state.pretrained,
        note=state.note,
        mean=mean,
        std=std,
        encoder={**state.encoder, **_design(state, text), **told},
        text=text,
    )


def shortened(names: list[str]) -> str:
    """The names for one line: all of a few, else the first ones and how many there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read(source: files.Source, *, weights: str, network: str) -> pytorch_layouts.State:
    """What the names of the source mean, by the first layout that knows them."""
    names, first = source.names, next(iter(source.files))
    ours = any(name.startswith("encoder/") for name in names)
    if network and (ours or tensorflow_names.is_tensorflow(names)):
        raise base.InputError(
            f"--network chooses between the networks in a file of PyTorch; {first} is none. Leave it out."
        )
    if tensorflow_names.is_tensorflow(names):
        found = tensorflow_names.match_names(names, ema=weights == "ema")
        if weights == "model" or found.found:
            by_name = {ours: source.read(theirs) for ours, theirs in found.found.items()}
            return pytorch_layouts.State(
                found.layout, "reference", by_name, found.ignored, found.unknown, found.missing, {}
            )
    if weights == "ema":
        raise base.InputError(
            f"--weights=ema needs a TF1 checkpoint with variables ema_model/...; {first} has none. "
            "Use --weights=model, or --network=NAME for the averages in a file of PyTorch."
        )
    if ours:
        arrays = {name: source.read(name) for name in names}
        return pytorch_layouts.State("variables of this project", "reference", arrays, {}, [], [], {})
    arrays = {name: source.read(name) for name in names}
    state = pytorch_layouts.read(arrays, network=network)
    if state is None:
        raise base.InputError(
            "A file must hold an official SimCLR checkpoint, our own variables, a complete ResNet of PyTorch (a "
            "first convolution, four groups of blocks, each convolution with a BatchNorm and its statistics), a "
            "vision transformer, ConvNeXt or EfficientNet of timm or torchvision, or a CLIP of open_clip; "
            f"{first} has {base.one_line(shortened(list(names)), 300) or 'nothing'}. Rename it to torchvision's names."
        )
    return state


def _unaccounted(path: pathlib.Path, unknown: list[str], missing: list[str]) -> str:
    lists = [
        f"{len(names)} {kind} ({shortened(names)})"
        for kind, names in (("unknown", unknown), ("missing", missing))
        if names
    ]
    remedy = "Leave unknown ones out: --ignore='PATTERN,PATTERN'." if unknown else "Is the file complete?"
    return (
        f"Every variable of a known network must be in the file, and no other; {path} has {', '.join(lists)}. {remedy}"
    )


def _as_weights(name: str, value: np.ndarray) -> np.ndarray:
    """The array as float32, if it holds finite numbers."""
    value = np.asarray(value)
    # bfloat16 counts as a void type for NumPy, so it is asked for by name.
    if not (np.issubdtype(value.dtype, np.floating) or value.dtype.name == "bfloat16"):
        raise base.InputError(f"Weights must be floating-point numbers; {name} has type {value.dtype}.")
    value = np.ascontiguousarray(value, np.float32).reshape(value.shape)  # of no dimension it would make one
    if not np.isfinite(value).all():
        raise base.InputError(f"Weights must be finite; {name} has NaN or infinity. The training had diverged.")
    return value


def _step(source: files.Source) -> int | None:
    """The training step: of the variable global_step, else from the file's name."""
    for name in source.names:
        if name in ("global_step", "global_step/.ATTRIBUTES/VARIABLE_VALUE"):
            return int(source.read(name))
    numbered = re.search(r"-(\d+)(?:\.\w+)?$", source.files[0].name) if source.kind == "tensorflow" else None
    return int(numbered[1]) if numbered else None


def _usual_normalization(state: pytorch_layouts.State) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a network without a card was most likely trained with: programs of SimCLR have the reference's padding."""
    return NORMALIZATIONS[state.normalization or ("imagenet" if state.padding == "torchvision" else "none")]


def _design(state: pytorch_layouts.State, text: Mapping[str, Any]) -> dict[str, Any]:
    """The design of a CLIP's vision transformer, whose activation is that of its texts."""
    if not text or "design" not in state.encoder:
        return {}
    return {"design": "openai" if text["activation"] == "quick_gelu" else "clip"}


def _text_settings(source: files.Source, state: pytorch_layouts.State, activation: str) -> dict[str, Any]:
    """`Foreign.text`: from the config beside the file, or as usual."""
    base.check_choice(activation, ACTIVATIONS, name="--activation")
    table = state.by_name.get("text_encoder/token_embedding")
    if table is None:
        if activation != "auto":
            raise base.InputError(
                f"--activation is for the weights of a CLIP; {source.files[0].name} holds {state.layout}. Leave it out."
            )
        return {}
    told = open_clip_layouts.read_settings(source.files[0].parent)
    is_quick = told.get("quick_gelu", state.encoder.get("design") == "openai" or "OpenAI" in state.layout)
    usual = "quick_gelu" if is_quick else "gelu"
    heads = told.get("text_num_heads", max(table.shape[1] // 64, 1))
    return {"num_heads": heads, "activation": usual if activation == "auto" else activation}


# What shapes do not tell of a vision transformer.
_TOLD_BY_CARD = ("num_heads", "position_grid", "design", "freeze_patches")


def _read_card(
    path: pathlib.Path,
) -> tuple[str, int, tuple[float, ...], tuple[float, ...], dict[str, Any]] | None:
    """(padding, selector of the classifier, mean, std, more arguments) by the card of an export of ours, if any."""
    folder = path if path.is_dir() else path.parent
    try:
        content: Mapping[str, Any] = card_lib.read_card(folder)
        if path.is_dir() or path.name in content["files"]:
            arguments = content["encoder"]["arguments"]
            method = content["training"]["config"]["method"]
            selector = int(method.get("ft_proj_selector", method.get("selector", 0)))  # its name in older exports
            # Exports of before knew no mean and std.
            mean, std = (tuple(map(float, arguments.get(name, ()))) for name in ("mean", "std"))
            told = {name: arguments[name] for name in _TOLD_BY_CARD if name in arguments}
            return str(arguments["padding"]), selector, mean, std, told
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # no card, or another program's
    return None
