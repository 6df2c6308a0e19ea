"""The processes that all programs here start: when they end, who hears them meanwhile, and what they leave behind."""

import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.05


class Clock:
    """The seconds that are left of a call of this many minutes."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds, negative afterwards."""
        return self._end - time.monotonic()

    def stop(self) -> None:
        """Nothing is left of it from now on."""
        self._end = min(self._end, time.monotonic())


class Ended(NamedTuple):
    """How a process ended: its status, what it wrote, and the seconds after which it was killed, 0.0 if it was not."""

    status: int
    out: str
    errors: str
    late: float

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it printed as JSON, a dict a line."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{") and line.endswith("}")]

    @property
    def reason(self) -> str:
        """Why it has no result, in one line; "" if it ended well."""
        if self.late:
            return f"not done after {self.late:.0f} s"
        return f"exit {self.status}: {one_line((self.errors.splitlines() or ['no output'])[-1])}" if self.status else ""


def one_line(text: str) -> str:
    """What a library said, short enough for a table."""
    return " ".join(text.replace("|", "/").split())[:200]


def missing(modules: Sequence[str]) -> str:
    """The first of the modules that is not installed here, as a sentence; "" if all are."""
    absent = (name for name in modules if importlib.util.find_spec(name) is None)
    return next((f"{name} is not installed" for name in absent), "")


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `more`; this checkout is imported first, then what came on PYTHONPATH."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def worker(verb: str, given: Mapping[str, Any]) -> list[str]:
    """The command of a process that does a part of `benchmarks/gpu.py VERB`, and prints lines of JSON."""
    return [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), verb, f"--worker={json.dumps(given)}"]


def run(
    command: Sequence[str],
    clock: Clock,
    *,
    environment: Mapping[str, str],
    listen: Callable[[str], bool] = lambda line: False,
    patience: float = 0.0,
) -> Ended:
    """Runs a process to its end, or until nothing is left of the clock; SIGTERM and Ctrl-C here end the clock.

    Args:
        command: its words.
        clock: of this call.
        environment: the whole of the process's.
        listen: hears every line of its standard error at once, and "" about once a second; True stops the process.
        patience: seconds between SIGTERM, after which it may save, and its end; 0 ends it at once, with its own.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        begin = time.monotonic()
        # In a session of its own, so that Ctrl-C reaches it through this process alone.
        child = subprocess.Popen(
            command, env=dict(environment), stdout=out, stderr=errors, cwd=ROOT, start_new_session=True
        )
        with _ended_with_this(child, clock):
            late = _attend(child, clock, _lines(errors.fileno()), listen=listen, patience=patience)
        seconds = time.monotonic() - begin
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in (out, errors)]
    return Ended(child.returncode, *(text.decode(errors="replace") for text in texts), seconds if late else 0.0)


def _lines(file: int) -> Iterator[list[str]]:
    """What came to a file since the last time, line by line; [""] after a second of nothing."""
    place, quiet_since = 0, time.monotonic()
    while True:
        # `os.pread` leaves the writer's place in the file alone.
        whole = os.pread(file, 2**20, place).rpartition(b"\n")[0]
        place += len(whole) + bool(whole)
        lines = whole.decode(errors="replace").splitlines()
        if lines or time.monotonic() - quiet_since > 1:
            quiet_since = time.monotonic()
            lines = lines or [""]
        yield lines


def _attend(
    child: subprocess.Popen, clock: Clock, heard: Iterator[list[str]], *, listen: Callable[[str], bool], patience: float
) -> bool:
    """Waits for the process; whether it was ended for lack of time. It is asked to stop once: a second signal kills."""
    asked = False
    while True:
        is_over = child.poll() is not None
        stop = max([listen(line) for line in next(heard)], default=False)
        if is_over:
            return asked and not patience
        if (stop or clock.left <= 0) and not asked:
            asked = True
            os.killpg(child.pid, signal.SIGTERM if patience else signal.SIGKILL)
        if clock.left <= -patience:
            os.killpg(child.pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _ended_with_this(child: subprocess.Popen, clock: Clock) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the clock; whatever else ends this process ends the child."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    previous = {number: signal.signal(number, lambda number, frame: clock.stop()) for number in numbers}
    try:
        yield
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
