"""The names and layouts of torchvision's ResNet, both ways; torch itself is not needed.

What belongs here: which of our variables is which entry of `torchvision.models.resnet*().state_dict()`.

    encoder/stem/conv1, bn1                        conv1, bn1
    encoder/block_group{g}/block{b}/conv{i}, bn{i} layer{g}.{b-1}.conv{i}, bn{i}
    encoder/block_group{g}/block{b}/proj_conv      layer{g}.{b-1}.downsample.0
    encoder/block_group{g}/block{b}/proj_bn        layer{g}.{b-1}.downsample.1
    supervised_head/dense                          fc
    projection_head/dense{i}, bn{i}                projection_head.dense{i}, bn{i}  (torchvision has no such part)

Leaves: kernel <-> weight, HWIO <-> OIHW and [in, out] <-> [out, in]; BatchNorm's scale, bias, mean, var <-> weight,
bias, running_mean, running_var. `num_batches_tracked` has no counterpart: it is not written, and ignored if read.

Reference: torchvision/models/resnet.py. Same names do not mean the same function: see docs/weights.md for the two
places where an encoder with padding="reference" differs from torchvision's class.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from simclr_jax import base


class _Rule(NamedTuple):
    """One row of the table above: a pattern and a replacement for each direction. {b} counts from 1 here, 0 there."""

    ours: str
    theirs: str


_BLOCK = "encoder/block_group{g}/block{b}"
_RULES = (
    _Rule("encoder/stem/conv1", "conv1"),
    _Rule("encoder/stem/bn1", "bn1"),
    _Rule(_BLOCK + "/conv{i}", "layer{g}.{b}.conv{i}"),
    _Rule(_BLOCK + "/bn{i}", "layer{g}.{b}.bn{i}"),
    _Rule(_BLOCK + "/proj_conv", "layer{g}.{b}.downsample.0"),
    _Rule(_BLOCK + "/proj_bn", "layer{g}.{b}.downsample.1"),
    _Rule("projection_head/dense{i}", "projection_head.dense{i}"),
    _Rule("projection_head/bn{i}", "projection_head.bn{i}"),
    _Rule("supervised_head/dense", "fc"),
)
_NORM_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LAYER_LEAVES = {"kernel": "weight", "bias": "bias"}


def to_torchvision(by_name: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights under torchvision's names and in its layouts, as contiguous arrays of unchanged dtype.

    Raises:
        base.InputError: a variable has no place in torchvision's ResNet: selective kernels, their deep stem, and
            squeeze-excitation.
    """
    state = {}
    for name, value in by_name.items():
        module, leaf = name.rsplit("/", 1) if "/" in name else ("", name)
        rule, found = _match(module, theirs=False)
        leaves = _leaves(rule)
        if rule is None or leaf not in leaves:
            raise base.InputError(
                f"torchvision's ResNet has convolutions, BatchNorms and fc; it has no place for {name}. "
                "Use the flax or the stablehlo format."
            )
        state[f"{_fill(rule.theirs, found, shift=-1)}.{leaves[leaf]}"] = _to_torch_layout(leaf, np.asarray(value))
    return state


def from_torchvision(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our variables by name from torchvision's state dict as NumPy arrays: `{k: v.numpy() for k, v in state.items()}`.

    Raises:
        base.InputError: a name that torchvision's ResNet does not have.
    """
    by_name = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        rule, found = _match(module, theirs=True)
        leaves = {there: here for here, there in _leaves(rule).items()}
        if rule is None or leaf not in leaves:
            raise base.InputError(
                f"A torchvision ResNet has conv1, bn1, layer1 to layer4 and fc; got {name}. "
                "Remove what does not belong to the ResNet, and any prefix."
            )
        here = leaves[leaf]
        by_name[f"{_fill(rule.ours, found, shift=1)}/{here}"] = _from_torch_layout(here, np.asarray(value))
    return dict(sorted(by_name.items()))


def _match(module: str, *, theirs: bool) -> tuple[_Rule | None, dict[str, int]]:
    """The rule for a module's name, and the numbers in it."""
    for rule in _RULES:
        pattern = re.escape(rule.theirs if theirs else rule.ours)
        # re.escape writes the braces as \{g\}; each becomes a group of digits.
        found = re.fullmatch(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", pattern), module)
        if found:
            return rule, {letter: int(digits) for letter, digits in found.groupdict().items()}
    return None, {}


def _fill(template: str, numbers: Mapping[str, int], *, shift: int) -> str:
    shifted = {letter: number + (shift if letter == "b" else 0) for letter, number in numbers.items()}
    return template.format(**shifted)


def _leaves(rule: _Rule | None) -> dict[str, str]:
    """Our leaf -> theirs, for the kind of module that the rule names."""
    if rule is None:
        return {}
    return _NORM_LEAVES if "bn" in rule.ours.rsplit("/", 1)[-1] else _LAYER_LEAVES


def _to_torch_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf == "kernel":
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)


def _from_torch_layout(leaf: str, value: np.ndarray) -> np.ndarray:
    if leaf == "kernel":
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return np.ascontiguousarray(value)
