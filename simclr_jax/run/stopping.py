"""Signals that stop the program: polled where a state is to be saved, obeyed at once where there is nothing to lose.

Python runs a handler between two of its own instructions, and compiling or a slow disk may take a minute without one.
So a thread reads the signals too, from the pipe that Python's own handler in C writes into: it answers at once, ends
the program where nothing would be lost, and after `HARD_LIMIT` in any case, before a cluster's patience is over.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from simclr_jax import base
from simclr_jax.run import progress

# Seconds from the first signal until the program ends if it has not come to saving; a save in progress is not cut. The
# variable sets another limit, for updates that last as long and clusters that wait longer.
HARD_LIMIT = 25.0
LIMIT_VARIABLE = "SIMCLR_STOP_SECONDS"
# A lost terminal, and what clusters send before time is up: `sbatch --signal=USR1@60`, and a limit of CPU time.
_OTHERS = ("SIGHUP", "SIGUSR1", "SIGXCPU")
_GRACE = 1.0  # for the program to end by itself, with its own last words
_LOOK = 0.1  # seconds between two looks for a signal while another program works
_called: list[subprocess.Popen[bytes]] = []


class Stop:
    """Filled in when a signal asks the program to stop: its number and name; false before.

    may_leave: why nothing would be lost if the program ended now, "" where something would. is_saving: whether a state
    is being written. end: ends the program because of a signal, with a line. All are set by those who know, and are
    called by another thread.
    """

    number: int = 0

    def __init__(self) -> None:
        self.may_leave: Callable[[], str] = lambda: ""
        self.is_saving: Callable[[], bool] = lambda: False
        self.end: Callable[[int, str], None] = _say_and_leave

    @property
    def name(self) -> str:
        """The signal's name, as users know it."""
        return signal_name(self.number)

    def __bool__(self) -> bool:
        return self.number != 0


class Interrupted(KeyboardInterrupt):
    """A signal that ends a verb which has nothing to save; `number` says which."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def signal_name(number: int) -> str:
    """What people call a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """The first SIGINT, SIGTERM or one of `_OTHERS` only sets the yielded Stop, to be polled; a second one ends the
    process at once. One of `_OTHERS` that is ignored, as SIGHUP under nohup, stays so.

    Raises:
        base.InputError: LIMIT_VARIABLE is no number of seconds.
    """
    stop, handled, limit = Stop(), list[int](), _limit()

    def handle(number: int, frame: FrameType | None) -> None:
        if handled:
            leave(number)
        handled.append(number)
        stop.number = stop.number or number

    def answer(number: int) -> None:
        stop.number = stop.number or number
        progress.say(f"{stop.name}: saving after the current step (again: stop at once without saving)")

    def look(seconds: float) -> None:
        why = stop.may_leave()
        if why and seconds > _GRACE:
            stop.end(stop.number, f"Stopped by {stop.name}; {why}. The same command goes on from here.")
        if seconds > limit and not stop.is_saving():
            late = f"saving was not reached in {limit:.0f} s (limit: {LIMIT_VARIABLE})"
            stop.end(stop.number, f"Stopped by {stop.name}; {late}.")

    with _watched(handle, answer, look):
        yield stop


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """For verbs that leave nothing half done: the first of those signals raises Interrupted, wherever it arrives.

    Where that does not end the verb within seconds, as in a library's C code, or at a second signal, the process ends.
    """
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            leave(number)
        seen.append(number)
        raise Interrupted(number)

    numbers: list[int] = []

    def look(seconds: float) -> None:
        if seconds > 3 * _GRACE:
            progress.say(f"Stopped by {signal_name(numbers[0])}.")
            leave(numbers[0])

    def swallowed(hidden: Any) -> None:  # by a library's callback, in which nothing can be raised
        if hidden.exc_type is not Interrupted:
            before(hidden)
            return
        progress.say(f"Stopped by {signal_name(seen[0])}.")
        leave(seen[0])

    before, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        with _watched(handle, numbers.append, look):
            yield
    finally:
        sys.unraisablehook = before


def call(words: Sequence[str]) -> int:
    """Runs another program and waits for it, passing a first signal on: it decides how it ends, and saves what it has.

    Returns its status, 128 + n where signal n has killed it.

    Raises:
        Interrupted: after its end, if a signal came.
    """
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            leave(number)
        seen.append(number)

    with _watched(handle, lambda number: None, lambda seconds: None):
        # In a group of its own, a terminal's Ctrl-C comes to it once, from here.
        child = subprocess.Popen(words, process_group=0)
        _called.append(child)
        told = False
        try:
            while (status := child.poll()) is None:
                if seen and not told:
                    child.send_signal(seen[0])
                    told = True
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_LOOK)
        finally:
            _called.remove(child)
            if child.poll() is None:
                child.kill()
    if seen:
        raise Interrupted(seen[0])
    return status if status >= 0 else 128 - status


def _limit() -> float:
    asked = os.environ.get(LIMIT_VARIABLE)
    if not asked:
        return HARD_LIMIT
    try:
        seconds = float(asked)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        got = base.one_line(asked, 40)
        raise base.InputError(f"{LIMIT_VARIABLE} must be a number of seconds above 0; got {got!r}. Use 60.")
    return seconds


def _say_and_leave(number: int, line: str) -> None:
    progress.say(line)
    leave(number)


def leave(number: int) -> None:
    """Ends the process and those that it has started, at once, with the status of a signal."""
    children: list[Any] = [*multiprocessing.active_children(), *_called]
    for child in children:
        child.kill()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(128 + number)


@contextlib.contextmanager
def _watched(
    handle: Callable[[int, FrameType | None], None], answer: Callable[[int], None], look: Callable[[float], None]
) -> Iterator[None]:
    """Sets the handlers, and a thread that calls `answer` at the first signal and then `look` ten times a second."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread alone
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    more = [getattr(signal, name) for name in _OTHERS if hasattr(signal, name)]
    numbers += [number for number in more if signal.getsignal(number) != signal.SIG_IGN]
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    thread = threading.Thread(target=_follow, args=(source, set(numbers), answer, look), name="signals", daemon=True)
    before = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, handle) for number in numbers}
    thread.start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.write(sink, b"\0")
        thread.join()
        os.close(source)
        os.close(sink)


def _follow(source: int, numbers: set[int], answer: Callable[[int], None], look: Callable[[float], None]) -> None:
    count, since = 0, 0.0
    while True:
        ready = select.select([source], [], [], 0.1 if count else None)[0]
        for number in os.read(source, 64) if ready else b"":
            if number == 0:
                return
            if number in numbers:
                count += 1
                if count > 1:
                    leave(number)
                since = time.monotonic()
                answer(number)
        if count:
            look(time.monotonic() - since)
