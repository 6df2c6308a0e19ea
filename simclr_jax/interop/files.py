"""Reading weight files of other programs: which arrays a file holds, under the file's own names.

What belongs here: safetensors files and torch's files. TensorFlow's checkpoints are read by `tensorflow_files`. Nothing
here knows what a name means. No pickle of unknown content is ever loaded: torch files go through `weights_only=True`.
"""

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
# Keys of a torch file under which programs keep the network's state dict, the likeliest first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "network", "net")


class Source(NamedTuple):
    """The variables of one file or checkpoint.

    kind: "safetensors" | "torch" | "tensorflow".
    names: of the variables, in the order of the file.
    read: name -> NumPy array.
    files: the files that hold them, for `digests`.
    metadata: text that the file has about itself.
    extras: entries beside the network's weights that were left out, such as an optimizer.
    """

    kind: str
    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    files: tuple[pathlib.Path, ...]
    metadata: Mapping[str, str]
    extras: tuple[str, ...]


def open_safetensors(path: pathlib.Path) -> Source:
    """The arrays of a .safetensors file.

    Raises:
        base.InputError: safetensors is not installed, or it is no such file.
    """
    try:
        import safetensors
    except ImportError as error:
        raise missing_library("safetensors", "safetensors", "safetensors") from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names, metadata = tuple(file.keys()), dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in names}
    except Exception as error:
        raise unreadable(path, "a safetensors file", error) from error
    return Source("safetensors", names, arrays.__getitem__, (path,), metadata, ())


def open_torch(path: pathlib.Path) -> Source:
    """The tensors of a file that `torch.save` wrote: a state dict, or one inside a dict.

    A dict with "resnet" and "head" gives both, under those prefixes.

    Raises:
        base.InputError: torch is not installed, it is no such file, or it holds no state dict or several.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_library("torch", "PyTorch", "torch") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise unreadable(path, "a file of torch.save with tensors only", error) from error
    tensors, extras = _state_dict(content, path, is_tensor=torch.is_tensor)

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].detach()
        # NumPy has no bfloat16, and nothing is lost on the way from half precision to float32.
        return (tensor.to(torch.float32) if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()

    return Source("torch", tuple(tensors), read, (path,), {}, extras)


def digests(source: Source) -> dict[str, str]:
    """SHA-256 (hex) of every file, by its name."""
    found = {}
    for path in source.files:
        with open(path, "rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def missing_library(package: str, name: str, what: str) -> base.InputError:
    """The error for a library that a kind of file needs and that is not installed."""
    return base.InputError(f"Files of {what} are read with {name}, which is not installed. pip install {package}")


def unreadable(path: pathlib.Path, what: str, error: Exception) -> base.InputError:
    """The error for a file that its library cannot read, with the library's reason in short."""
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= 160 else f"{reason[:160]} ..."
    return base.InputError(f"--input must be {what}; {path} cannot be read as one: {reason or type(error).__name__}.")


def _state_dict(
    content: Any, path: pathlib.Path, *, is_tensor: Callable[[Any], bool]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(name -> tensor, names of what stands beside)."""

    def holds_tensors(value: Any) -> bool:
        return isinstance(value, Mapping) and any(is_tensor(item) for item in value.values())

    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise base.InputError(f"A torch file must hold a state dict, or a dict with one; {path} holds a {kind}.")
    if holds_tensors(content):
        tensors = {str(name): value for name, value in content.items() if is_tensor(value)}
        return tensors, tuple(str(name) for name in content if str(name) not in tensors)
    inner = {str(key): value for key, value in content.items() if holds_tensors(value)}
    if {"resnet", "head"} <= inner.keys():
        chosen, prefixes = ["resnet", "head"], ["resnet.", "head."]
    else:
        chosen, prefixes = [key for key in _STATE_KEYS if key in inner][:1] or list(inner), [""]
    if len(chosen) != len(prefixes):
        raise base.InputError(
            f"A torch file must hold one state dict, under one of {', '.join(_STATE_KEYS)}; {path} has "
            f"{', '.join(chosen) or 'none'} among {', '.join(map(str, list(content)[:8]))}. Save the one you mean."
        )
    tensors = {
        prefix + str(name): value
        for key, prefix in zip(chosen, prefixes, strict=True)
        for name, value in inner[key].items()
        if is_tensor(value)
    }
    return tensors, tuple(str(key) for key in content if str(key) not in chosen)
