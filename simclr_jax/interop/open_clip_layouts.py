"""The names and layouts of CLIP as OpenAI and open_clip have it, both ways: image tower, text tower, projections.

What belongs here: which of our variables of the method clip is which entry of a state dict, and the settings that
belong to it. No torch is needed.

    encoder/patch_projection, class_token, positions   visual.conv1, class_embedding, positional_embedding
    encoder/norm_pre, norm                              visual.ln_pre, ln_post
    encoder/block{b}/norm1, qkv, proj, norm2, mlp1, 2   visual.transformer.resblocks.{b-1}.ln_1, attn ..., mlp ...
    encoder/stem, block_group{g} (ResNets)              visual.conv{i}, bn{i}, layer{g} as in torchvision
    encoder/pool/positions, query, key, value           visual.attnpool.positional_embedding, q_proj, k_proj, v_proj
    image_projection                                    visual.proj, or visual.attnpool.c_proj with its bias
    text_encoder/...                                    token_embedding, positional_embedding, transformer, ln_final
    text_projection, logits/log_scale, bias             text_projection, logit_scale, logit_bias

Reference: model.py, transformer.py and modified_resnet.py of open_clip; model.py of openai/CLIP has the same names.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base

CONFIG = "open_clip_config.json"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Numbers beside the weights of OpenAI's files, whose networks have quick_gelu; open_clip's own have not.
_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")
_NORM = {"scale": "weight", "bias": "bias"}
_BATCH_NORM = {**_NORM, "mean": "running_mean", "var": "running_var"}
_LAYER = {"kernel": "weight", "bias": "bias"}
_HEAD_WIDTH = 64


class Found(NamedTuple):
    """A CLIP in a file.

    names: the file's name -> ours. missing: names that the file should have. is_openai: whether the file is known to be
    of OpenAI, with its approximation of GELU.
    """

    names: dict[str, str]
    missing: list[str]
    is_openai: bool


def find(names: Sequence[str]) -> Found | None:
    """The CLIP among the names of a file, with any prefix; None if there is none."""
    starts = [name.removesuffix("visual.conv1.weight") for name in names if name.endswith("visual.conv1.weight")]
    if not starts:
        return None
    prefix, known = starts[0], set(names)
    # Where open_clip lets the text tower be any network, its names have a beginning of their own.
    text = f"{prefix}text." if f"{prefix}text.token_embedding.weight" in known else prefix
    if f"{text}token_embedding.weight" not in known:
        return None
    own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    depth = _count((name.removeprefix(text) for name in names), r"transformer\.resblocks\.(\d+)\.")
    ours = {
        **{there: f"{prefix}{here}" for there, here in _image_names(own).items()},
        **{there: f"{text}{here}" for there, here in _text_names(depth).items()},
        "logits/log_scale": f"{prefix}logit_scale",
    }
    ours |= {"logits/bias": f"{prefix}logit_bias"} if f"{prefix}logit_bias" in known else {}
    missing = [there for there in ours.values() if there not in known]
    is_openai = all(f"{prefix}{name}" in known for name in _OF_OPENAI)
    return Found({there: here for here, there in ours.items() if there in known}, missing, is_openai)


def is_ignored(name: str) -> bool:
    """Whether an entry is no weight: OpenAI's sizes, and the mask of causal attention in old files."""
    return name.rpartition(".")[2] in (*_OF_OPENAI, "attn_mask")


