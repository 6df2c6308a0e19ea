"""Reading the metrics of a training run off the device: one dispatch late, checked, logged and printed."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from simclr_jax import base, distributed, train_step
from simclr_jax.distributed import sharding
from simclr_jax.run import finite, goodput, progress
from simclr_jax.run import workdir as workdir_lib


class Sizes(NamedTuple):
    """Of a run: updates in all, images per update, images per epoch."""

    num_steps: int
    batch_size: int
    num_images: int


class Reader:
    """Reads metrics one dispatch late, so that the device never waits for the host; checks, logs and prints them."""

    def __init__(
        self,
        log: workdir_lib.RunLog,
        peers: distributed.Peers,
        sizes: Sizes,
        *,
        step: int,
        log_every: int,
        clock: goodput.Clock | None = None,
    ):
        self._log, self._peers, self._sizes, self._log_every = log, peers, sizes, log_every
        self._pending: tuple[int, int, base.Metrics] | None = None
        self.clock = clock or goodput.Clock()
        self._meter = progress.Meter(done=step, total=sizes.num_steps)
        self._compiled = False
        self._skipped = 0  # in a row
        self._first = self.taken = step  # updates whose metrics were handed in
        self.norms: dict[str, float] = {}  # of the gradient by parts of the network, of the update read last
        # What was logged since this process started, of the loss and of evaluations: what a diagnosis rests on.
        self.rows: list[dict[str, float]] = []
        self._paused_seconds = 0.0
        self._begun = time.perf_counter()
        self._start = self._begun - log.seconds_before

    def put(self, step: int, count: int, metrics: base.Metrics) -> None:
        """Takes the metrics of updates step + 1 ... step + count and deals with those taken before."""
        self.flush()
        self._pending, self.taken = (step, count, metrics), step + count
        if base.platform() == "cpu":
            self.flush()  # un-awaited collectives of several virtual CPU devices can deadlock

    def flush(self) -> None:
        """Waits for the pending metrics; raises finite.Diverged if one of them is not finite."""
        if self._pending is None:
            return
        step, count, metrics = self._pending
        self._pending = None
        with self._peers.waiting(step + count):
            rows = {name: np.asarray(jax.device_get(values))[:count] for name, values in metrics.items()}
        of_parts = {name: rows.pop(name) for name in list(rows) if name.startswith(train_step.GROUP_NORM)}
        self._check_finite(step, rows, of_parts)
        done = step + count
        first, self._compiled = not self._compiled, True
        if first:
            workdir_lib.write_metrics(
                self._log, {"step": done, "first_dispatch_seconds": time.perf_counter() - self._begun}
            )
        if done == self._sizes.num_steps or (not first and crosses(step, done, self._log_every)):
            self._write(done, {name: float(values[-1]) for name, values in rows.items()})
        elif first:
            self._meter.read(done)  # the first dispatch compiles: its time is kept out of the next rate

    def forget(self) -> None:
        """Drops what is pending: the run goes on from another state."""
        self._pending, self._skipped = None, 0

    def _check_finite(self, step: int, rows: Mapping[str, np.ndarray], of_parts: Mapping[str, np.ndarray]) -> None:
        """Raises Diverged naming the first update that is not finite, or, where those are skipped, one too many."""
        bad = ~np.isfinite(np.stack([rows["loss"], rows["gradient_norm"]])).all(axis=0)
        skipped = rows.get("skipped")
        for at in range(len(bad)):
            self.norms = {name.removeprefix(train_step.GROUP_NORM): float(row[at]) for name, row in of_parts.items()}
            if skipped is None and bad[at]:
                raise finite.Diverged(_nonfinite_line(step + at, rows, at), step=step + at, norms=self.norms)
            self._skipped = self._skipped + 1 if skipped is not None and skipped[at] else 0
            if self._skipped:
                progress.say(f"{_nonfinite_line(step + at, rows, at)}: skipped.")
            if self._skipped > finite.MOST_SKIPPED:
                many = f"more than {finite.MOST_SKIPPED} updates in a row were skipped"
                raise finite.Diverged(
                    f"{many}; {_nonfinite_line(step + at, rows, at)}", step=step + at, norms=self.norms
                )

    def _write(self, step: int, values: dict[str, float]) -> None:
        rate, seconds_left = self._meter.read(step)
        row = {
            "step": step,
            "epoch": step * self._sizes.batch_size / self._sizes.num_images,
            **{name: value for name, value in values.items() if math.isfinite(value)},
            "images_per_second": rate * self._sizes.batch_size,
            "seconds": time.perf_counter() - self._start,
        }
        workdir_lib.write_metrics(self._log, row)
        self.rows.append({"step": step, "loss": values["loss"]})
        progress.say(
            progress.training_line({**values, **row}, num_steps=self._sizes.num_steps, seconds_left=seconds_left)
        )

    def waiting(
        self, step: int, *, times: float = 1.0, what: str = "update"
    ) -> contextlib.AbstractContextManager[None]:
        """Around any other wait for all processes at update `step`; see `distributed.Peers.waiting`."""
        return self._peers.waiting(step, times=times, what=what)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the rate; it is logged with the next accuracy."""
        begin = time.perf_counter()
        with self._meter.paused():
            yield
        self._paused_seconds = time.perf_counter() - begin

    def write_evaluation(self, step: int, accuracy: float | None, *, scores: Mapping[str, float]) -> None:
        """Logs and prints what was measured after update `step`: kNN (None if not), recalls, scores without labels.

        The seconds it took and the peak of memory are logged with it, see `sharding.peak_memory`.
        """
        row = {"step": step, **scores, "evaluation_seconds": self._paused_seconds, **sharding.peak_memory()}
        row |= {} if accuracy is None else {"knn_accuracy": accuracy}
        workdir_lib.write_metrics(self._log, row)
        self.rows.append(row)
        said = [] if accuracy is None else [f"kNN accuracy on the test split {100 * accuracy:.1f} %"]
        ways = [way for way in ("image_to_text", "text_to_image") if f"{way}_recall_1" in scores]
        said += [f"{way.replace('_', ' ')} recall at 1 {100 * scores[f'{way}_recall_1']:.1f} %" for way in ways]
        said += [f"effective rank {scores['effective_rank']:.1f}"] if "effective_rank" in scores else []
        progress.say(f"step {step}/{self._sizes.num_steps}  {'  '.join(said)}")

    def write_goodput(self) -> None:
        """Logs where the time went, with the peak of memory, and prints it; nothing where nothing was trained."""
        if self.taken > self._first:
            self.clock.busy.close()
            row = self.clock.read(num_updates=self.taken - self._first)
            workdir_lib.write_metrics(self._log, {"step": self.taken, **row, **sharding.peak_memory()})
            progress.say(goodput.line(row, num_updates=self.taken - self._first))


def crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every


def _nonfinite_line(step: int, rows: Mapping[str, np.ndarray], at: int) -> str:
    return (
        f"the loss or its gradient became non-finite between step {step} and step {step + 1} (loss "
        f"{rows['loss'][at]:.4g}, gradient norm {rows['gradient_norm'][at]:.4g})"
    )
