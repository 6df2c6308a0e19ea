"""Configs that are values only: a JSON file in place of a Python one, for those who did not write it themselves.

A file holds sections of keys, all or some of them; what it leaves out has the value of configs/default.py. The
config.json of a run is such a file. Nothing in it is run, and no other file is opened because of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simclr_jax import base

if TYPE_CHECKING:
    from ml_collections import config_dict

_MOST_BYTES = 2**20
_DIGEST = "sha256"  # of a run's config.json, which people may change by hand and give to another run


def fill(config: config_dict.ConfigDict, path: str) -> config_dict.ConfigDict:
    """`config`, the default one, with the values of a JSON file.

    Raises:
        ValueError: it is no JSON object of sections, or names a section or key that there is not.
        OSError: it cannot be read.
    """
    content = _read(path)
    unknown = [name for name in content if name not in config]
    if unknown:
        raise ValueError(f"it has {unknown[0]!r}, which is no section of a config; these are {', '.join(config)}")
    with config.unlocked(), config.ignore_type():
        for name, value in content.items():
            if isinstance(config[name], int | str):
                config[name] = value
            elif not isinstance(value, Mapping):
                raise ValueError(f"{name} must be a section of keys; got {value!r}")
            else:
                _fill_section(config[name], value, name=name)
    return config


def _fill_section(section: config_dict.ConfigDict, values: Mapping[str, Any], *, name: str) -> None:
    # A method has the keys of its function, which complains of others; so has a recorded run's teacher.
    is_another = name == "method" and values.get("name", section.name) != section.name
    if is_another:
        for key in list(section):
            del section[key]
    for key, value in values.items():
        if key not in section and not is_another and name != "teacher":
            raise ValueError(f"{name}.{key} is unknown; the section {name} has {', '.join(section)}")
        if name != "teacher" or key in section:  # what a teacher's network is, its run says again
            section[key] = value


def _read(path: str) -> dict[str, Any]:
    if os.path.getsize(path) > _MOST_BYTES:
        raise ValueError(f"a config has at most {_MOST_BYTES} bytes")
    with open(path, encoding="utf-8") as file:
        content = base.parse_json(file.read())
    if not isinstance(content, dict):
        raise ValueError("it holds no object of sections")
    content.pop(_DIGEST, None)
    return {key: _with_tuples(value) for key, value in content.items()}


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
