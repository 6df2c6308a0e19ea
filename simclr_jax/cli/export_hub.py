"""The part of `simclr-jax export` that makes a folder for the Hugging Face hub: weights, config.json, README.md.

What belongs here: which weights go into it and what of a run's config is no one else's business.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from simclr_jax.interop import hub, torchvision, variables
from simclr_jax.run import workdir as workdir_lib

_HEAD = "projection_head.safetensors"


def write_weights(folder: pathlib.Path, by_name: variables.ByName, *, has_torch: bool) -> list[pathlib.Path]:
    """model.safetensors under torchvision's names, with the projection head in a file beside it; or all by ours."""
    if not has_torch:
        variables.save(folder / hub.WEIGHTS, by_name)
        return [folder / hub.WEIGHTS]
    head = variables.only(by_name, "projection_head")
    parts = {hub.WEIGHTS: {name: value for name, value in by_name.items() if name not in head}}
    parts |= {_HEAD: head} if head else {}
    for name, part in parts.items():
        variables.save(folder / name, torchvision.to_torchvision(part))
    return [folder / name for name in parts]


def write_words(folder: pathlib.Path, content: Mapping[str, Any], by_name: variables.ByName) -> list[pathlib.Path]:
    """README.md and config.json, by the card that goes with them."""
    bias = by_name.get("supervised_head/dense/bias")
    workdir_lib.write_json(folder / hub.CONFIG, hub.make_config(content, num_classes=0 if bias is None else len(bias)))
    (folder / hub.README).write_text(hub.make_readme(content), encoding="utf-8")
    return [folder / hub.README, folder / hub.CONFIG]


def without_paths(value: Any) -> Any:
    """A config for others to read: of absolute paths only the last name, as they tell of a machine and its users."""
    if isinstance(value, Mapping):
        return {name: without_paths(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(one) for one in value]
    kind, colon, path = value.rpartition("folder:") if isinstance(value, str) else ("", "", "")
    return f"{kind}{colon}{os.path.basename(path.rstrip(os.sep))}" if os.path.isabs(path) else value