def to_open_clip(by_name: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of open_clip's CLIP for all our variables of the method clip.

    Raises:
        base.InputError: a variable has no place there: an encoder that is not CLIP's.
    """
    depth = _count(by_name, r"text_encoder/block(\d+)/", start=1)
    theirs = {**_image_names_of_ours(by_name), **_text_names(depth)}
    theirs |= {"logits/log_scale": "logit_scale", "logits/bias": "logit_bias"}
    unknown = sorted(set(by_name) - set(theirs))
    if unknown:
        raise base.InputError(
            f"open_clip's CLIP has no place for {unknown[0]}. Its encoders are clip_resnet50 and the like, and vision "
            "transformers with design clip or openai and a class token; use another format."
        )
    return {theirs[name]: _to_torch_array(name, theirs[name], np.asarray(value)) for name, value in by_name.items()}


def model_config(by_name: Mapping[str, np.ndarray], *, text_num_heads: int, is_quick: bool) -> dict[str, Any]:
    """What `open_clip_config.json` says of these weights, for `open_clip.create_model("local-dir:FOLDER")`."""
    positions = by_name.get("encoder/positions", by_name.get("encoder/pool/positions"))
    assert positions is not None  # `to_open_clip` has seen them
    grid, table = round((len(positions) - 1) ** 0.5), by_name["text_encoder/token_embedding"]
    if "encoder/pool/positions" in by_name:
        stem = by_name["encoder/stem/conv3/kernel"].shape[-1]
        sizes = [_count(by_name, rf"encoder/block_group{group}/block(\d+)/", start=1) for group in (1, 2, 3, 4)]
        vision = {"image_size": 32 * grid, "layers": sizes, "width": stem, "head_width": min(_HEAD_WIDTH, 32 * stem)}
    else:
        patch, _, _, width = by_name["encoder/patch_projection/kernel"].shape
        layers = _count(by_name, r"encoder/block(\d+)/", start=1)
        vision = {"image_size": patch * grid, "layers": layers, "width": width, "patch_size": patch}
    text = {
        "context_length": len(by_name["text_encoder/position_embedding"]),
        "vocab_size": len(table),
        "width": table.shape[1],
        "heads": text_num_heads,
        "layers": _count(by_name, r"text_encoder/block(\d+)/", start=1),
    }
    sizes_of = {"embed_dim": by_name["text_projection/kernel"].shape[1], "quick_gelu": is_quick}
    sizes_of |= {"init_logit_bias": 0.0} if "logits/bias" in by_name else {}
    return {"model_cfg": {**sizes_of, "vision_cfg": vision, "text_cfg": text}}


def read_settings(folder: pathlib.Path) -> dict[str, Any]:
    """{"quick_gelu", "text_num_heads"} of the `open_clip_config.json` in a folder; {} where there is none to read."""
    try:
        config = base.parse_json((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
        return {"quick_gelu": bool(config.get("quick_gelu", False)), "text_num_heads": int(config["text_cfg"]["heads"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def from_torch_array(name: str, theirs: str, value: np.ndarray) -> np.ndarray:
    """The entry `theirs` of a file as our variable `name`."""
    if _is_layer(name, theirs):
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value).reshape(value.shape)  # of no dimension it would make one


def _to_torch_array(name: str, theirs: str, value: np.ndarray) -> np.ndarray:
    if _is_layer(name, theirs):
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value).reshape(value.shape)


def _is_layer(name: str, theirs: str) -> bool:
    """Whether torch has it the other way round: the bare matrices of projections multiply from the right, as ours."""
    return name.endswith("/kernel") and theirs.endswith("weight")


def _count(names: Iterable[str], pattern: str, *, start: int = 0) -> int:
    """How many numbers from `start` on there are in the place of the pattern's group, by the highest one."""
    found = [int(match[1]) for match in (re.match(pattern, name) for name in names) if match]
    return max(found) + 1 - start if found else 0


def _leaves(ours: str, theirs: str, leaves: Mapping[str, str]) -> dict[str, str]:
    joint = "_" if theirs.endswith("in_proj") else "."
    return {f"{ours}/{here}": f"{theirs}{joint}{there}" for here, there in leaves.items()}


def _blocks(ours: str, theirs: str, *, depth: int, out: str) -> dict[str, str]:
    """Our name -> theirs of the blocks of a transformer; `out` is what we call the layer behind the attention."""
    names: dict[str, str] = {}
    for number in range(depth):
        for part, module in (("norm1", "ln_1"), ("norm2", "ln_2")):
            names |= _leaves(f"{ours}/block{number + 1}/{part}", f"{theirs}.{number}.{module}", _NORM)
        rows = (("qkv", "attn.in_proj"), (out, "attn.out_proj"), ("mlp1", "mlp.c_fc"), ("mlp2", "mlp.c_proj"))
        for part, module in rows:
            names |= _leaves(f"{ours}/block{number + 1}/{part}", f"{theirs}.{number}.{module}", _LAYER)
    return names


def _text_names(depth: int) -> dict[str, str]:
    return {
        "text_encoder/token_embedding": "token_embedding.weight",
        "text_encoder/position_embedding": "positional_embedding",
        **_blocks("text_encoder", "transformer.resblocks", depth=depth, out="out"),
        **_leaves("text_encoder/norm", "ln_final", _NORM),
        "text_projection/kernel": "text_projection",
    }


def _image_names(names: Sequence[str]) -> dict[str, str]:
    """Our name -> theirs of the image tower, for the names of a file."""
    if not any(name.startswith("visual.layer1.") for name in names):
        return _transformer_names(_count(names, r"visual\.transformer\.resblocks\.(\d+)\."))
    return _resnet_names([_count(names, rf"visual\.layer{group}\.(\d+)\.") for group in (1, 2, 3, 4)])


def _image_names_of_ours(by_name: Mapping[str, np.ndarray]) -> dict[str, str]:
    if "encoder/pool/positions" not in by_name:
        return _transformer_names(_count(by_name, r"encoder/block(\d+)/", start=1))
    groups = (1, 2, 3, 4)
    return _resnet_names([_count(by_name, rf"encoder/block_group{g}/block(\d+)/", start=1) for g in groups])


def _transformer_names(depth: int) -> dict[str, str]:
    return {
        "encoder/patch_projection/kernel": "visual.conv1.weight",
        "encoder/class_token": "visual.class_embedding",
        "encoder/positions": "visual.positional_embedding",
        **_leaves("encoder/norm_pre", "visual.ln_pre", _NORM),
        **_blocks("encoder", "visual.transformer.resblocks", depth=depth, out="proj"),
        **_leaves("encoder/norm", "visual.ln_post", _NORM),
        "image_projection/kernel": "visual.proj",
    }


def _resnet_names(sizes: Sequence[int]) -> dict[str, str]:
    names: dict[str, str] = {}

    def add(ours: str, theirs: str, pairs: Sequence[tuple[str, str]]) -> None:
        for here, there in pairs:
            leaves = _BATCH_NORM if "bn" in here else {"kernel": "weight"}
            names.update(_leaves(f"{ours}/{here}", f"{theirs}.{there}", leaves))

    layers = [(f"{kind}{number}", f"{kind}{number}") for number in (1, 2, 3) for kind in ("conv", "bn")]
    add("encoder/stem", "visual", layers)
    for group, size in enumerate(sizes, start=1):
        for block in range(size):
            shortcut = [("proj_conv", "downsample.0"), ("proj_bn", "downsample.1")] if block == 0 else []
            ours = f"encoder/block_group{group}/block{block + 1}"
            add(ours, f"visual.layer{group}.{block}", [*layers, *shortcut])
    names["encoder/pool/positions"] = "visual.attnpool.positional_embedding"
    for ours in ("query", "key", "value"):
        names |= _leaves(f"encoder/pool/{ours}", f"visual.attnpool.{ours[0]}_proj", _LAYER)
    return names | _leaves("image_projection", "visual.attnpool.c_proj", _LAYER)
