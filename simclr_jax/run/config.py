"""From the words of a command line to a locked ConfigDict; the only home of ml_collections in the package.

`call` needs plain dicts only, so ml_collections and absl are imported where a command line or a config file is read:
a program assembled from recorded settings runs where neither is installed.

A config is a Python file with `get_config()`, or a JSON file of values (`config_json`). It is named by path or, for
those that ship with the package, by its bare name; `:ARG` after it is handed to `get_config(ARG)`;
`--config.section.key=value` changes a value, or opens it: None.
Paths are absolute from here on (`paths` has the rule), so that a run can be looked at from any folder.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.machinery
import importlib.util
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simclr_jax import base
from simclr_jax.run import config_json, config_rules, paths, shipped_configs

if TYPE_CHECKING:
    from ml_collections import config_dict

_PATH_KEYS = ("data.data_dir", "data.cache_dir", "init.workdir", "teacher.workdir", "split.label_list")
# What a key takes, for the message that it does not take None.
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a tuple"}


def parse(words: Sequence[str], *, default: str | None = None) -> tuple[config_dict.ConfigDict, list[str]]:
    """(the locked config that a command line names and changes, the words that are not about the config).

    Args:
        words: of a command line, with `--config=NAME_OR_PATH[:ARG]` and any number of `--config.SECTION.KEY=VALUE`.
        default: what `--config` is where it is not given; None where it must be given.

    Raises:
        base.InputError: for anything the user got wrong: one line that lists what is valid.
    """
    from absl import flags
    from ml_collections import config_flags

    spec, words = _take_config_flag(words, default=default)
    config = _get_config(spec)
    defaults = _check_complete(config, spec)
    overrides, rest = _split(words, config)
    _check_overrides(overrides, config)
    valued, nones = _take_nones(overrides, config)
    words = ["", *itertools.chain.from_iterable(valued)]
    values = flags.FlagValues()
    try:
        if valued:  # to make flags of all keys takes longer than all else here
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
            values(words)
    except (flags.Error, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise base.InputError(_one_line(str(error), 300)) from error
    for key in nones:
        _set(config, key, None)
    config_rules.check(config.to_dict(), remedies=defaults)
    _make_paths_absolute(config)
    return config, rest


def mark_absl_flags() -> None:
    """Tells absl that the program's flags are read; Grain and others refuse to work before that is said."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()


def with_data(
    config: Mapping[str, Any], *, data: str | None = None, data_dir: str | None = None, cache_dir: str | None = None
) -> dict[str, Any]:
    """The config of a run with its data where they are now: what evaluate and report take with flags of these names.

    Args:
        config: of a run, as it was kept.
        data: in place of data.name, for example "folder:NEW"; None for the same.
        data_dir: in place of data.data_dir; None for the same.
        cache_dir: in place of data.cache_dir; None for the same, "" for no cache.

    Raises:
        base.InputError: a path that cannot be one, a folder of images that is not there, or a `data_dir` that this
            run's data do not depend on.
    """
    section = dict(config["data"])
    if data_dir is not None:
        section["data_dir"] = paths.absolute(data_dir, flag="--data_dir")
    if cache_dir is not None:
        section["cache_dir"] = cache_dir and paths.absolute(cache_dir, flag="--cache_dir")
    if data is not None:
        section["name"] = paths.data_name(data, data_dir, flag="--data")
    sets = [name.partition(":")[::2] for name in paths.set_names(str(section["name"]))]
    if data_dir is not None and all(kind not in ("tfds", "folder") or os.path.isabs(path) for kind, path in sets):
        raise base.InputError(
            f"--data_dir is where tfds sets and folders with a relative name lie; the images are {section['name']}. "
            "Use --data=folder:PATH."
        )
    for kind, path in sets:
        folder = os.path.join(section["data_dir"] or "", os.path.expanduser(path))
        if kind == "folder" and not os.path.isdir(folder):
            raise base.InputError(
                f"The images of a run must be in an existing folder; got {_one_line(folder, 150)}. Say where they are "
                "now: --data=folder:PATH."
            )
    return {**config, "data": section}


def load_file(spec: str, *overrides: str) -> config_dict.ConfigDict:
    """The config named by `NAME_OR_PATH[:ARG]`, changed by `overrides` such as "--config.seed=3".

    Raises:
        base.InputError: as `parse`, or a word is no override.
    """
    config, rest = parse([f"--config={spec}", *overrides])
    if rest:
        raise base.InputError(f"An override must be --config.SECTION.KEY=VALUE; got '{_one_line(rest[0])}'.")
    return config


