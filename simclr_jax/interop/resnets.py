"""Complete ResNets among the names of a PyTorch file, found by how they are built and not by what they are called.

What belongs here: names and shapes in, for every ResNet found the entry of torchvision's ResNet that each name stands
for, and which of several a user means. A ResNet is a first convolution of an image with its BatchNorm, and four groups,
numbered in a row, of numbered blocks. A block is 3x3, 3x3 or 1x1, 3x3, 1x1 convolutions, numbered in a row, each with a
BatchNorm, and at most one 1x1 convolution and BatchNorm that are called otherwise, which is the shortcut. So any prefix
will do, an `nn.Sequential` over a ResNet's children, and names such as `shortcut.0` or `layer.0.convolution`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from simclr_jax import base

Path = tuple[str, ...]
_NORM = ("weight", "bias", "running_mean", "running_var")
_KERNELS = ([3, 3], [1, 3, 1])
_GROUPS = 4
# A copy that follows a network in training: by convention the network itself is what is meant.
_FOLLOWER = re.compile(r"(?:^|[._])(?:momentum|target|ema|averaged?|shadow|k|key)(?:[._]|$)")


class ResNet(NamedTuple):
    """A complete ResNet in a file.

    prefix: what stands before all of its names, up to and with a dot; "" for nothing.
    names: the file's name -> torchvision's.
    between: modules without weights between the first BatchNorm and the first group, None if names do not tell.
    """

    prefix: str
    names: dict[str, str]
    between: int | None

    @property
    def title(self) -> str:
        """The name by which a user chooses it: the prefix without its last dot, "." for none."""
        return self.prefix[:-1] or "."


def find(arrays: Mapping[str, np.ndarray]) -> list[ResNet]:
    """All complete ResNets in a file, in its order. Of the arrays only the shapes are read; they may be stand-ins."""
    modules: dict[Path, dict[str, tuple[int, ...]]] = {}
    for name, value in arrays.items():
        *parts, leaf = name.split(".")
        modules.setdefault(tuple(parts), {})[leaf] = value.shape
    modules = {path: leaves for path, leaves in modules.items() if leaves.keys() != {"num_batches_tracked"}}
    below: dict[Path, list[Path]] = {}
    for path in modules:
        for depth in range(len(path) + 1):
            below.setdefault(path[:depth], []).append(path)
    blocks = {node: block for node in below if node and node[-1].isdigit() and (block := _block(node, below, modules))}
    groups = {node for node in {block[:-1] for block in blocks} if _is_row(node, blocks, below)}
    found = [_resnet(row, blocks, below, modules) for row in _rows_of_groups(groups)]
    order = {name: place for place, name in enumerate(arrays)}
    return sorted((net for net in found if net), key=lambda net: min(order[name] for name in net.names))


def choose(found: list[ResNet], arrays: Mapping[str, np.ndarray], network: str) -> ResNet:
    """The one that is meant: by its name, else the only one, else the only one that is no moving average of another.

    Args:
        found: at least one.
        arrays: the file's; ResNets with the same weights count as one.
        network: its prefix, or parts of it between dots such as "teacher"; "" to go by convention.

    Raises:
        base.InputError: no such network, or several that may be meant.
    """
    titles = ", ".join(net.title for net in found)
    if network:
        asked = network if network == "." else network.strip(".")
        chosen = [net for net in found if net.title == asked] or [
            net for net in found if f".{asked}." in f".{net.title}."
        ]
        if len(chosen) != 1:
            raise base.InputError(
                f"--network must name one of the networks in the file ({titles}); got {base.one_line(network, 100)!r}."
            )
        return chosen[0]
    different: list[ResNet] = []
    for net in found:
        if not any(_same_weights(net, other, arrays) for other in different):
            different.append(net)
    leading = [net for net in different if not _FOLLOWER.search(net.title)] or different
    if len(leading) > 1:
        listed = " or ".join(f"--network={net.title}" for net in leading)
        raise base.InputError(
            f"A file that holds several networks does not say which one is meant; got {titles}. Choose: {listed}."
        )
    return leading[0]


def _block(
    node: Path, below: Mapping[Path, list[Path]], modules: Mapping[Path, dict[str, tuple[int, ...]]]
) -> dict[Path, str] | None:
    """Module -> its name in a block of torchvision's, None if this is no block."""
    convolutions = [path for path in below[node] if _is_convolution(modules[path])]
    norms = [path for path in below[node] if _is_norm(modules[path])]
    if len(convolutions) + len(norms) != len(below[node]) or len(convolutions) != len(norms):
        return None
    names: dict[Path, str] = {}
    for paths, inner, outer in ((convolutions, "conv", "downsample.0"), (norms, "bn", "downsample.1")):
        kinds: dict[str, list[Path]] = {}
        for path in sorted(paths, key=_natural):
            kinds.setdefault(re.sub(r"\d+", "#", ".".join(path[len(node) :])), []).append(path)
        main, *others = sorted(kinds.values(), key=len, reverse=True)
        if len(main) == 1 or len(others) > 1 or any(len(other) > 1 for other in others):
            return None
        if inner == "conv" and others and others[0][0][-1].isdigit() and others[0][0][-1] != "0":
            return None  # something stands before the shortcut's convolution: ResNet-D's average
        names |= {path: f"{inner}{number}" for number, path in enumerate(main, start=1)}
        names |= {other[0]: outer for other in others}
    sizes = {name: modules[path]["weight"][2:] for path, name in names.items() if "weight" in modules[path]}
    kernels = [sizes[name] for name in sorted(sizes) if name.startswith("conv")]
    fits = kernels in [[(side, side) for side in row] for row in _KERNELS]
    return names if fits and sizes.get("downsample.0", (1, 1)) == (1, 1) else None


