"""Weights as "variables by name": a flat dict of NumPy arrays, the form in which they enter and leave this package.

A name is a path in the training state's trees, joined by "/", without the collection: `encoder/stem/conv1/kernel`,
`encoder/stem/bn1/{scale,bias,mean,var}`, `encoder/block_group1/block1/proj_conv/kernel`,
`projection_head/dense1/kernel`, `supervised_head/dense/{kernel,bias}`. Its beginning is the part of the network. `mean`
and `var` are BatchNorm's moving statistics (collection `batch_stats`), all others are parameters. What belongs here:
the two directions between trees and names, the file that holds them, and their fingerprint. Nothing here knows another
library's names.
"""

import hashlib
import pathlib
import re
from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util

from simclr_jax import base

ByName = dict[str, np.ndarray]

# Leaves of the collection batch_stats; no parameter of ours is called so.
_STATISTICS = ("mean", "var")


def flatten(params: base.PyTree, batch_stats: base.PyTree) -> ByName:
    """The trees' leaves by name, as NumPy arrays of unchanged dtype, sorted by name.

    Args:
        params: {"encoder": ..., "projection_head": ..., "supervised_head": ...}, any of them.
        batch_stats: the same parts with their BatchNorm statistics, {} for none.

    A part without leaves (a projection head of no layers) leaves no trace.

    Raises:
        base.InputError: a statistic among the parameters or the other way round: the trees are not ours.
    """
    by_name = {}
    for tree, statistics in ((params, False), (batch_stats, True)):
        for name, leaf in traverse_util.flatten_dict(jax.device_get(tree), sep="/").items():
            if _is_statistic(name) != statistics:
                raise base.InputError(
                    f"mean and var are the leaves of batch_stats and no leaf of params; got {name} in "
                    f"{'batch_stats' if statistics else 'params'}."
                )
            by_name[name] = np.asarray(leaf)
    return dict(sorted(by_name.items()))


def unflatten(by_name: Mapping[str, np.ndarray]) -> tuple[base.PyTree, base.PyTree]:
    """(params, batch_stats) as nested dicts, the inverse of `flatten`; parts without statistics have no batch_stats.

    Raises:
        base.InputError: a name is also the beginning of another one.
    """
    modules = {name[: slash.start()] for name in by_name for slash in re.finditer("/", name)}
    for name in by_name:
        if name in modules:  # Flax would drop one of the two in silence
            raise base.InputError(f"A name is either a variable or a module; {name} is both.")
    trees = [{n: v for n, v in by_name.items() if _is_statistic(n) == statistics} for statistics in (False, True)]
    return traverse_util.unflatten_dict(trees[0], sep="/"), traverse_util.unflatten_dict(trees[1], sep="/")


def parts(by_name: Mapping[str, np.ndarray]) -> list[str]:
    """The parts of the network that have variables, for instance ["encoder", "projection_head"]."""
    return sorted({name.split("/")[0] for name in by_name})


def only(by_name: Mapping[str, np.ndarray], part: str) -> ByName:
    """The variables of one part, under their full names."""
    return {name: value for name, value in by_name.items() if name.split("/")[0] == part}


def fingerprint(by_name: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and little-endian bytes, in the order of the names.

    The same weights have the same fingerprint on every machine and however they were stored in between.
    """
    digest = hashlib.sha256()
    for name, value in sorted(by_name.items()):
        array = np.asarray(value)
        digest.update(f"{name}\0{array.dtype.name}\0{','.join(map(str, array.shape))}\0".encode())
        digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes())
    return digest.hexdigest()


def save(path: pathlib.Path, by_name: Mapping[str, np.ndarray], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays under any names, ours or another library's, as a safetensors file with `metadata` in its header."""
    import safetensors.numpy

    # safetensors writes an array's memory as it lies, so a transposed view would come out scrambled.
    arrays = {name: np.asarray(value, order="C") for name, value in by_name.items()}
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(arrays, path, metadata=dict(metadata or {}))
    path.chmod(mode)  # safetensors makes files that only their owner can read, whatever the umask says


def load(path: pathlib.Path) -> ByName:
    """All arrays of a safetensors file, sorted by name.

    Raises:
        base.InputError: there is no such file, or it is no safetensors file.
    """
    import safetensors.numpy

    try:
        return dict(sorted(safetensors.numpy.load_file(path).items()))
    except Exception as error:  # types that NumPy does not have are AttributeErrors
        raise base.InputError(
            f"Weights are read from a safetensors file; {path} cannot be: {base.one_line(error)}."
        ) from error


def _is_statistic(name: str) -> bool:
    return name.rsplit("/", 1)[-1] in _STATISTICS
