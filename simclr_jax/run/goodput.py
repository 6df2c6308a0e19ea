"""Where the time of a training run went: the share of it that went into updates is its goodput."""

import contextlib
import time
from collections.abc import Iterator

from simclr_jax import units

# What is not updating, in the order in which it is said; the name with which it is logged.
PARTS = {"starting": "starting", "compiling": "compiling", "saving": "saving", "evaluating": "evaluating"}
PARTS |= {"waiting for data": "data"}


class Clock:
    """Counts from when it is made, in this process; all that is spent on no part counts as updating."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._spent = dict.fromkeys(PARTS, 0.0)

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

    def read(self) -> dict[str, float]:
        """ "goodput" (0 to 1), "wall_seconds", and the seconds of every part; they sum to the wall clock."""
        wall = time.perf_counter() - self._begun
        row = {f"{PARTS[part]}_seconds": seconds for part, seconds in self._spent.items()}
        return {"goodput": (wall - sum(row.values())) / wall, "wall_seconds": wall, **row}


def line(row: dict[str, float], *, num_updates: int) -> str:
    """One line for people of what `Clock.read` says."""
    wall = row["wall_seconds"]
    rest = ", ".join(f"{part} {units.duration(row[f'{name}_seconds'])}" for part, name in PARTS.items())
    return (
        f"Goodput {100 * row['goodput']:.0f} %: of {units.duration(wall)}, {num_updates} updates took "
        f"{units.duration(wall * row['goodput'])}; {rest}."
    )
