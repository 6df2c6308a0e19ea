"""`simclr-jax train`: from a config to a trained, checkpointed run. The one room that knows everyone.

Order of the loop: host draws indices -> one dispatch of K updates -> the metrics of the dispatch before are read,
checked and logged -> at boundaries kNN and a checkpoint. Everything random is a function of (seed, step, position), so
a run that was stopped at any moment and started again ends with the same bits as one that was not.
"""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import (
    assemble,
    base,
    checkpoint,
    data,
    features,
    feed,
    methods,
    pretrained,
    probes,
    progress,
    runlog,
    sharding,
    train_step,
)
from simclr_jax import config as config_lib

EXIT_DIVERGED = 3


class Run(NamedTuple):
    """What one training run is made of, once its config has been read."""

    config: Mapping[str, Any]
    settings: "LoopSettings"
    mesh: Mesh
    train_set: data.ImageSet
    test_set: data.ImageSet | None
    feed: feed.Feed
    probe: probes.ProbeSettings
    init: Callable[[], base.TrainState]
    train_steps: train_step.Dispatch
    encode: features.EncodeFn
    num_steps: int


class Diverged(RuntimeError):
    """The loss or a gradient became non-finite; the message is one line for the user."""


def main(*, config: Mapping[str, Any], workdir: str) -> int:
    """Trains the run that `config` describes in `workdir`, from its newest checkpoint if it has one.

    Returns:
        The exit status: 0 finished, 3 diverged, 128 + n stopped by signal n.

    Raises:
        base.InputError: a value of the config is not valid, or the workdir belongs to another config.
    """
    progress.quiet_libraries()
    folder, config = pathlib.Path(workdir), pretrained.inherit(config)
    with runlog.lock(folder), progress.stop_signals() as stop:
        runlog.check_config(folder, config)
        run = build(config)
        runlog.write_config(folder, config)
        try:
            train(run, folder, stop)
        except Diverged as error:
            progress.say(f"simclr-jax train: {error}")
            return EXIT_DIVERGED
    if stop:
        progress.say(f"Stopped by {stop.name}; the state is saved. The same command goes on from here.")
        return 128 + stop.number
    progress.say(f"Done. Next: simclr-jax evaluate --workdir={workdir} && simclr-jax report --workdir={workdir}")
    return 0


def build(config: Mapping[str, Any]) -> Run:
    """Hands every section of the config to the function that it documents."""
    settings = _checked(config_lib.call(LoopSettings, config, "train"))
    probe = config_lib.call(probes.make_settings, config, "probe")
    mesh = sharding.make_mesh()
    sharding.check_batch_size(settings.batch_size, mesh)
    seed = _checked_seed(config)
    assemble.check_sections(config)
    train_set, test_set = _load_splits(config, settings)
    shape, budget = (settings.steps_per_dispatch, settings.batch_size), settings.max_resident_gigabytes
    rows = feed.make_feed(train_set, mesh, seed=seed, shape=shape, max_resident_gigabytes=budget)
    program = assemble.make_program(
        config,
        mesh,
        shape=assemble.data_shape(train_set, is_streamed=rows.source_is_rows),
        steps_per_dispatch=settings.steps_per_dispatch,
        seed=seed,
    )
    size, resize = config["augment"]["size"], config["augment"]["resize"]
    return Run(
        config=config,
        mesh=mesh,
        train_set=train_set,
        test_set=test_set,
        feed=rows,
        probe=probe,
        init=program.init,
        settings=settings,
        train_steps=program.train_steps,
        encode=features.make_encode(program.encoder, size=size, resize=resize, batch_size=probe.batch_size, mesh=mesh),
        num_steps=program.num_steps,
    )


class LoopSettings(NamedTuple):
    """The config's section `train`.

    batch_size: images per update over all devices. num_epochs: passes over the training split, may be a fraction.
    steps_per_dispatch: updates per call of the device. log_every_steps, checkpoint_every_steps: updates, rounded up to
    whole dispatches. keep_checkpoints: the newest ones. evaluate_every_epochs: kNN while training, 0 = never.
    max_resident_gigabytes: see `feed.make_feed`.
    """

    batch_size: int
    num_epochs: float
    steps_per_dispatch: int
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int
    evaluate_every_epochs: float
    max_resident_gigabytes: float | None


