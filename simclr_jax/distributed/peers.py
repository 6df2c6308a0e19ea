"""The connected processes of a run: they compare settings, end together, and notice one that is stuck.

Everything here goes through the key-value store of JAX's coordination service, with a time limit; no device takes
part, so that it also works while a collective hangs.
"""

import collections
import contextlib
import faulthandler
import json
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import jax

from simclr_jax import base
from simclr_jax.distributed import liveness, meetings

EXIT_PEER_LOST = 4

# How long a wait for the others may last before one of them is taken for stuck: the variable's seconds, or else this
# many and this many times the median of those before; the first ones, in which others may still compile or read their
# data, last much longer. An evaluation may last this many times as long as the variable says.
STUCK_VARIABLE = "SIMCLR_STUCK_SECONDS"
_STUCK_SECONDS, _STUCK_WAITS = 60.0, 10.0  # the former also for a process that says nothing, whatever it does
_FIRST_SECONDS, _EVALUATION_TIMES = 3600.0, 10.0
_FIRST_WAITS = {"update": 6, "evaluation": 1}  # two waits an update: for the vote on stopping and for the metrics
_MOST_REMEMBERED = 200  # waits, for the median
_GRACE_SECONDS = 5.0  # for the others to read of a failure before the process with the store ends
_LAST_SECONDS = 0.5
_BEATS = 4  # of every process in which one that is alive has said something new
# Beats beyond the limit after which silence is reported: who waits for one that is stuck says so before, with stacks.
_SILENT_BEATS = 10