def _is_row(node: Path, blocks: Mapping[Path, dict[Path, str]], below: Mapping[Path, list[Path]]) -> bool:
    """Whether all that is below a node are blocks, numbered from 0."""
    children = {path[len(node)] for path in below[node] if len(path) > len(node)}
    return children == set(map(str, range(len(children)))) and all((*node, child) in blocks for child in children)


def _rows_of_groups(groups: set[Path]) -> Iterator[list[Path]]:
    """Four groups each whose names differ in one number, and that by one from group to group."""
    rows: dict[tuple[str, ...], dict[int, Path]] = {}
    for path in groups:
        parts = re.split(r"(\d+)", ".".join(path))
        for place in range(1, len(parts), 2):
            rows.setdefault((*parts[:place], "#", *parts[place + 1 :]), {})[int(parts[place])] = path
    for row in rows.values():
        numbers = sorted(row)
        if len(numbers) == _GROUPS and numbers[-1] - numbers[0] == _GROUPS - 1:
            yield [row[number] for number in numbers]


def _resnet(
    row: list[Path],
    blocks: Mapping[Path, dict[Path, str]],
    below: Mapping[Path, list[Path]],
    modules: Mapping[Path, dict[str, tuple[int, ...]]],
) -> ResNet | None:
    """The ResNet whose groups these are: with the stem that lies nearest, None if there is none."""
    depth = next(at for at, parts in enumerate(zip(*row, strict=True)) if len(set(parts)) > 1)
    # The groups may lie deeper than the stem, as encoder.stages.0 beside embedder: then one more step up.
    for root in [row[0][:at] for at in range(depth, max(depth - 3, -1), -1)]:
        inside = [path for path in below[root] if not any(path[: len(group)] == group for group in row)]
        stems = [path for path in inside if _is_convolution(modules[path]) and modules[path]["weight"][1] == 3]
        norms = [path for path in inside if _is_norm(modules[path])]
        if stems and norms:
            break
    else:
        return None
    nearest = min(map(len, stems))
    stem, *more = [path for path in stems if len(path) == nearest]
    if more:
        return None
    norm = min(norms, key=lambda path: (-_shared(path, stem), len(path), _natural(path)))
    names = {stem: "conv1", norm: "bn1"}
    for number, group in enumerate(row, start=1):
        for path, name in ((p, n) for node in below[group] for p, n in blocks.get(node[: len(group) + 1], {}).items()):
            names[path] = f"layer{number}.{path[len(group)]}.{name}"
    entries = {".".join((*path, leaf)): f"{names[path]}.{leaf}" for path in names for leaf in modules[path]}
    positions = [path[len(root) :] for path in (norm, row[0])]
    numbered = all(len(place) == 1 and place[0].isdigit() for place in positions)
    between = int(positions[1][0]) - int(positions[0][0]) - 1 if numbered else None
    return ResNet("".join(f"{part}." for part in root), entries, between)


def _is_convolution(leaves: Mapping[str, tuple[int, ...]]) -> bool:
    return leaves.keys() == {"weight"} and len(leaves["weight"]) == 4


def _is_norm(leaves: Mapping[str, tuple[int, ...]]) -> bool:
    return set(_NORM) == leaves.keys() - {"num_batches_tracked"} and all(len(leaves[leaf]) == 1 for leaf in _NORM)


def _same_weights(net: ResNet, other: ResNet, arrays: Mapping[str, np.ndarray]) -> bool:
    theirs = {torchvision: name for name, torchvision in other.names.items()}
    return theirs.keys() == set(net.names.values()) and all(
        np.array_equal(arrays[name], arrays[theirs[torchvision]]) for name, torchvision in net.names.items()
    )


def _shared(path: Path, other: Path) -> int:
    """How many parts two paths have in common at their beginning."""
    return next((at for at, (a, b) in enumerate(zip(path, other, strict=False)) if a != b), min(len(path), len(other)))


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts 10 after 9."""
    return [(int(part or -1), text) for text, part in re.findall(r"(\D*)(\d*)", ".".join(path))]
