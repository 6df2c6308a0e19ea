"""Which processes of a run are alive, told from what they say of themselves twice a second, and from errors."""

import re
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from simclr_jax import base

# What gloo, NCCL and the coordination service say when another process is lost; tests/distributed/lost_peers.txt has
# such lines and where they come from.
_LOST = re.compile(
    "gloo .*failed|remoteerror|remote process exited|connection (was )?(reset|closed)|socket closed|heartbeat"
    "|tasks are unhealthy|remote task has failed|another task died|nccl.*broken pipe|leader task was preempted",
    re.I | re.S,
)


class State(NamedTuple):
    """What a process says of itself: its update, whether it waits for the others, and a number that grows."""

    step: int
    waits: bool
    beat: int


class Words(NamedTuple):
    """What lines for the user call the program and its unit of work, and what a job that was ended goes on from."""

    program: str
    unit: str
    kept: str


TRAINING = Words("simclr-jax train", "update", "the newest checkpoint")


class Beats:
    """When something new was last heard of each process; one thread hears, another one asks."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def note(self, index: int, beat: int) -> None:
        """Process `index` has said `beat`, or answered at ours."""
        with self._lock:
            if self._last.get(index, (None, 0.0))[0] != beat:
                self._last[index] = (beat, time.monotonic())

    def hear(self, states: Mapping[int, State]) -> None:
        """What the store has of all processes, this one among them."""
        for index, state in states.items():
            self.note(index, state.beat)

    def silent(self, seconds: float) -> dict[int, float]:
        """Process -> seconds since it was heard, of those that were heard once and then not for `seconds`."""
        now = time.monotonic()
        with self._lock:
            return {index: now - when for index, (_, when) in self._last.items() if now - when > seconds}


def who_is_stuck(before: Mapping[int, State], now: Mapping[int, State], *, count: int, mine: int) -> str:
    """Which processes keep the others waiting, told from what all said of themselves at two moments."""
    if not now:
        return "process 0 does not answer"
    others = [i for i in range(count) if i != mine]
    silent = [i for i in others if i not in now or (i in before and now[i].beat == before[i].beat)]
    busy = [i for i in others if i not in silent and not now[i].waits]
    last = min((state.step for state in now.values()), default=0)
    behind = [i for i in range(count) if i in now and now[i].step == last]
    for found, how in ((silent, "does not answer"), (busy, "does not wait for the others but works or sleeps")):
        if found:
            places = (f"process {i} {how}, at update {now[i].step if i in now else 'none'}" for i in found[:8])
            return f"stuck: {'; '.join(places)}{' ...' * (len(found) > 8)}"
    places = (f"process {i} at update {now[i].step}" for i in behind[:8])
    return f"furthest behind: {', '.join(places)}"


def is_loss(error: BaseException) -> bool:
    """Whether an error means that another process is lost.

    JAX raises a ValueError if it finds out while it dispatches, a RuntimeError of its own later.
    """
    return not isinstance(error, base.InputError | OSError) and bool(_LOST.search(str(error)))
