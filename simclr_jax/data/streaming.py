"""Batches of crops out of encoded pictures, some steps ahead of the training, in the order of `order`.

A batch is a function of (seed, step) and of the rows that are asked for: what is kept between calls is work that has
begun, never a position. So there is nothing to save, and any number of workers and hosts gives the same rows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simclr_jax import base
from simclr_jax.data import blocks, cutting, encoded, imageset, workers

# Pictures that a worker takes at a time: drawing windows costs per call, and workers wait for each other at the end.
_MOST_ROWS = 32


class Rows(NamedTuple):
    """A part of a batch: crops uint8 [n, V, size, size, 3], labels int32 [n], and the examples that they are of [n]."""

    crops: np.ndarray
    labels: np.ndarray
    examples: np.ndarray


class _Started(NamedTuple):
    rows: Rows
    examples: np.ndarray
    tasks: list[tuple[int, workers.Pending]]


class Stream(NamedTuple):
    """read: step -> Rows, those of this host. close: ends the workers. settings: how pictures are worked on."""

    read: Callable[[int], Rows]
    close: Callable[[], None]
    settings: workers.WorkerSettings


def open_stream(
    image_set: imageset.ImageSet,
    cuts: cutting.Cuts,
    *,
    examples_of: Callable[[int], np.ndarray],
    positions: np.ndarray,
    settings: workers.WorkerSettings,
    max_corrupt_fraction: float,
    warn: Callable[[str], None],
    num_batches: int | None = None,
    ahead: int = 2,
) -> Stream:
    """A stream of batches.

    Args:
        image_set: a split of `make_encoded_set`.
        cuts: the crops.
        examples_of: step -> int [n], the examples of the rows that this host holds.
        positions: int [n], places of those rows in the global batch.
        settings: of the workers.
        max_corrupt_fraction: as many damaged pictures as in `blocks.check_skipped` are replaced, each by another
            example that its number decides (`encoded.replacement`); one more stops the run.
        warn: is told the name of every picture that is replaced, once.
        num_batches: steps from here on are not worked on ahead; None = there is no end.
        ahead: batches that are worked on beyond the one that is read.

    Raises:
        base.InputError: settings out of range, or a package is missing.
    """
    settings = workers.check_settings(settings)
    count = len(positions)
    length = max(1, min(_MOST_ROWS, math.ceil(count / (2 * max(settings.num or 1, 1)))))
    images = image_set.images
    assert isinstance(images, encoded.EncodedImages)
    pool = workers.start_workers(images.fetch, cuts, settings=settings, most_rows=length)
    started: dict[int, _Started] = {}
    bad: dict[int, str] = {}
    title, allowed = images.encoded.title, max_corrupt_fraction

    def start(step: int) -> _Started:
        examples = np.asarray(examples_of(step))
        rows = Rows(np.empty((count, *cuts.row_shape), np.uint8), np.empty(count, np.int32), examples.copy())
        tasks = []
        for first in range(0, count, length):
            part = slice(first, min(first + length, count))
            task = cutting.Task([images.place(int(row)) for row in examples[part]], positions[part], step)
            tasks.append((first, pool.submit(task, rows.crops[part])))
        return _Started(rows, examples, tasks)

    def read(step: int) -> Rows:
        for other in [known for known in started if not step <= known <= step + ahead]:
            for _, pending in started.pop(other).tasks:
                pending.future.cancel()
        last = step + (ahead if settings.num else 0)
        for wanted in range(step, last + 1 if num_batches is None else min(last + 1, max(num_batches, step + 1))):
            if wanted not in started:
                started[wanted] = start(wanted)
        rows, examples, tasks = started.pop(step)
        for first, pending in tasks:
            names = encoded.names_of(image_set, examples[first : first + length])
            cut = workers.result(pending, names, title=title, stall_seconds=settings.stall_seconds)
            rows.labels[first : first + len(cut.labels)] = cut.labels
            for number, reason in cut.damaged:
                replace(rows, first + number, int(examples[first + number]), reason=reason, step=step)
        return rows

    def replace(rows: Rows, row: int, example: int, *, reason: str, step: int) -> None:
        tried: list[int] = []
        for attempt in range(100):
            note(example, reason)
            tried.append(example)
            example = _stand_in(image_set.labels, tried, attempt)
            task = cutting.Task([images.place(example)], positions[row : row + 1], step)
            pending = pool.submit(task, rows.crops[row : row + 1])
            names = encoded.names_of(image_set, [example])
            cut = workers.result(pending, names, title=title, stall_seconds=settings.stall_seconds)
            if not cut.damaged:
                rows.labels[row], rows.examples[row] = cut.labels[0], example
                return
            reason = cut.damaged[0][1]
        raise base.InputError(f"{title}: 100 pictures in a row are damaged, the last: {reason}. Repair the data.")

    def note(example: int, reason: str) -> None:
        if example in bad:
            return
        bad[example] = f"{encoded.names_of(image_set, [example])[0]}: {reason}"
        blocks.check_skipped([*bad.values()], num_files=len(images), max_corrupt_fraction=allowed, seen=len(images))
        warn(f"{title}: {bad[example]}; another picture stands in for it.")

    return Stream(read, pool.close, settings)


def _stand_in(labels: np.ndarray, tried: list[int], attempt: int) -> int:
    """The example in the place of the last of `tried`: of its class, as long as that has any which was not tried."""
    example = tried[-1]
    like = np.setdiff1d(np.flatnonzero(labels == labels[example]), tried) if labels[example] >= 0 else np.empty(0, int)
    like = like if len(like) else np.arange(len(labels))
    return int(like[encoded.replacement(example, attempt, len(like))])
