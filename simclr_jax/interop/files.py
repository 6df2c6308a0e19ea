"""Reading weight files of other programs: which arrays a file holds, under the file's own names.

What belongs here: what every kind of file gives, safetensors files, and the errors that all readers share. Nothing here
knows what a name means. `torch_files` and `tensorflow_files` read the other kinds, `opening` finds the reader.
"""

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from simclr_jax import base


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


def unreadable(path: pathlib.Path, what: str, error: Exception | str) -> base.InputError:
    """The error for a file that its library cannot read, with the library's reason."""
    reason = base.one_line(error) or type(error).__name__
    return base.InputError(f"--input must be {what}; {path} cannot be read as one: {reason.rstrip('.')}.")
