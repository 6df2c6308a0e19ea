"""Rows that a program keeps in a file, and whether one was made with the settings that are asked for now."""

import functools
import json
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

from simclr_jax import base
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib


class Rows:
    """The rows of a file, which several threads put new ones into; `what` of a row is what it depends on.

    keys: of `what`; of rows that are the same in these, the newest is kept.
    """

    def __init__(self, path: pathlib.Path, keys: tuple[str, ...]):
        self.path, self._keys = path, keys
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        self._lock = threading.Lock()

    def has(self, what: Mapping[str, Any]) -> bool:
        """Whether there is a row of the same settings."""
        return any(are_same(row["what"], what) for row in self.rows)

    def put(self, row: dict[str, Any]) -> None:
        """Adds a row and writes the file."""

        def which(of: Mapping[str, Any]) -> list[Any]:
            return [of["what"][key] for key in self._keys]

        with self._lock:
            self.rows = [*(old for old in self.rows if which(old) != which(row)), row]
            workdir_lib.write_json(self.path, self.rows)


def check_tiny(options: Any, kept: pathlib.Path) -> None:
    """Raises InputError where `--tiny` would write among the rows of the real page."""
    if options.tiny and options.rows == kept:
        raise base.InputError("--tiny needs --rows and --output of its own; got those of the real page. Name others.")


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