def _checked(settings: LoopSettings) -> LoopSettings:
    """The settings; InputError for values that no run can have."""
    for name, value in settings._replace(max_resident_gigabytes=1)._asdict().items():
        smallest = 0.0 if name == "evaluate_every_epochs" else 1
        if name == "num_epochs" and not value > 0:
            raise base.InputError(f"train.num_epochs must be above 0; got {value}. A fraction is allowed.")
        if name != "num_epochs" and not value >= smallest:
            raise base.InputError(f"train.{name} must be at least {smallest}; got {value}.")
    # A loop of updates only pays where dispatching costs; on a CPU it would cost the fast convolutions.
    return settings._replace(steps_per_dispatch=1) if jax.default_backend() == "cpu" else settings


def _checked_seed(config: Mapping[str, Any]) -> int:
    seed = config.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise base.InputError(f"seed must be a whole number from 0 to 2**32 - 1; got {seed}. Use 0.")
    return seed


def _load_splits(config: Mapping[str, Any], settings: LoopSettings) -> tuple[data.ImageSet, data.ImageSet | None]:
    """The training split, and the test split if kNN runs while training."""
    train_set = config_lib.call(data.load_split, config, "data", split=config["split"]["train"])
    fraction = config["split"]["label_fraction"]
    if fraction is not None:
        train_set = data.take(train_set, probes.label_subset(train_set.labels, fraction))
    if settings.batch_size > len(train_set.images):
        raise base.InputError(
            f"train.batch_size must be at most the number of training images; got {settings.batch_size} and "
            f"{len(train_set.images)}. An image met twice in a batch would be its own negative."
        )
    if not settings.evaluate_every_epochs > 0:
        return train_set, None
    return train_set, config_lib.call(data.load_split, config, "data", split=config["split"]["test"])


def train(run: Run, workdir: pathlib.Path, stop: progress.Stop) -> None:
    """Runs the loop until the last step or a stop signal, leaving a checkpoint of where it ended."""
    settings = run.settings
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=settings.keep_checkpoints) as checkpoints:
        like = sharding.like_replicated(run.mesh, jax.eval_shape(run.init))
        restored = checkpoint.restore_latest(checkpoints, like, warn=progress.say)
        state = _initial_state(run) if restored is None else restored
        step = int(state.step)
        _announce(run, step)
        with runlog.open_log(workdir, resumed_step=step) as log:
            _loop(run, checkpoints, log, state, stop)


def _initial_state(run: Run) -> base.TrainState:
    state, start = sharding.jit_once(run.init, run.mesh)(), run.config["init"]
    if start["workdir"] is None:
        return state
    progress.say(f"Starting from the weights of {start['workdir']}.")
    adopted = pretrained.adopt(state, workdir=start["workdir"], which=start["checkpoint"])
    return sharding.put_replicated(run.mesh, adopted)


def _loop(
    run: Run,
    checkpoints: checkpoint.Checkpoints,
    log: runlog.RunLog,
    state: base.TrainState,
    stop: progress.Stop,
) -> None:
    settings = run.settings
    key = sharding.make_key(run.mesh, run.config["seed"])
    step = int(state.step)
    reader = _MetricsReader(run, log, step=step, log_every=settings.log_every_steps)
    evaluate_every = max(round(settings.evaluate_every_epochs * len(run.train_set.images) / settings.batch_size), 1)
    while step < run.num_steps and not stop:
        count = min(settings.steps_per_dispatch, run.num_steps - step)
        source, indices = run.feed.draw(step)
        state, metrics = run.train_steps(state, key, source, indices, jnp.asarray(count, jnp.int32))
        before, step = step, step + count
        reader.put(before, count, metrics)
        # Not shortly before the last step, which is evaluated in any case.
        due = _crosses(before, step, evaluate_every) and run.num_steps - step > evaluate_every // 2
        evaluates = run.test_set is not None and (due or step >= run.num_steps)
        if evaluates or _crosses(before, step, settings.checkpoint_every_steps):
            reader.flush()  # never save a state whose metrics have not been seen to be finite
            score = reader.evaluate(state, step) if evaluates and not stop else None
            checkpoint.save(checkpoints, state, step=step, score=score)
    reader.flush()
    checkpoint.save(checkpoints, state, step=step)  # where the loop ended, unless that was just saved


