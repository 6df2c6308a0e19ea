"""Threads or processes that work on tasks, and what is said when one of them dies or hangs.

A process belongs to a thread, which hands it a task, waits and takes the rows over from memory that both see: so death
and silence are met where the task is known. Processes start empty ("spawn") and load no JAX.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np

from simclr_jax import base
from simclr_jax.data import cutting

KINDS = ("threads", "processes")
# More help little: reading and the interpreter's lock are shared.
MOST_BY_DEFAULT = 16
STALL_SECONDS = 300.0


class WorkerSettings(NamedTuple):
    """How pictures are worked on.

    kind: "threads" or "processes". num: how many; 0 = the caller's own thread, which waits meanwhile; None = one for
    each core that this process may use, at most MOST_BY_DEFAULT. stall_seconds: longest time for one picture.
    """

    kind: str = "threads"
    num: int | None = None
    stall_seconds: float = STALL_SECONDS


def check_settings(settings: WorkerSettings) -> WorkerSettings:
    """The settings with their count. Raises base.InputError for values out of range."""
    base.check_choice(settings.kind, KINDS, name="workers", remedy="Use threads.")
    count = settings.num
    if count is None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = min(available, MOST_BY_DEFAULT)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 512:
        raise base.InputError(f"num_workers must be a whole number from 0 to 512; got {count!r}. Leave it out.")
    return settings._replace(num=count)


class Pending(NamedTuple):
    """A task under way. watch: float64 [2], what `cutting.cut_rows` notes; its time is infinite before it begins."""

    task: cutting.Task
    future: "Future[cutting.Cut]"
    watch: np.ndarray


class WorkerDied(Exception):
    """A worker process ended in the middle of a task."""


class Workers(NamedTuple):
    """What works on tasks.

    submit: (task, out) -> Pending, whose rows will be in `out`.
    close: ends the workers: processes at once, threads with the task they are at; what waits is not begun.
    """

    submit: Callable[[cutting.Task, np.ndarray], Pending]
    close: Callable[[], None]


class _Run(Protocol):
    def __call__(self, task: cutting.Task, out: np.ndarray, watch: np.ndarray) -> cutting.Cut: ...


def start_workers(fetch: cutting.Fetch, cuts: cutting.Cuts, *, settings: WorkerSettings, most_rows: int) -> Workers:
    """Workers that run `cutting.cut_rows` on tasks of up to `most_rows` pictures.

    Args:
        fetch: reads an example; called from all threads, or pickled for processes.
        cuts: the crops.
        settings: checked ones.

    Raises:
        base.InputError: OpenCV or simplejpeg is missing.
    """
    from simclr_jax.data import extras, host_crop

    extras.require("simplejpeg")
    host_crop.opencv()
    cut = functools.partial(cutting.cut_rows, fetch=fetch, cuts=cuts)
    tasks: queue.SimpleQueue[tuple[Pending, np.ndarray] | None] = queue.SimpleQueue()
    closed = threading.Event()
    children = [_Child(cut, cuts, most_rows) for _ in range(settings.num or 0) if settings.kind == "processes"]
    runs: list[_Run] = [*children] or [cut] * (settings.num or 0)
    for run in runs:
        # Daemons: a thread that hangs in a read must not keep the program from ending.
        threading.Thread(target=_work, args=(tasks, run, closed), daemon=True, name="simclr-feed").start()

    def submit(task: cutting.Task, out: np.ndarray) -> Pending:
        pending = Pending(task, Future(), np.asarray([0, math.inf]))
        tasks.put((pending, out))
        if not settings.num:
            tasks.put(None)
            _work(tasks, cut, closed)
        return pending

    def close() -> None:
        closed.set()
        for _ in range(settings.num or 0):
            tasks.put(None)
        for child in children:
            child.kill()

    return Workers(submit, close)


def result(pending: Pending, names: Sequence[str], *, title: str, stall_seconds: float) -> cutting.Cut:
    """The result of a task, awaited.

    Raises:
        base.InputError: its worker died, or has been at one picture for longer than `stall_seconds`; with its name.
    """
    while True:
        try:
            return pending.future.result(timeout=min(stall_seconds, 1.0))
        except WorkerDied as error:
            raise base.InputError(
                f"{title}: a worker process ended while it read {names[int(pending.watch[0])]} ({error}). Where memory "
                "ran out use fewer num_workers; a picture that ends a decoder must be removed."
            ) from error
        except TimeoutError:
            if pending.future.done() or time.monotonic() - pending.watch[1] < stall_seconds:
                continue
            raise base.InputError(
                f"{title}: a picture must be read within {stall_seconds:g} seconds; {names[int(pending.watch[0])]} is "
                "not. Check the disk or the network that it lies on."
            ) from None


def _work(tasks: "queue.SimpleQueue[tuple[Pending, np.ndarray] | None]", run: _Run, closed: threading.Event) -> None:
    while (item := tasks.get()) is not None:
        pending, out = item
        if closed.is_set():
            pending.future.cancel()
        if not pending.future.set_running_or_notify_cancel():
            continue
        try:
            pending.future.set_result(run(pending.task, out, pending.watch))
        except BaseException as error:  # the one who waits for the result decides
            pending.future.set_exception(error)


class _Child:
    """A worker process, as the thread sees it that feeds it."""

    def __init__(self, cut: Callable[..., cutting.Cut], cuts: cutting.Cuts, most_rows: int):
        context = multiprocessing.get_context("spawn")
        shape = (most_rows, *cuts.row_shape)
        # Not a named shared memory: this one is gone with the last process that uses it, however that ends.
        memory, times = context.RawArray("B", math.prod(shape)), context.RawArray("d", 2)
        self._rows, self._times = _as_array(memory, shape), np.frombuffer(times)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, memory, times, shape, cut), daemon=True)
        with _light_main():
            self._process.start()
        theirs.close()

    def __call__(self, task: cutting.Task, out: np.ndarray, watch: np.ndarray) -> cutting.Cut:
        self._times[:] = 0, time.monotonic()
        try:
            self._pipe.send(task)
            while not self._pipe.poll(0.2):
                watch[:] = self._times
            watch[:] = self._times
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            watch[:] = self._times
            self._process.join(5)
            code = self._process.exitcode or 0
            raise WorkerDied(signal.Signals(-code).name if code < 0 else f"status {code}") from error
        if isinstance(answer, BaseException):
            raise answer
        out[...] = self._rows[: len(out)]
        return answer

    def kill(self) -> None:
        self._process.kill()


def _serve(pipe: Connection, memory: Any, times: Any, shape: tuple[int, ...], cut: Callable[..., cutting.Cut]) -> None:
    """What a worker process does until its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the run decides when it ends, after a last checkpoint
        signal.signal(number, signal.SIG_IGN)
    rows, watch = _as_array(memory, shape), np.frombuffer(times)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                answer: Any = cut(task, rows[: len(task.places)], watch)
            except Exception as error:
                answer = error
            pipe.send(answer)


def _as_array(memory: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(memory, np.uint8).reshape(shape)


@contextlib.contextmanager
def _light_main() -> Any:
    """Keeps the new process from running the user's script once more: it needs nothing from there."""
    import sys

    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    try:
        if file is not None:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        if file is not None:
            main.__file__ = file
        main.__spec__ = spec
