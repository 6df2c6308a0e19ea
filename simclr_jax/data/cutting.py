"""What one worker does: encoded pictures in, rows of crops out. Runs in threads and in processes without JAX."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import decode, full_decode, host_crop, host_draws, imageset


class Cuts(NamedTuple):
    """Which crops are cut out of every picture.

    size: their side, pixels. resize: the exact method's bicubic, "tf2" or "tf1". method: see `host_crop.crop`.
    num_views: V random windows of each; 0 = the central window of evaluation instead, as one crop.
    seed, min_scale, sampler: of the random windows, see `host_draws.draw_boxes`.
    center_fraction: of the shorter side, for the central window.
    rules: how files are decoded.
    """

    size: int
    resize: str = "tf2"
    method: str = "exact"
    num_views: int = 2
    seed: int = 0
    min_scale: float = 0.08
    sampler: str = "reference"
    center_fraction: float = 0.875
    rules: imageset.Rules = imageset.DEFAULT_RULES

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of what is cut out of one picture: [V, size, size, 3]."""
        return max(self.num_views, 1), self.size, self.size, 3


class Task(NamedTuple):
    """Some pictures of one batch.

    places: where they lie, for `fetch`. positions: int [n], their places in the global batch. step: 0-based update.
    """

    places: Sequence[Any]
    positions: np.ndarray
    step: int


class Cut(NamedTuple):
    """What became of a task: labels of its pictures, and (number in the task, reason) of those that are damaged."""

    labels: list[int]
    damaged: list[tuple[int, str]]


Fetch = Callable[[Any], tuple[bytes, int]]


def cut_rows(task: Task, out: np.ndarray, watch: np.ndarray, *, fetch: Fetch, cuts: Cuts) -> Cut:
    """Reads, decodes and cuts the pictures of a task into `out`.

    Args:
        out: uint8 [n, V, size, size, 3]; rows of damaged pictures are left as they are.
        watch: float64 [2], where the number of the picture in work and the time of its beginning are noted.
    """
    labels, damaged = [-1] * len(task.places), list[tuple[int, str]]()
    loaded: dict[int, tuple[bytes, np.ndarray | None, tuple[int, int]]] = {}
    for number, place in enumerate(task.places):
        watch[:] = number, time.monotonic()
        try:
            data, labels[number] = fetch(place)
            size = full_decode.picture_size(data, cuts.rules)
            pixels = full_decode.decode_full(data, size=None, rules=cuts.rules) if size is None else None
            loaded[number] = data, pixels, size or (pixels.shape[0], pixels.shape[1])  # type: ignore[union-attr]
        except (decode.DamagedImage, OSError) as error:
            damaged.append((number, decode.reason(error)))
    boxes = _boxes(task, [*loaded], [size for _, _, size in loaded.values()], cuts)
    for row, (number, (data, pixels, size)) in enumerate(loaded.items()):
        watch[:] = number, time.monotonic()
        try:
            pixels = full_decode.decode_full(data, size=size, rules=cuts.rules) if pixels is None else pixels
        except decode.DamagedImage as error:
            damaged.append((number, decode.reason(error)))
            continue
        for view, box in enumerate(boxes[row]):
            host_crop.crop(pixels, box, out=out[number, view], method=cuts.method, resize=cuts.resize)
    return Cut(labels, sorted(damaged))


def _boxes(task: Task, numbers: list[int], sizes: list[tuple[int, int]], cuts: Cuts) -> list[list[host_crop.Box]]:
    """(y, x, height, width) of all crops of the pictures `numbers`, whose (height, width) are `sizes`."""
    if not numbers:
        return []
    if cuts.num_views == 0:
        boxes = host_draws.center_boxes(np.asarray(sizes), fraction=cuts.center_fraction)
        return [[_box(row)] for row in np.stack(boxes, axis=-1).tolist()]
    positions = np.asarray(task.positions)[numbers]
    drawn = host_draws.draw_boxes(
        cuts.seed,
        task.step,
        positions=positions,
        sizes=np.asarray(sizes),
        num_views=cuts.num_views,
        min_scale=cuts.min_scale,
        sampler=cuts.sampler,
    )
    return [[_box(row) for row in rows] for rows in np.stack(drawn, axis=-1).tolist()]


def _box(row: list[int]) -> host_crop.Box:
    y, x, height, width = row
    return y, x, height, width
