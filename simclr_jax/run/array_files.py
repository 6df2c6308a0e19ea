"""Reading arrays from files `.npz` that anybody may have made: nothing is run, and memory stays below the file's size.

NumPy's own reader believes a header: it makes an array of the shape that is written there, and unpacks whatever an
archive says. Here an array must be as long as the bytes that are there, and an archive must not be compressed.
"""

import math
import os
import struct
import zipfile
from collections.abc import Sequence
from typing import IO

import numpy as np

_CHUNK = 2**20  # bytes that are read at a time


def read_arrays(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a file `.npz`, none of which may hold Python objects.

    Raises:
        ValueError, OSError: it is no such file, in words for people who do not know NumPy; damage has many types.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("its content is no .npz, or only a part of one")
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(_info(archive, name)) as member:
                dtype, shape, order = _read_header(member, name)
                content = _read_content(member, dtype.itemsize * math.prod(shape), os.path.getsize(path))
            if content is None:
                raise ValueError(f"its {name} is not as long as its header says")
            found[name] = np.ndarray(shape, dtype, content, order="F" if order else "C")
    return found


def _read_content(member: IO[bytes], size: int, most: int) -> bytearray | None:
    """What is left of a member, once in memory; None unless it is so many bytes, which may be at most so many."""
    if size > most:
        return None
    content, end = bytearray(size), 0
    while chunk := member.read(_CHUNK):
        begin, end = end, end + len(chunk)
        if end > size:
            return None
        content[begin:end] = chunk
    return content if end == size else None


def map_array(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """An array of an archive, read from the disk when it is used."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = _info(archive, name)
        file.seek(info.header_offset)
        # A local header: 30 bytes, of which the last four are the lengths of its name and its extra field.
        lengths = struct.unpack("<HH", file.read(30)[26:])
        file.seek(info.header_offset + 30 + sum(lengths))
        dtype, shape, order = _read_header(file, name)
        if not shape or not shape[0]:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape, order="F" if order else "C")


def _info(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise ValueError(f"it holds no {name}") from error
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {name} is compressed")
    return info


def _read_header(file: IO[bytes], name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """(type, shape, whether the first axis is the fastest); the file then stands at the numbers."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"its {name} has a header of version {version}")
    shape, order, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"its {name} has the shape {shape}")
    return dtype, shape, order
