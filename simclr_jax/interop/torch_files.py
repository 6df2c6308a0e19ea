"""Reading files of `torch.save`: the tensors in them, under the names of their state dicts.

What belongs here: state dicts inside of dicts, modules that were saved whole, and what stands beside the weights. No
code that a file names is ever run or imported: torch reads with `weights_only=True`, and where a file names a class
that torch does not know, such as argparse.Namespace, an object of our own that does nothing takes its place.
"""

import builtins
import collections
import contextlib
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from simclr_jax import base
from simclr_jax.interop import files

_REFUSED = re.compile(r"GLOBAL (\S+) was not an allowed global|unsupported GLOBAL (\S+) whose module")
_OTHER_KIND = re.compile(r"Can only (SETITEMS?|append) .*but got <class '(.+?)'>", re.DOTALL)
_REASON = "WeightsUnpickler error: "
_MOST_CLASSES = 100
_SHOWN = 8
_USUAL_KEY, _ANY_KEY = "['state_dict']", "[KEY].state_dict()"
_PARTS_OF_A_MODULE = ("_parameters", "_buffers", "_modules")


class _StandIn:
    """In place of an object of an unknown class: takes everything and does nothing."""

    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _StandInList(list[Any]):
    """In place of a class derived from list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()


class _StandInDict:
    """In place of a class derived from dict; torch puts entries only into its own kinds of dicts."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return collections.OrderedDict()


def open_torch(path: pathlib.Path) -> files.Source:
    """The tensors of a file that `torch.save` wrote: a state dict, or all that are inside dicts of dicts.

    Names are those in the state dict; with several state dicts, the keys that lead to each stand before, with dots.

    Raises:
        base.InputError: torch is not installed, it is no such file, or it holds no state dict.
    """
    try:
        import torch
    except ImportError as error:
        raise files.missing_library("torch", "PyTorch", "torch") from error
    content = _load(torch, path)
    found = {keys: dict(tensors) for keys, tensors in _state_dicts(content, (), is_tensor=torch.is_tensor)}
    if not found:
        raise base.InputError(
            f"A torch file must hold a state dict, or dicts with one; {path} holds {_described(content)}. "
            f"{_two_lines(path, _ANY_KEY) if _has_stand_ins(content) else 'Name the file with the weights.'}"
        )
    single = len(found) == 1
    tensors = {
        ".".join((*(() if single else keys), name)): tensor
        for keys, state in found.items()
        for name, tensor in state.items()
    }
    used = {keys[0] for keys in found if keys} | (found.get((), {}).keys())
    extras = tuple(str(key) for key in content if str(key) not in used) if isinstance(content, Mapping) else ()

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].detach()
        # NumPy has no bfloat16, and nothing is lost on the way from half precision to float32.
        return (tensor.to(torch.float32) if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()

    return files.Source("torch", tuple(tensors), read, (path,), {}, extras)


def _load(torch: Any, path: pathlib.Path) -> Any:
    """What the file holds, with stand-ins for objects of classes that torch does not know."""
    stand_ins: dict[str, type] = {}
    while True:
        try:
            # Not by its path: torch would go by the ending.
            with open(path, "rb") as file, _allowing(torch, stand_ins):
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            said = str(error).rpartition(_REASON)[2]
            other = _OTHER_KIND.search(said)
            full = next((name for name in stand_ins if other and other[2].endswith(f".{name}")), None)
            if other and full and not issubclass(stand_ins[full], _StandInDict | _StandInList):
                stand_ins[full] = type(full, (_StandInList if other[1] == "append" else _StandInDict,), {})
                continue
            refused = _REFUSED.search(said)
            if not refused:
                raise files.unreadable(path, "a file of torch.save with tensors only", said) from error
            name = refused[1] or refused[2]
            full = name if "." in name else f"builtins.{name}"
            hopeless = full in stand_ins or len(stand_ins) == _MOST_CLASSES
            if refused[2] or _is_function(name) or hopeless or not hasattr(torch.serialization, "safe_globals"):
                raise base.InputError(
                    f"--input must be a file of torch.save with tensors only; {path} also holds "
                    f"{base.one_line(name, 100)}, which is not loaded, as that would run code of the file. "
                    f"{_two_lines(path, _USUAL_KEY)}"
                ) from error
            stand_ins[full] = type(full, (_StandIn,), {})


def _allowing(torch: Any, stand_ins: Mapping[str, type]) -> contextlib.AbstractContextManager[None]:
    """While it lasts, torch takes our classes where the file names others."""
    pairs = [(kind, name) for name, kind in stand_ins.items()]
    return torch.serialization.safe_globals(pairs) if pairs else contextlib.nullcontext()


def _is_function(name: str) -> bool:
    """Whether it is a builtin function: torch gives the names of builtins without their module."""
    return "." not in name and not isinstance(getattr(builtins, name, None), type)


def _state_dicts(
    value: Any, keys: tuple[str, ...], *, is_tensor: Any
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """(keys that lead to it, its tensors by name) of every state dict; an optimizer's state has numbers for keys."""
    if isinstance(value, _StandIn) and _module_parts(value):
        yield keys, dict(_tensors_of_module(value, "", is_tensor=is_tensor))
    elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        tensors = {name: item for name, item in value.items() if is_tensor(item)}
        if any(tensor.ndim for tensor in tensors.values()):
            yield keys, tensors
        for key, item in value.items():
            yield from _state_dicts(item, (*keys, key), is_tensor=is_tensor)


def _module_parts(value: _StandIn) -> list[Mapping[str, Any]]:
    """The parameters, buffers and modules of a module that was saved whole; nothing for other objects."""
    state = value.state if isinstance(value.state, Mapping) else {}
    parts = [state.get(part) for part in _PARTS_OF_A_MODULE]
    return [part for part in parts if isinstance(part, Mapping)] if all(isinstance(p, Mapping) for p in parts) else []


def _tensors_of_module(module: _StandIn, prefix: str, *, is_tensor: Any) -> Iterator[tuple[str, Any]]:
    """What the state dict of a module would hold."""
    for part in _module_parts(module):
        for name, item in part.items():
            if is_tensor(item):
                yield f"{prefix}{name}", item
            elif isinstance(item, _StandIn):
                yield from _tensors_of_module(item, f"{prefix}{name}.", is_tensor=is_tensor)


def _described(content: Any) -> str:
    """The content of a file in words: its keys, or its class."""
    if isinstance(content, Mapping):
        listed = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:_SHOWN]]
        return base.one_line(", ".join(listed)) or "nothing"
    return f"a {base.one_line(type(content).__name__, 100)}"


def _has_stand_ins(content: Any) -> bool:
    values = content.values() if isinstance(content, Mapping) else [content]
    return any(isinstance(value, _StandIn) for value in values)


def _two_lines(path: pathlib.Path, inside: str) -> str:
    return (
        "If you trust the file, two lines of Python save the weights alone, here with the key under which they lie: "
        f"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
        f"{inside}, 'weights.pth')"
    )
