"""Where the connected processes of a run meet: they compare settings and hand each other values, with a time limit.

By the key-value store of JAX's coordination service, so that no device takes part. `Peers` is who calls it.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from simclr_jax import base


class Meetings:
    """The meetings of a run of several processes, which all of them come to in the same order.

    index: of this process; process 0 compares. count: of all processes. store: the client of the coordination service.
    """

    def __init__(self, index: int, count: int, store: Any):
        self._index, self._count, self._store, self._round = index, count, store, 0

    def agree(self, facts: Mapping[str, Any], *, seconds: float) -> None:
        """Returns when all processes have come here with the same facts.

        Args:
            facts: JSON values by name.
            seconds: how long the slowest process may take.

        Raises:
            base.InputError: the same line in all of them: which process, on which host, has which other value; or who
                did not come.
        """
        self._round += 1
        key = f"simclr/agree/{self._round}"
        mine = json.dumps({"host": platform.node(), "facts": dict(facts)}, sort_keys=True)
        self._store.key_value_set(f"{key}/{self._index}", mine)
        if self._index == 0:
            self._store.key_value_set(f"{key}/verdict", self._compare(key, json.loads(mine), seconds))
        try:
            verdict = self._store.blocking_key_value_get(f"{key}/verdict", int((seconds + 10) * 1000))
        except jax.errors.JaxRuntimeError as error:
            raise base.InputError(f"All processes must meet within {seconds:.0f} s; process 0 did not come.") from error
        if verdict != "same":
            raise base.InputError(verdict)

    def _compare(self, key: str, mine: Mapping[str, Any], seconds: float) -> str:
        """Process 0's verdict: "same", or the line that says what differs where."""
        deadline = time.monotonic() + seconds
        for index in range(1, self._count):
            left = max(deadline - time.monotonic(), 0.1)
            try:
                theirs = json.loads(self._store.blocking_key_value_get(f"{key}/{index}", int(left * 1000)))
            except jax.errors.JaxRuntimeError:
                return f"All processes must meet within {seconds:.0f} s; process {index} did not come. See its output."
            for name in sorted(mine["facts"].keys() | theirs["facts"].keys()):
                here, there = (side["facts"].get(name, "absent") for side in (mine, theirs))
                if here != there:
                    return (
                        f"{name} must be the same in all processes; got {there!r} in process {index} on "
                        f"{theirs['host']} and {here!r} in process 0 on {mine['host']}. Start all of them alike, or "
                        "each on its own with --num_processes=1."
                    )
        return "same"

    def any(self, flag: bool, *, seconds: float) -> bool:
        """Whether `flag` is true in any process.

        Raises:
            base.InputError: a process did not come.
        """
        self._round += 1
        key = f"simclr/any/{self._round}"
        if flag:
            self._store.key_value_set(f"{key}/{self._index}", "yes")
        try:
            self._store.wait_at_barrier(f"{key}/all", int(seconds * 1000))
        except jax.errors.JaxRuntimeError as error:
            reason = base.one_line(error, 200)
            raise base.InputError(f"All processes must meet within {seconds:.0f} s; {reason}") from error
        return bool(self._store.key_value_dir_get(key))

    def exchange(
        self, value: Any, *, seconds: float, news: Callable[[], Mapping[int, int]], interval: float
    ) -> list[Any]:
        """What every process has brought, in the order of their numbers.

        Waits in short steps, between which Python answers signals.

        Args:
            value: a JSON value.
            seconds: how long nobody may come and `news` stay the same.
            news: how far every process is.
            interval: seconds between two looks.

        Raises:
            base.InputError: who did not come.
        """
        self._round += 1
        key = f"simclr/exchange/{self._round}"
        self._store.key_value_set(f"{key}/{self._index}", json.dumps(value))
        seen: tuple[list[int], Mapping[int, int]] | None = None
        since = time.monotonic()
        while True:
            try:
                found = {int(name.rsplit("/", 1)[1]): text for name, text in self._store.key_value_dir_get(key)}
                now = sorted(found), news()
            except jax.errors.JaxRuntimeError:  # nobody answers: `Peers` notices
                found, now = {}, seen or ([], {})
            if len(found) == self._count:
                return [json.loads(found[index]) for index in range(self._count)]
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > seconds:
                missing = ", ".join(f"process {index}" for index in range(self._count) if index not in now[0])
                raise base.InputError(
                    f"All processes must get on; nothing new came from {missing} for {seconds:.0f} s. See its output."
                )
            time.sleep(interval)