class Peers:
    """This process and its connection to the others. A context: an exception that leaves it ends all processes.

    index: of this process; process 0 writes metrics, results and config.
    count: of all processes. With 1, every method returns at once and no thread runs.
    obey: for a program that has something to save when another process was stopped: called with the signal's number by
        `at` and `exchange`, and raises. None to end at once.

    Raises:
        base.InputError: STUCK_VARIABLE is no number of seconds.
    """

    def __init__(
        self,
        index: int,
        count: int,
        *,
        say: Callable[[str], None] = print,
        words: liveness.Words = liveness.TRAINING,
    ):
        self.index, self.count = index, count
        self.obey: Callable[[int], None] | None = None
        self._say, self._words, self._told = say, words, 0
        self._since: float | None = None
        self._times, self._what, self._step = 1.0, "update", 0
        self._lasted = {what: collections.deque[float](maxlen=_MOST_REMEMBERED) for what in _FIRST_WAITS}
        self._waits = dict.fromkeys(_FIRST_WAITS, 0)
        self._limit = stuck_limit()
        self._beats = liveness.Beats()
        self._interval = max(0.5, count / 128)  # a thousand processes read the store 128 times a second
        self._left, self._ending = threading.Event(), threading.Lock()
        if count > 1:
            self._store = _store()
            self._meetings = meetings.Meetings(index, count, self._store)
            threading.Thread(target=self._listen, name="peers", daemon=True).start()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def agree(self, facts: Mapping[str, Any], *, seconds: float = 120.0) -> None:
        """Returns when all processes have come here with the same facts; see `meetings.Meetings.agree`."""
        if self.count > 1:
            self._meetings.agree(facts, seconds=seconds)

    def any(self, flag: bool, *, seconds: float = 600.0) -> bool:
        """Whether `flag` is true in any process; all of them call it, and all wait for the slowest.

        Raises:
            base.InputError: a process did not come.
        """
        return flag if self.count == 1 else self._meetings.any(flag, seconds=seconds)

    def exchange(self, value: Any) -> list[Any]:
        """What every process brings, a JSON value, in the order of their numbers; all call it, and all wait for all.

        The wait lasts as long as those that have not come say that they get on, by `at`: without news for an hour, or
        for ten times STUCK_VARIABLE, they are taken for stuck.

        Raises:
            base.InputError: who is.
        """
        if self.count == 1:
            return [value]
        seconds = _FIRST_SECONDS if self._limit is None else _EVALUATION_TIMES * self._limit
        return self._meetings.exchange(value, seconds=seconds, news=self._steps, interval=self._interval)

    def at(self, step: int) -> None:
        """Says how far this process is, for the others and for lines about what went wrong."""
        self._step = step
        if self._told and self.obey is not None:
            self.obey(self._told)

    def _steps(self) -> dict[int, int]:
        self.at(self._step)
        return {index: state.step for index, state in self._read_states().items()}

    @contextlib.contextmanager
    def waiting(self, step: int, *, times: float = 1.0, what: str = "update") -> Iterator[None]:
        """A context for waiting for the others at update `step`: after a time limit this process ends.

        times: how many times the usual limit it may last, where STUCK_VARIABLE sets none.
        what: "update", or "evaluation" for what all do together and takes as long as its data are many.

        JAX notices a process that has ended, but not one that is stuck.
        """
        if self.count == 1:
            yield
            return
        self._step, self._times, self._what, self._since = step, times, what, time.monotonic()
        try:
            yield
        finally:
            if self._waits[what] >= _FIRST_WAITS[what] or what == "evaluation":
                self._lasted[what].append(time.monotonic() - self._since)
            self._waits[what], self._since = self._waits[what] + 1, None

    def __enter__(self) -> "Peers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count == 1:
            return
        if error is None:
            if self._told:  # after its last `at`: the one that was stopped will not come to JAX's shutdown
                _end(128 + self._told)
            self._left.set()
            jax.distributed.shutdown()  # waits for the others
            return
        self._leave(error)  # unwinding further would wait for the others in JAX's own shutdown, and abort

    @contextlib.contextmanager
    def noticing_loss(self) -> Iterator[None]:
        """A context for work with the others: if one of them is lost, this process ends at once, with status 4.

        If the exception went further, clean-up such as that of checkpoints would wait for the lost process.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1 and liveness.is_loss(error):
                self._leave(error)
            raise

    def _leave(self, error: BaseException) -> None:
        """Prints what has happened, informs the others and ends this process."""
        short = base.one_line(error, 200)
        status, line = 2, f"{self._words.program}: {error}"
        if isinstance(error, KeyboardInterrupt):
            number = getattr(error, "number", signal.SIGINT)
            status, line = 128 + number, f"{self._words.program}: stopped by {signal.Signals(number).name}."
        elif liveness.is_loss(error):
            status, line = (
                EXIT_PEER_LOST,
                (
                    f"{self._words.program}: another process was lost at {self._words.unit} {self._step} ({short}). "
                    f"Its own output says why; the same command goes on from {self._words.kept}."
                ),
            )
        elif not isinstance(error, base.InputError):
            status, line = 1, f"{type(error).__name__}: {short}"
        whole = "".join(traceback.format_exception(error)).rstrip() if status == 1 else line
        self.end(status, line, whole=whole)

    def end(self, status: int, line: str, *, whole: str | None = None) -> None:
        """Prints `line` or `whole`, tells the others, which end with the same status, and ends this process."""
        with self._ending:  # of several threads that want it, only one
            self._left.set()
            print(whole or line, file=sys.stderr, flush=True)
            self._tell(status, line)
            _end(status)

    def _tell(self, status: int, line: str) -> None:
        """Informs the others, and waits until they have read it: the store may be in this process."""
        news = {"status": status, "line": line, "index": self.index, "host": platform.node()}
        _within(_GRACE_SECONDS, lambda: self._store.key_value_set("simclr/failed", json.dumps(news)))
        self._wait_until_heard()

    def _wait_until_heard(self) -> None:
        milliseconds = int(1000 * _GRACE_SECONDS)
        _within(_GRACE_SECONDS + 1, lambda: self._store.wait_at_barrier("simclr/heard", milliseconds))
        if self.is_main:
            time.sleep(_LAST_SECONDS)  # with this process the store ends, at which JAX aborts who is still there

    def _listen(self) -> None:
        """The thread that says how far this process is, and looks whether another one has failed."""
        beat = 0
        while not self._left.wait(self._interval):
            beat += 1
            mine = json.dumps([self._step, self._since is not None, beat])
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._store.key_value_set(f"simclr/step/{self.index}", mine, allow_overwrite=True)
                if self.is_main:
                    self._beats.hear(self._read_states())
                else:
                    self._beats.note(0, beat)  # the store is in process 0
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._leave_if_told(json.loads(self._store.key_value_try_get("simclr/failed")))

    def _watch(self) -> None:
        """The thread that looks whether this process waits too long, without the store, which may hang too."""
        while not self._left.wait(0.5):
            since = self._since
            if since is not None and time.monotonic() - since > self._patience():
                self._report_stuck(time.monotonic() - since)
            silent = self._beats.silent((self._limit or _STUCK_SECONDS) + _SILENT_BEATS * self._interval)
            if silent and not self._left.is_set():
                self._report_silent(silent)

    def _patience(self) -> float:
        lasted = self._lasted[self._what]
        long = _STUCK_WAITS * statistics.median(lasted) if lasted else 0.0
        if self._limit is not None:
            return max(_EVALUATION_TIMES * self._limit, long) if self._what == "evaluation" else self._limit
        is_first = self._waits[self._what] < _FIRST_WAITS[self._what]
        return self._times * (_FIRST_SECONDS if is_first else max(_STUCK_SECONDS, long))

    def _leave_if_told(self, news: Mapping[str, Any]) -> None:
        """Ends this process because another one failed."""
        if self._left.is_set():
            return
        who = f"process {news['index']} on {news['host']} {'was stopped' if news['status'] > 128 else 'failed'}"
        print(f"{self._words.program}: ended because {who}: {news['line']}", file=sys.stderr, flush=True)
        if self.obey is not None and news["status"] > 128:
            self._told = news["status"] - 128
            self._left.set()
            return
        self._wait_until_heard()
        _end(news["status"])

    def _report_stuck(self, seconds: float) -> None:
        """Prints who keeps the others waiting and where this one waits, and ends it."""
        before = self._states()
        time.sleep(_BEATS * self._interval if before else 0.0)
        now = self._states() if before else {}
        line = f"waited {seconds:.0f} s for {self._what} {self._step} (limit: {STUCK_VARIABLE}); "
        line += liveness.who_is_stuck(before, now, count=self.count, mine=self.index)
        print(f"{self._words.program}: {line}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        if now:
            self._tell(EXIT_PEER_LOST, line)
        _end(EXIT_PEER_LOST)

    def _report_silent(self, silent: Mapping[int, float]) -> None:
        """Prints of whom nothing was heard, in whichever phase this process is, and ends it."""
        who = ", ".join(f"process {index}" for index in sorted(silent)[:8])
        line = (
            f"nothing was heard of {who} for {max(silent.values()):.0f} s (limit: {STUCK_VARIABLE}), at "
            f"{self._words.unit} {self._step}. It was killed, or its host or the network is down; the same command "
            f"goes on from {self._words.kept}."
        )
        self.end(EXIT_PEER_LOST, f"{self._words.program}: {line}")

    def _read_states(self) -> dict[int, liveness.State]:
        found = self._store.key_value_dir_get("simclr/step")
        return {int(key.rsplit("/", 1)[1]): liveness.State(*json.loads(value)) for key, value in found}

    def _states(self) -> dict[int, liveness.State]:
        """Process -> what it last said of itself; empty if process 0 does not answer."""
        answers: list[dict[int, liveness.State]] = []
        _within(_GRACE_SECONDS, lambda: answers.append(self._read_states()))
        return answers[0] if answers else {}


def _within(seconds: float, ask: Callable[[], None]) -> None:
    """Asks the store something, at most so long: a call has no time limit of its own where the network is down."""

    def act() -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            ask()

    asking = threading.Thread(target=act, name="asking", daemon=True)
    asking.start()
    asking.join(seconds)


def stuck_limit() -> float | None:
    """The seconds of STUCK_VARIABLE, None where it is not set.

    Raises:
        base.InputError: it is no number of seconds.
    """
    asked = os.environ.get(STUCK_VARIABLE)
    if not asked:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        got = base.one_line(asked, 40)
        raise base.InputError(f"{STUCK_VARIABLE} must be a number of seconds above 0; got {got!r}. Use 600.")
    return seconds


def _end(status: int) -> None:
    """Ends this process at once, without the clean-up that would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _store() -> Any:
    """The client of JAX's coordination service. It has no public name; Orbax and JAX's own checkpointing use this one.

    `jax.experimental.multihost_utils`, which is public, is no substitute: it computes on the devices, waits without a
    time limit and cannot say which process did not come.
    """
    from jax._src import distributed

    return distributed.global_state.client
