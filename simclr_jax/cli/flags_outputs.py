"""What the flags of a verb that name its outputs may be, asked once for all verbs before anything is read or made.

An output has one of the endings of its kind, and is none of the inputs and no other output. That a picture or a folder
in its place stays, `atomic_files.check_target` and `check_folder` see to.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from simclr_jax import atomic_files, base

_PREFIXES = ("folder:", "pairs:")
_CONFIGS = ("config", "config_json")
_WORDS = ("--text", "--title", "--name")  # whose values are no paths, whatever they look like


class Output(NamedTuple):
    """endings: of a file, small letters; () for a folder. or_folder: whether it may be a folder in place of a file."""

    endings: tuple[str, ...] = ()
    or_folder: bool = False


def check(outputs: Mapping[str, Output], values: Mapping[str, Any], words: Sequence[str]) -> None:
    """Makes sure that a command replaces nothing that it reads, and writes no two results to one place.

    Args:
        outputs: flag -> what it names.
        values: name of a flag, without its dashes -> value, defaults included; "config" -> the config.
        words: of the command line.

    Raises:
        base.InputError: a wrong ending, or an output that is an input, a picture among the inputs, or another output.
    """
    inputs = [*_inputs(outputs, values), *_configs(values, words)]
    seen: dict[str, str] = {}
    for flag, output in outputs.items():
        path = values.get(flag.removeprefix("--"))
        if path is None or _is_stream(path):
            continue
        _check_ending(flag, path, output)
        for other, given in inputs:
            _check_apart(flag, path, other=other, given=given)
        for other, given in seen.items():
            if _are_same(path, given):
                raise base.InputError(
                    f"{other} and {flag} must be two places; both are {_shown(path)}. Give one of them another name."
                )
        seen[flag] = path


def _check_ending(flag: str, path: str, output: Output) -> None:
    ending = pathlib.Path(path).suffix.lower()
    if not output.endings or ending in output.endings or path.endswith(("/", os.sep)) or os.path.isdir(path):
        return
    if output.or_folder and not ending:
        return
    listed = f"one of {', '.join(output.endings)}" if len(output.endings) > 2 else " or ".join(output.endings)
    more = ", or be a folder, the name of which has no ending" if output.or_folder else ""
    stem = pathlib.Path(path).stem or flag.removeprefix("--")
    raise base.InputError(
        f"{flag} must end in {listed}{more}; got {_shown(path)}. Use for example {_shown(stem)}{output.endings[0]}."
    )


def _check_apart(flag: str, path: str, *, other: str, given: str) -> None:
    if _are_same(path, given):
        raise base.InputError(
            f"{flag} must be a place of its own; {_shown(path)} is {other} too, which it would replace. Choose another "
            "name."
        )
    if os.path.isdir(given) and atomic_files.is_picture(path) and _is_below(path, given):
        raise base.InputError(
            f"{flag} must replace no picture of {other}; {_shown(path)} is one. Choose another name or folder."
        )


def _inputs(outputs: Mapping[str, Output], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(flag, path) of whatever flag names something that is there."""
    for name, value in values.items():
        if f"--{name}" in (*outputs, *_WORDS) or name == "config":
            continue
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and (path := _as_path(text)):
                yield f"--{name}", path


def _configs(values: Mapping[str, Any], words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag, path) of the files that a config is read from, and of the folder of its data."""
    if "config" not in values:
        return
    for word, following in zip(words, (*words[1:], ""), strict=True):
        name, equals, text = word.lstrip("-").partition("=")
        if word.startswith("-") and name in _CONFIGS and (path := _as_path(text if equals else following)):
            yield f"--{name}", path
    section = values["config"].get("data", {})
    if section.get("name") and (path := _as_path(str(section["name"]), str(section.get("data_dir") or ""))):
        yield "the data", path


def _as_path(text: str, folder: str = "") -> str:
    """What a value names, if it is there; else ""."""
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    path = os.path.join(folder, os.path.expanduser(text)) if text else ""
    try:
        return path if os.path.exists(path) else ""
    except ValueError:  # a NUL in it
        return ""


def _are_same(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)


def _is_below(path: str, folder: str) -> bool:
    return pathlib.Path(os.path.realpath(folder)) in pathlib.Path(os.path.realpath(path)).parents


def _is_stream(path: str) -> bool:
    """Whether it is a shell's pipe or stream, or a device: nothing in it can be lost."""
    whole = os.path.abspath(path)
    return whole.startswith(("/dev/", "/proc/")) or (
        os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    )


def _shown(path: str) -> str:
    return base.one_line(path, 120)