def call(function: Callable[..., Any], config: Mapping[str, Any], section: str, /, **rest: Any) -> Any:
    """`function(**config[section], **rest)`: a section is the keyword arguments of one function.

    Raises:
        base.InputError: the section is missing or its keys are not the function's, with the keys it takes; or what the
            function itself says, its arguments named as the keys that people set: schedule.warmup_epochs.
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
    try:
        return function(**config[section], **rest)
    except base.InputError as error:
        raise base.InputError(_with_sections(str(error), config, section)) from error


def _take_config_flag(words: Sequence[str], *, default: str | None) -> tuple[str, list[str]]:
    """(value of --config or --config_json, the other words)."""
    at = [i for i, word in enumerate(words) if re.match(r"^--?config(_json)?(=|$)", word)]
    if not at and default is not None:
        return default, list(words)
    if not at or (re.search(r"config(_json)?$", words[at[0]]) and at[0] + 1 == len(words)):
        raise base.InputError(f"--config is required: a path or one of {_listed()}.")
    if len(at) > 1:
        raise base.InputError(f"--config may be given once; got it {len(at)} times. Leave one.")
    flag, equals, value = words[at[0]].partition("=")
    value = value if equals else words[at[0] + 1]
    if flag.endswith("_json") and not (value.endswith(".json") and os.path.isfile(os.path.expanduser(value))):
        raise base.InputError(
            f"--config_json must be a file NAME.json, which is only read and never run; got '{_one_line(value)}'."
        )
    return value, [*words[: at[0]], *words[at[0] + (1 if equals else 2) :]]


def _split(words: Sequence[str], config: config_dict.ConfigDict) -> tuple[list[list[str]], list[str]]:
    """(overrides of the config, each of one word or two, the other words)."""
    now, overrides, rest = base.flat(config.to_dict()), list[list[str]](), list[str]()
    remaining = iter(words)
    for word in remaining:
        key, equals, _ = re.sub(r"^--?config\.", "", word).partition("=")
        if not _is_override(word):
            rest.append(word)
            continue
        in_two_words = not equals and key in now and not isinstance(now[key], bool)  # --config.key value
        overrides.append([word, *(itertools.islice(remaining, 1) if in_two_words else ())])
    return overrides, rest


def _get_config(spec: str) -> config_dict.ConfigDict:
    """The locked config that NAME_OR_PATH[:ARG] names."""
    from ml_collections import config_dict

    path, arg = _find_file(spec)
    root = str(shipped_configs.root())
    if root not in sys.path:
        sys.path.insert(0, root)  # configs import `configs.default`
    try:
        if path.endswith(".json"):
            return config_json.fill(_get_config("default"), path).lock()
        loader = importlib.machinery.SourceFileLoader("config_file", path)
        module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("config_file", loader, origin=path))
        loader.exec_module(module)
        config = module.get_config() if arg is None else module.get_config(arg)
        return config_dict.ConfigDict(config).lock()
    except (Exception, SystemExit) as error:  # a config is the user's own Python: anything may come out of it
        reason = _one_line(f"{type(error).__name__}: {error}" if type(error) is not ValueError else str(error), 200)
        raise base.InputError(f"--config={_one_line(spec, 150)} cannot be read: {reason}") from error


def _find_file(spec: str) -> tuple[str, str | None]:
    """(file, ARG or None) of NAME_OR_PATH[:ARG]: a path may have colons of its own, so the longest file wins."""
    known = shipped_configs.configs()
    for end in (len(spec), *reversed([match.start() for match in re.finditer(":", spec)])):
        path = str(known.get(spec[:end], os.path.expanduser(spec[:end])))
        if os.path.isfile(path):
            return path, spec[end + 1 :] if end < len(spec) else None
    if "://" in spec:
        paths.typed(spec, flag="--config")
    name = spec.partition(":")[0]
    raise base.InputError(f"--config must be a file or one of {_listed()}; got '{_one_line(spec)}'.{_closest(name)}")


def _check_complete(config: config_dict.ConfigDict, spec: str) -> dict[str, Any]:
    """The values of configs/default.py.

    Raises:
        base.InputError: the config lacks keys of it (a method's own keys may differ), or a value is of another kind.
    """
    keys = base.flat(_get_config("default").to_dict())
    with _told_of(spec):
        config_rules.check(config.to_dict(), remedies=keys)
    present = base.flat(config.to_dict())
    missing = [key for key in keys if key not in present and not key.startswith("method.")]
    if missing:
        raise base.InputError(
            f"A config has all keys of configs/default.py; {_one_line(spec)} lacks "
            f"{_one_line(', '.join(missing), 150)}. Start from default.get_config()."
        )
    return keys


@contextlib.contextmanager
def _told_of(spec: str) -> Iterator[None]:
    """Lets a message name the config that it is about."""
    try:
        yield
    except base.InputError as error:
        raise base.InputError(f"--config={_one_line(spec, 60)}: {error}") from error


def _check_overrides(overrides: Sequence[Sequence[str]], config: config_dict.ConfigDict) -> None:
    """Raises InputError for an override of a key that the config does not have, listing the keys it has."""
    from ml_collections import config_dict

    for override in [re.sub(r"^--?(no)?config\.", "", words[0]).partition("=")[0] for words in overrides]:
        section, seen = config, list[str]()
        for part in override.split("."):
            valid = list(section) if isinstance(section, config_dict.ConfigDict) else []
            if part not in valid:
                where = f"section {'.'.join(seen)}" if seen else "the config"
                raise base.InputError(
                    f"Unknown key --config.{_one_line(override)}; {where} has {', '.join(valid) or 'no keys below it'}."
                )
            section = section[part]
            seen.append(part)
        if isinstance(section, config_dict.ConfigDict):
            raise base.InputError(
                f"--config.{override} is a section, not a value; set one of its keys: {', '.join(section)}."
            )


def _take_nones(
    overrides: Sequence[Sequence[str]], config: config_dict.ConfigDict
) -> tuple[list[Sequence[str]], set[str]]:
    """(the other overrides, the keys whose last value on this command line is None).

    Raises:
        base.InputError: None for a key that needs a value.
    """
    now, rest, nones = base.flat(config.to_dict()), list[Sequence[str]](), set[str]()
    optional = {
        key
        for keys in (now, base.flat(_get_config("default").to_dict()))
        for key, value in keys.items()
        if value is None
    }
    for words in overrides:
        key, _, value = "=".join([re.sub(r"^--?config\.", "", words[0]), *words[1:]]).partition("=")
        nones.discard(key)
        if value in ("None", "none") and key in optional:
            nones.add(key)
            continue
        if value in ("None", "none") and type(now.get(key)) in _KINDS:
            raise base.InputError(
                f"--config.{key} must be {_KINDS[type(now[key])]} such as {now[key]}; got {value}. "
                f"None is for {', '.join(sorted(optional))}."
            )
        rest.append(words)
    return rest, nones


def _make_paths_absolute(config: config_dict.ConfigDict) -> None:
    """Keeps where things are, not how that was typed in today's current folder."""
    flat = base.flat(config.to_dict())
    for key in _PATH_KEYS:
        if isinstance(flat[key], str) and (flat[key] or key in ("init.workdir", "split.label_list")):
            _set(config, key, paths.absolute(flat[key], flag=f"--config.{key}"))
            paths.check_no_pipe(flat[key], flag=f"--config.{key}")
    config.data.name = paths.data_name(flat["data.name"], flat["data.data_dir"], flag="--config.data.name")


def _set(config: config_dict.ConfigDict, key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    (config[section] if section else config)[name] = value


def _with_sections(message: str, config: Mapping[str, Any], section: str) -> str:
    """The message of a library function with its arguments named as people set them: section.key."""
    homes: dict[str, str] = {}
    for part in (section, "train", *config):
        keys = config[part] if isinstance(config.get(part), Mapping) else ()
        homes.update({key: f"{part}.{key}" for key in keys if key not in homes})

    def say(match: re.Match[str]) -> str:
        return homes.get(match[0], match[0])

    # A plain word such as size or name is a key only where the message begins with it.
    message = re.sub(r"^[a-z]+(?= (?:must|is for) )", say, message)
    message = re.sub(r"(?<![\w.\-/'\"])[a-z]+(_[a-z]+)+(?![\w/-]|\.\w)", say, message)
    # What is to be typed, as it is typed.
    rule, use, remedy = message.partition("Use for example ")
    return rule + use + re.sub(r"(?<![\w.\-])(?=[a-z]\w*\.[a-z]\w*=)", "--config.", remedy)


def _is_override(word: str) -> bool:
    return re.match(r"^--?(no)?config\.", word) is not None


def _listed() -> str:
    """The names of the shipped configs for a message, of many the middle left out."""
    return _one_line(shipped_configs.listing(), 240)


def _closest(name: str) -> str:
    near = difflib.get_close_matches(name, shipped_configs.configs(), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _one_line(text: str, limit: int = 60) -> str:
    """What the user or a library said, printable and short enough for a line: beyond `limit` its middle is left out."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 3 :]}"
