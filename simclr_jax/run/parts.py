"""Finished parts of a long job of features, in memory or in a folder where the same job finds them again.

A part is a run of whole batches, so that its bits do not depend on where a job began. What a folder holds is read
through before it is believed: a torn or damaged part is removed and made again.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import atomic_files, base, units
from simclr_jax.run import array_files, feature_checks, feature_file, progress

_NAME = re.compile(r"part-(\d+)-(\d+)\.npz")
_PLAN = "job.json"


class Part(NamedTuple):
    """The good rows of a run of pictures, and a line for every damaged one."""

    rows: feature_file.Rows
    skipped: list[str]


class _Kept(NamedTuple):
    """What is known of a part: up to which picture it goes, how many rows, its damaged ones; the rows if in memory."""

    stop: int
    num_rows: int
    skipped: list[str]
    rows: feature_file.Rows | None


class Parts:
    """The parts of one job; iterating gives the rows of those that have any, in the order of the pictures, and again.

    Args:
        folder: where they are kept, which is there and held by this process; None for memory.
    """

    def __init__(self, folder: pathlib.Path | None):
        self._folder, self._kept = folder, dict[int, _Kept]()

    def keep(self, span: range, part: Part) -> None:
        """Stores the part of these pictures.

        Raises:
            base.InputError: it cannot be written.
        """
        if self._folder is not None:
            path = self._folder / f"part-{span.start:09d}-{span.stop:09d}.npz"
            with atomic_files.replacing_file(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **part.rows._asdict(), skipped=np.asarray(part.skipped, str))
        self._note(span, part)

    def _note(self, span: range, part: Part) -> None:
        rows = part.rows if self._folder is None else None
        self._kept[span.start] = _Kept(span.stop, len(part.rows.labels), part.skipped, rows)

    def take_over(self, stamp: Mapping[str, Any], *, count: int, batch_size: int) -> None:
        """Finds the parts that the same job, by its `stamp`, has left in the folder; removes all others.

        Args:
            stamp: plain values; equal for jobs whose parts fit together.
            count: pictures of the job.
            batch_size: its batches.
        """
        if self._folder is None:
            return
        plan, content = self._folder / _PLAN, json.dumps(dict(stamp), sort_keys=True).encode()
        is_same = plan.is_file() and plan.read_bytes() == content
        damaged, end = 0, 0
        # Of two that begin with the same picture the longer one: a job may be killed while it saves.
        for path, span in sorted(_listed(self._folder), key=lambda found: (found[1].start, -found[1].stop)):
            fits = is_same and span.start >= end and span.start % batch_size == 0 and span.start < span.stop <= count
            part = _read(path, span) if fits and (span.stop == count or span.stop % batch_size == 0) else None
            if part is None:
                damaged += fits
                path.unlink()
                continue
            self._note(span, part)
            end = span.stop
        if damaged:
            progress.say(f"Torn or damaged, and made again: {units.counted(damaged, 'part')} in {self._folder}.")
        if not is_same:
            atomic_files.write_bytes(plan, content)

    def take_in(self, spans: Iterable[range]) -> None:
        """Adds parts that another process of the job has written into the folder.

        Raises:
            base.InputError: one is not there, or damaged.
        """
        for span in spans:
            self._note(span, self._read_sure(span))

    def spans(self) -> list[range]:
        """The pictures of every part, in order."""
        return [range(start, kept.stop) for start, kept in sorted(self._kept.items())]

    def num_done(self) -> int:
        """How many pictures have passed, damaged ones among them."""
        return sum(kept.stop - start for start, kept in self._kept.items())

    def missing(self, batches: list[range]) -> list[range]:
        """The batches that are in no part."""
        return without(batches, self.spans())

    def __iter__(self) -> Iterator[feature_file.Rows]:
        for start, kept in sorted(self._kept.items()):
            if kept.num_rows:
                yield kept.rows or self._read_sure(range(start, kept.stop)).rows

    def _read_sure(self, span: range) -> Part:
        assert self._folder is not None
        path = self._folder / f"part-{span.start:09d}-{span.stop:09d}.npz"
        part = _read(path, span)
        if part is None:
            raise base.InputError(
                f"The parts of a job must stay as they are until it is done; {path} has changed. Give the same command "
                "again: only this part is made anew."
            )
        return part

    def num_rows(self) -> int:
        """How many pictures could be read."""
        return sum(kept.num_rows for kept in self._kept.values())

    def skipped(self) -> list[str]:
        """A line for every damaged picture."""
        return [line for _, kept in sorted(self._kept.items()) for line in kept.skipped]


def without(batches: list[range], spans: Iterable[range]) -> list[range]:
    """The batches that are in none of these spans."""
    done = np.zeros(batches[-1].stop if batches else 0, bool)
    for span in spans:
        done[span.start : span.stop] = True
    return [batch for batch in batches if not done[batch.start]]


def _listed(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, range]]:
    """The parts in a folder, with their pictures; (0, 0) for a name that is not one of ours."""
    for path in folder.glob("part-*.npz"):
        found = _NAME.fullmatch(path.name)
        yield path, range(int(found[1]), int(found[2])) if found else range(0)


def _read(path: pathlib.Path, span: range) -> Part | None:
    """A part, all of it compared with the checksums of its archive; None if it is damaged or of other pictures."""
    try:
        arrays = array_files.read_arrays(path, (*feature_file.Rows._fields, "skipped"))
        part = Part(
            feature_file.Rows(**{name: arrays[name] for name in feature_file.Rows._fields}),
            list(arrays["skipped"].tolist()),
        )
        rows = part.rows
        if len(rows.labels):
            feature_checks.check_columns(rows._asdict(), num_classes=0)
    except Exception:  # readers raise nearly anything on damaged files
        return None
    return part if len(rows.labels) + len(part.skipped) == len(span) else None
