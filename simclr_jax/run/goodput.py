"""Where the time of a training run went: its goodput, the share that went into updates, and how well they used it.

Three numbers that multiply: the goodput, of the whole time; the idle share, of the loop's time, in which the device had
no update to work on; and the roofline share, what the updates computed of what the device could have at its peak while
it worked on them.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from simclr_jax import units

# What is not updating, in the order in which it is said; the name with which it is logged.
PARTS = {"starting": "starting", "compiling": "compiling", "saving": "saving", "evaluating": "evaluating"}
PARTS |= {"waiting for data": "data"}
# The loop is what is left without these: in an evaluation the device works, too.
_BESIDE_THE_LOOP = ("starting", "compiling", "evaluating")


class Busy:
    """Measures how long the device works on what it is sent, in a thread of its own that waits for the results.

    The loop itself cannot tell: it waits for a dispatch only after it has sent the next one, and is late where the
    device is done before.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._done, self.seconds = now, 0.0, 0.0
        self._sent: queue.Queue[tuple[float, Any] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def add(self, since: float, result: Any) -> None:
        """A dispatch with this result was sent at `since`; the device begins it once it is done with the one before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="busy", daemon=True)
            self._thread.start()
        self._sent.put((since, result))

    def close(self) -> None:
        """Waits for what was sent, at most some seconds: where the device never answers somebody else says so."""
        if self._thread is not None:
            self._sent.put(None)
            self._thread.join(timeout=5.0)
            self._thread = None

    def _watch(self) -> None:
        while (item := self._sent.get()) is not None:
            since, result = item
            with contextlib.suppress(Exception):  # the loop meets the same, and tells
                jax.block_until_ready(result)
            done = self._now()
            self.seconds += done - max(since, self._done)
            self._done = done


class Clock:
    """Counts from when it is made, in this process; all that is spent on no part counts as updating.

    peak_flops: of one device a second; None where that is not known, as on a CPU. flops_of_update: on one device. Both
        are set by those who know.
    """

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._spent = dict.fromkeys(PARTS, 0.0)
        self.peak_flops: float | None = None
        self.flops_of_update: float | None = None
        self.busy = Busy()

    def started(self) -> None:
        """What has passed until now was starting: reading the data, building, restoring."""
        self._spent["starting"] = time.perf_counter() - self._begun

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Around what belongs to a part of `PARTS`; not nested."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent[part] += time.perf_counter() - begin

    def read(self, *, num_updates: int = 0) -> dict[str, float]:
        """ "goodput" (0 to 1), "wall_seconds", and the seconds of every part; they sum to the wall clock.

        After updates also "idle_share", and "roofline_share" where the peak and the work of an update are known.
        """
        wall = time.perf_counter() - self._begun
        row = {f"{PARTS[part]}_seconds": seconds for part, seconds in self._spent.items()}
        loop = wall - sum(self._spent[part] for part in _BESIDE_THE_LOOP)
        shares = shares_of(
            loop=loop,
            busy=self.busy.seconds,
            flops=None if self.flops_of_update is None else num_updates * self.flops_of_update,
            peak=self.peak_flops,
        )
        return {"goodput": (wall - sum(row.values())) / wall, "wall_seconds": wall, **row, **shares}


def shares_of(*, loop: float, busy: float, flops: float | None, peak: float | None) -> dict[str, float]:
    """ "idle_share" of the `loop` seconds in which a device was not `busy`, and "roofline_share" of its `peak`.

    `flops` are those of all updates on one device, `peak` those of a second. What is not known is left out.

    Example:
        >>> goodput.shares_of(loop=10.0, busy=8.0, flops=4e12, peak=1e12)
        {'idle_share': 0.2, 'roofline_share': 0.5}
    """
    if busy <= 0 or loop <= 0:
        return {}
    idle = {"idle_share": round(max(0.0, 1 - busy / loop), 6)}
    return idle if not flops or not peak else {**idle, "roofline_share": flops / (busy * peak)}


def count_flops(lowered: Any) -> float | None:
    """The work of a program, `jax.stages.Lowered`, by XLA's count before it is compiled; None where there is none.

    JAX's own `cost_analysis` tells nothing on GPUs and TPUs (https://github.com/jax-ml/jax/issues/22713). The count
    needs no device but a client that has one, so that of the CPU does for all.
    """
    try:
        from jax._src.lib import _jax

        client = jax.local_devices(backend="cpu")[0].client
        counted = _jax.hlo_module_cost_analysis(client, lowered.compiler_ir("hlo").as_hlo_module())
    except Exception:  # no public name, and JAX_PLATFORMS may leave out the CPU: a number to look at stops no run
        counted = {}
    return counted.get("flops") or None


def line(row: dict[str, float], *, num_updates: int) -> str:
    """One line for people of what `Clock.read` says."""
    wall = row["wall_seconds"]
    rest = ", ".join(f"{part} {units.duration(row[f'{name}_seconds'])}" for part, name in PARTS.items())
    said = (
        f"; the device had nothing to do in {100 * row['idle_share']:.0f} % of the loop" if "idle_share" in row else ""
    )
    if "roofline_share" in row:
        said += f", and reached {100 * row['roofline_share']:.0f} % of its bfloat16 peak in the rest"
    return (
        f"Goodput {100 * row['goodput']:.0f} %: of {units.duration(wall)}, {num_updates} updates took "
        f"{units.duration(wall * row['goodput'])}; {rest}{said}."
    )
