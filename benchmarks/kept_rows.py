"""Whether a kept row was made with the settings that are asked for now."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from simclr_jax.run import config as config_lib


def completed(what: Mapping[str, Any]) -> dict[str, Any]:
    """`what` with the keys that its config's sections lack, each with its value in configs/default.py.

    A key that a row lacks came later, and its default is what rows before it were made with; without this one new key
    would have every training made again. The section `method` has other keys for every method and stays as it is.
    """
    found = dict(what)
    if "config" in what:
        return {**found, "config": completed(what["config"])}
    for name, section in _default().items():
        if name in found and isinstance(found[name], dict):
            found[name] = {**section, **found[name]}
    return found


def are_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two rows' `what`, both as they come back from a file, ask for the same."""
    return completed(first) == completed(second)


@functools.cache
def _default() -> dict[str, Any]:
    config = json.loads(json.dumps(config_lib.load_file("default").to_dict()))
    return {name: section for name, section in config.items() if isinstance(section, dict) and name != "method"}
