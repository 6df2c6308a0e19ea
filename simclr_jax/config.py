"""From the command line to a locked ConfigDict and plain flag values; the only home of ml_collections in the package.

A config is a Python file with `get_config()`. It is named by path or, for those that ship with the package, by its bare
name; `:ARG` behind it is handed to `get_config(ARG)`; `--config.section.key=value` changes a value.
"""

import difflib
import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from simclr_jax import base


def parse_flags(
    argv: Sequence[str], *, names: Mapping[str, str | None], with_config: bool
) -> tuple[config_dict.ConfigDict | None, dict[str, str | None]]:
    """(config, flag values) of one command line.

    Args:
        argv: the words behind the verb.
        names: string flags and their defaults.
        with_config: whether `--config` and its overrides are part of this command line; it is then required.

    Raises:
        base.InputError: for anything the user got wrong: one line that lists what is valid.
    """
    values = flags.FlagValues()
    for name, default in names.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    valid = [f"--{name}" for name in names]
    if with_config:
        argv = _resolve_config_flag(argv)
        valid += ["--config", "--config.SECTION.KEY"]
        config_flags.DEFINE_config_file(
            "config", flag_values=values, sys_argv=["", *argv], lock_config=True, help_string=""
        )
    try:
        rest = values(["", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise base.InputError(f"Unknown flag --{error.flagname}; valid flags: {', '.join(valid)}.") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise base.InputError(" ".join(str(error).split())) from error
    if rest:
        raise base.InputError(f"All arguments are flags (--name=value); got {rest[0]!r}. Valid: {', '.join(valid)}.")
    config = values["config"].value if with_config else None
    return config, {name: values[name].value for name in names}


def shipped_configs() -> dict[str, pathlib.Path]:
    """Bare name -> file of every config that travels with the package."""
    return {path.stem: path for path in sorted((_configs_root() / "configs").glob("*.py")) if path.stem != "__init__"}


def load_file(spec: str) -> config_dict.ConfigDict:
    """The config named by `NAME_OR_PATH[:ARG]`, without overrides."""
    config, _ = parse_flags([f"--config={spec}"], names={}, with_config=True)
    assert config is not None
    return config


def call(function: Callable[..., Any], config: Mapping[str, Any], section: str, /, **rest: Any) -> Any:
    """`function(**config[section], **rest)`: a section is the keyword arguments of one function.

    Raises:
        base.InputError: the section is missing or its keys are not the function's, with the keys it takes.
    """
    parameters = inspect.signature(function).parameters
    valid = [name for name, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY and name not in rest]
    if section not in config:
        raise base.InputError(f"A config has the section {section} with {', '.join(valid)}; it is missing.")
    unknown = [key for key in config[section] if key not in valid]
    required = [name for name in valid if parameters[name].default is inspect.Parameter.empty]
    missing = [key for key in required if key not in config[section]]
    if unknown or missing:
        got = f"unknown {', '.join(unknown)}" if unknown else f"missing {', '.join(missing)}"
        raise base.InputError(f"The config's section {section} takes {', '.join(valid)}; got {got}.")
    return function(**config[section], **rest)


def _configs_root() -> pathlib.Path:
    """The folder that holds `configs/`: inside the installed package, or the checkout the package runs from."""
    package = pathlib.Path(__file__).parent
    shipped = package / "_shipped"
    return shipped if shipped.is_dir() else package.parent


def _resolve_config_flag(argv: Sequence[str]) -> list[str]:
    """argv with a bare config name replaced by its path, after checking that file and overridden keys exist."""
    words = list(argv)
    at = next((i for i, word in enumerate(words) if re.match(r"^--?config(=|$)", word)), None)
    if at is None or (words[at].endswith("config") and at + 1 == len(words)):
        raise base.InputError(f"--config is required: a path or one of {', '.join(shipped_configs())}.")
    if "=" not in words[at]:
        words[at : at + 2] = [f"--config={words[at + 1]}"]
    name, colon, arg = words[at].partition("=")[2].partition(":")
    path = shipped_configs().get(name, pathlib.Path(name))
    if not path.is_file():
        raise base.InputError(
            f"--config must be a file or one of {', '.join(shipped_configs())}; got {name!r}.{_closest(name)}"
        )
    root = str(_configs_root())
    if root not in sys.path:
        sys.path.insert(0, root)  # configs import `configs.default`
    words[at] = f"--config={path}{colon}{arg}"
    _check_overrides(words, words[at].partition("=")[2])
    return [words[at], *words[:at], *words[at + 1 :]]


def _check_overrides(words: Sequence[str], spec: str) -> None:
    """Raises InputError for an override of a key that the config does not have, listing the keys it has."""
    overrides = [re.sub(r"^--?(no)?config\.", "", word).partition("=")[0] for word in words if _is_override(word)]
    config: Any = _get_config(spec)
    for override in overrides:
        section, seen = config, []
        for part in override.split("."):
            valid = list(section) if isinstance(section, config_dict.ConfigDict) else []
            if part not in valid:
                where = f"section {'.'.join(seen)}" if seen else "the config"
                raise base.InputError(
                    f"Unknown key --config.{override}; {where} has {', '.join(valid) or 'no keys below it'}."
                )
            section = section[part]
            seen.append(part)


def _get_config(spec: str) -> config_dict.ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["", "--config=" + spec])
    try:
        values(["", f"--config={spec}"])
    except Exception as error:  # a config is the user's own Python: anything may come out of it
        reason = str(error).strip().splitlines()[-1]  # absl puts the traceback of the config file before it
        raise base.InputError(f"--config={spec} cannot be read: {reason}") from error
    return values["config"].value


def _is_override(word: str) -> bool:
    return re.match(r"^--?(no)?config\.", word) is not None


def _closest(name: str) -> str:
    near = difflib.get_close_matches(name, shipped_configs(), n=1)
    return f" Did you mean {near[0]}?" if near else ""
