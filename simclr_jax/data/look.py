"""A look at a split: what a run would see of it, and what reading it costs on this host."""

import collections
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import decode, imageset, kinds, strict

# Pixels are summed in blocks of this many bytes, so that a split larger than memory can be looked at.
_BLOCK_BYTES = 2**26
# Each stage is timed for this long at least, over and over, and the fastest round counts: other work only adds.
_ROUND_SECONDS = 0.3
_ROUNDS = 3


class Pixels(NamedTuple):
    """Statistics of the valid pixels of a split, padding left out.

    mean, std: of red, green and blue, in [0, 1].
    heights, widths: (smallest, median, largest), as the run sees them, in pixels.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]


class Files(NamedTuple):
    """What the files of a split are, by a sample of them.

    num_sampled: how many were opened. kinds: format -> how many of these.
    num_bytes, megapixels: means of one file.
    heights, widths: (smallest, median, largest) by their headers, in pixels.
    """

    num_sampled: int
    kinds: dict[str, int]
    num_bytes: float
    megapixels: float
    heights: tuple[int, int, int]
    widths: tuple[int, int, int]


def measure_pixels(image_set: imageset.ImageSet) -> Pixels:
    """Channel statistics and sizes of a decoded split; every pixel counts once.

    Example:
        >>> look.measure_pixels(data.load_split("digits", "train")).heights
        (32, 32, 32)
    """
    images, sizes = image_set.images, np.asarray(image_set.sizes)
    length = max(1, _BLOCK_BYTES // int(np.prod(images.shape[1:])))
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for start in range(0, len(images), length):
        block = np.asarray(images[start : start + length])  # zeros outside of an image
        total += block.sum(axis=(0, 1, 2), dtype=np.int64)
        squares += np.asarray([np.square(block[..., c], dtype=np.uint32).sum(dtype=np.int64) for c in range(3)])
        count += int(sizes[start : start + length].astype(np.int64).prod(axis=1).sum())
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return Pixels(_three(mean / 255), _three(std / 255), _spread(sizes[:, 0]), _spread(sizes[:, 1]))


def count_classes(image_set: imageset.ImageSet) -> dict[str, int]:
    """Class name -> number of its images; "" for those without a label, if there are any."""
    counts = collections.Counter(np.asarray(image_set.labels).tolist())
    named = {name: counts[label] for label, name in enumerate(image_set.class_names)}
    rest = {str(label): n for label, n in sorted(counts.items()) if label >= len(image_set.class_names)}
    return named | rest | ({"": counts[-1]} if counts[-1] else {})


def sample(encoded: imageset.Encoded, count: int = 200) -> dict[int, bytes]:
    """Row -> bytes of up to `count` readable examples, spread evenly over the split."""
    rows = np.unique(np.linspace(0, len(encoded.ids) - 1, min(count, len(encoded.ids))).astype(int))
    found = {}
    for row in rows.tolist():
        try:
            data = encoded.read(row)[0]
            strict.check(data, encoded.rules)
        except (decode.DamagedImage, OSError):
            continue  # named and counted when the split is decoded
        found[row] = data
    return found


def describe_files(contents: Sequence[bytes], *, rules: imageset.Rules = imageset.DEFAULT_RULES) -> Files:
    """Formats, sizes and dimensions of files, whole ones."""
    sizes = np.asarray([decode.image_size(data, rules) for data in contents])
    names = (kinds.image_format(data[: kinds.HEAD_BYTES]) or "other" for data in contents)
    return Files(
        num_sampled=len(contents),
        kinds=dict(collections.Counter(names).most_common()),
        num_bytes=float(np.mean([len(data) for data in contents])),
        megapixels=float(sizes.prod(axis=1).mean() / 1e6),
        heights=_spread(sizes[:, 0]),
        widths=_spread(sizes[:, 1]),
    )


def measure_rates(stages: dict[str, Callable[[Any], Any]], inputs: Sequence[Any]) -> dict[str, float]:
    """CPU seconds of one core that each stage takes for one example.

    A stage is called with what the one before it returned. CPU time, not the clock: what else runs on the host then
    hardly changes the numbers.

    Args:
        stages: name -> function of one argument.
        inputs: what the first stage is called with, one an example.
    """
    times = {}
    for name, stage in stages.items():
        times[name] = min(_seconds_each(stage, inputs) for _ in range(_ROUNDS))
        inputs = [stage(value) for value in inputs]
    return times


def _seconds_each(stage: Callable[[Any], Any], inputs: Sequence[Any]) -> float:
    start, calls = time.thread_time(), 0
    while not calls or time.thread_time() - start < _ROUND_SECONDS / _ROUNDS:
        for value in inputs:
            stage(value)
        calls += len(inputs)
    return (time.thread_time() - start) / calls


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())
