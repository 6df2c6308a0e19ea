"""What the user sees while a run goes on."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from simclr_jax import base, units

_muted = threading.Event()
_LINE_SECONDS = 5.0  # between two lines of a long job of pictures


class Meter:
    """The rate of work between two readings of the clock, and the time left at that rate."""

    def __init__(self, *, done: int, total: int):
        self._done, self._total, self._time = done, total, time.perf_counter()

    def read(self, done: int) -> tuple[float, float]:
        """(units per second since the last reading, seconds left) and starts the next interval."""
        now = time.perf_counter()
        rate = (done - self._done) / max(now - self._time, 1e-9)
        self._done, self._time = done, now
        return rate, (self._total - done) / max(rate, 1e-9)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the rate."""
        start = time.perf_counter()
        yield
        self._time += time.perf_counter() - start


class Reporter:
    """Lines on stderr: how many pictures are done, how fast, and how long the rest takes; `note` hears the first."""

    def __init__(self, total: int, *, done: int, show: bool, note: Callable[[int], None] = lambda done: None):
        self._total, self._done, self._show, self._note = total, done, show, note
        self._meter: Meter | None = None
        self._said = time.perf_counter()

    def count(self, pictures: int) -> None:
        """Some more are done."""
        self._done += pictures
        self._note(self._done)
        if self._meter is None:  # the first batch compiled the program
            self._meter = Meter(done=self._done, total=self._total)
        elif time.perf_counter() - self._said >= _LINE_SECONDS and self._show:
            rate, left = self._meter.read(self._done)
            self._said = time.perf_counter()
            say(f"{self._done} of {self._total} pictures  {rate:.1f} pictures/s  left {units.duration(round(left))}")


def training_line(row: Mapping[str, float], *, num_steps: int, seconds_left: float) -> str:
    """One line for a row of metrics: step, epoch, loss, the method's accuracies, images/s, time left."""
    accuracies = [
        f"{name.removesuffix('_accuracy')} acc {100 * row[name]:.1f} %"
        for name in ("contrastive_accuracy", "supervised_accuracy")
        if name in row
    ]
    return (
        f"step {int(row['step']):>{len(str(num_steps))}}/{num_steps}  epoch {row['epoch']:.1f}  "
        f"loss {row['loss']:.4f}  "
        + "".join(f"{accuracy}  " for accuracy in accuracies)
        + f"{row['images_per_second']:.0f} images/s  left {units.duration(round(seconds_left))}"
    )


def say(line: str) -> None:
    """Shows a line to the user, on stderr so that stdout stays clean for tables."""
    if not _muted.is_set():
        with contextlib.suppress(OSError, ValueError):  # whatever happens to the screen does not decide over the work
            print(base.plain(line), file=sys.stderr, flush=True)


def mute() -> None:
    """From now on `say` says nothing here: another process of the same run says it."""
    _muted.set()


def quiet_libraries() -> None:
    """Keeps the libraries' own remarks off the screen, those of their threads too.

    What goes wrong in them is raised where we wait for them, and is said there once. Left alone, one disk that is full
    makes Orbax, asyncio and TensorStore print a thousand lines.
    """
    for name in ("absl", "orbax", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sys.unraisablehook is not _quiet_unraisable:
        _previous_hook[:] = [sys.unraisablehook]
        sys.unraisablehook = _quiet_unraisable


_previous_hook: list[Callable[[Any], Any]] = []


def _quiet_unraisable(hidden: Any) -> None:
    # TensorStore reports the other writes that were under way to a loop that the first failed one has closed.
    if not (hidden.exc_type is RuntimeError and str(hidden.exc_value) == "Event loop is closed"):
        _previous_hook[0](hidden)