class _MetricsReader:
    """Reads metrics one dispatch late, so that the device never waits for the host; checks, logs and prints them."""

    def __init__(self, run: Run, log: runlog.RunLog, *, step: int, log_every: int):
        self._run, self._log, self._log_every = run, log, log_every
        self._pending: tuple[int, int, base.Metrics] | None = None
        self._meter = progress.Meter(done=step, total=run.num_steps)
        self._compiled = False
        self._start = time.perf_counter() - log.seconds_before

    def put(self, step: int, count: int, metrics: base.Metrics) -> None:
        """Takes the metrics of updates step + 1 ... step + count and deals with those taken before."""
        self.flush()
        self._pending = (step, count, metrics)
        if jax.default_backend() == "cpu":
            self.flush()  # un-awaited collectives of several virtual CPU devices can deadlock

    def flush(self) -> None:
        """Waits for the pending metrics; raises Diverged if one of them is not finite."""
        if self._pending is None:
            return
        step, count, metrics = self._pending
        self._pending = None
        rows = {name: np.asarray(jax.device_get(values))[:count] for name, values in metrics.items()}
        _check_finite(step, rows)
        done = step + count
        first, self._compiled = not self._compiled, True
        if done == self._run.num_steps or (not first and _crosses(step, done, self._log_every)):
            self._write(done, {name: float(values[-1]) for name, values in rows.items()})
        elif first:
            self._meter.read(done)  # the first dispatch compiles: its time is kept out of the next rate

    def _write(self, step: int, values: dict[str, float]) -> None:
        rate, seconds_left = self._meter.read(step)
        batch_size = self._run.settings.batch_size
        row = {
            "step": step,
            "epoch": step * batch_size / len(self._run.train_set.images),
            **values,
            "images_per_second": rate * batch_size,
            "seconds": time.perf_counter() - self._start,
        }
        runlog.write_metrics(self._log, row)
        progress.say(progress.training_line(row, num_steps=self._run.num_steps, seconds_left=seconds_left))

    def evaluate(self, state: base.TrainState, step: int) -> float | None:
        """Weighted kNN of the test split against the training split; None for unlabelled data."""
        train_set, test_set = self._run.train_set, self._run.test_set
        if test_set is None or not train_set.class_names:
            return None
        variables = features.encoder_variables(state.params, state.method_state)
        with self._meter.paused():
            predictions = probes.knn(
                self._run.encode(variables, train_set),
                train_set.labels,
                self._run.encode(variables, test_set),
                num_classes=len(train_set.class_names),
                k=self._run.probe.knn_k,
                temperature=self._run.probe.knn_temperature,
            )
        accuracy = probes.accuracy(predictions, test_set.labels)
        runlog.write_metrics(self._log, {"step": step, "knn_accuracy": accuracy})
        progress.say(f"step {step}/{self._run.num_steps}  kNN accuracy on the test split {100 * accuracy:.1f} %")
        return accuracy


def _check_finite(step: int, rows: Mapping[str, np.ndarray]) -> None:
    """Raises Diverged naming the first update whose loss or gradient is not finite."""
    bad = ~np.isfinite(np.stack([rows["loss"], rows["gradient_norm"]])).all(axis=0)
    if bad.any():
        at = step + int(np.argmax(bad))
        raise Diverged(
            f"the loss or its gradient became non-finite between step {at} and step {at + 1}; checkpoints before it "
            "are kept. Lower schedule.base_learning_rate or raise schedule.warmup_epochs, in a new --workdir."
        )


def _crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every


def _announce(run: Run, step: int) -> None:
    batch_size, num_classes = run.settings.batch_size, len(run.train_set.class_names)
    loss = methods.uninformed_loss(run.config["method"], batch_size=batch_size, num_classes=num_classes)
    progress.say(
        f"{run.config['data']['name']}: {len(run.train_set.images)} images {run.feed.name}, batch {batch_size}, "
        f"{run.num_steps} steps, {sharding.device_summary(run.mesh)}. A loss of {loss:.3f} means "
        "that all embeddings are the same."
    )
    progress.say(f"Going on from step {step}." if step else "Compiling the training step ...")
