"""The loop of a training run, from its newest checkpoint to its end or a stop signal.

Order: host draws indices -> one dispatch of K updates -> the metrics of the dispatch before are read, checked and
logged -> at boundaries a checkpoint, then kNN. Everything random is a function of (seed, step, position), so a run that
was stopped at any moment and started again ends with the same bits as one that was not.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import base, data, distributed, probes, train_step
from simclr_jax.distributed import sharding
from simclr_jax.run import (
    checkpoint,
    features,
    finite,
    frozen,
    goodput,
    health,
    identity,
    image_text,
    input_pipeline,
    metrics_reader,
    pretrained,
    progress,
    stopping,
)
from simclr_jax.run import program as program_lib
from simclr_jax.run import saver as saver_lib
from simclr_jax.run import workdir as workdir_lib

# How much longer than for an update the processes wait for each other to save.
_PATIENCE_WITH_DISKS = 4.0


class LoopSettings(NamedTuple):
    """The config's section `train`.

    batch_size: images per update over all devices. num_epochs: passes over the training split (its mix), may be
    a fraction.
    steps_per_dispatch: updates per call of the device. log_every_steps, checkpoint_every_steps: updates, rounded up to
    whole dispatches. keep_checkpoints: the newest ones. evaluate_every_epochs: kNN, of
    texts recall, and scores without labels while training, 0 = never.
    max_resident_gigabytes: see `input_pipeline.make_feed`. num_chunks: see `train_step.differentiate_in_chunks`.
    bn_group: over which images BatchNorm takes its statistics, see `sharding.num_groups`. parameter_sharding: see
    `sharding.state_placement`. fused_conv_bn: see `program.fuses_conv_bn`.
    deterministic: see `program.compiler_options`. stretch_schedule: see `identity.check_config`.
    freeze_encoder: see `frozen.freeze_encoder`.
    """

    batch_size: int
    num_epochs: float
    steps_per_dispatch: int
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int
    evaluate_every_epochs: float
    max_resident_gigabytes: float | None
    num_chunks: int = 1
    bn_group: str = "global"
    parameter_sharding: str = "replicated"
    fused_conv_bn: bool = True
    deterministic: bool = False
    stretch_schedule: bool = False
    freeze_encoder: bool = False


def check_settings(settings: LoopSettings) -> LoopSettings:
    """The settings; InputError for values that no run can have."""
    sharding.check_parameter_sharding(settings.parameter_sharding)
    numbers = [name for name, kind in LoopSettings.__annotations__.items() if kind in (int, float)]
    for name, value in ((name, getattr(settings, name)) for name in numbers):
        smallest = 0.0 if name == "evaluate_every_epochs" else 1
        if name == "num_epochs" and not value > 0:
            raise base.InputError(f"train.num_epochs must be above 0; got {value}. A fraction is allowed.")
        if name != "num_epochs" and not value >= smallest:
            raise base.InputError(f"train.{name} must be at least {smallest}; got {value}.")
    # A loop of updates only pays where dispatching costs.
    return settings._replace(steps_per_dispatch=1) if base.platform() == "cpu" else settings


class Run(NamedTuple):
    """What one training run is made of, once its config has been read.

    tokenizer: what a run that reads texts keeps of it; "" for others. measure_recall: of such a run, None for others
    and without a test split.
    """

    config: Mapping[str, Any]
    settings: LoopSettings
    mesh: Mesh
    source: identity.Data
    train_set: data.ImageSet
    test_set: data.ImageSet | None
    feed: input_pipeline.Feed
    probe: probes.ProbeSettings
    init: Callable[[], base.TrainState]
    placement: base.PyTree
    train_steps: train_step.Dispatch
    encode: features.EncodeFn
    measure: health.Measure
    num_steps: int
    tokenizer: str = ""
    measure_recall: image_text.MeasureRecall | None = None


def train(
    run: Run,
    workdir: pathlib.Path,
    stop: stopping.Stop,
    *,
    peers: distributed.Peers,
    clock: goodput.Clock,
    on_nonfinite: str = "stop",
) -> int:
    """Runs the loop until the last step or a stop signal, leaving a checkpoint of where it ended.

    `on_nonfinite` is one of `finite.POLICIES`; for "skip" the run is made with it. `clock` counts since the program
    started.

    Returns:
        The number of the signal that stopped the run, in whichever process it arrived; 0 where it came to its end.
    """
    settings, folder = run.settings, workdir / "checkpoints"
    scores = workdir_lib.read_scores(workdir)
    with checkpoint.open_checkpoints(folder, keep=settings.keep_checkpoints, scores=scores) as checkpoints:
        like = sharding.like_placed(jax.eval_shape(run.init), run.placement)
        restored = checkpoint.restore_latest(checkpoints, like, warn=progress.say, any_process=peers.any)
        state = _initial_state(run, workdir, peers) if restored is None else restored
        step = int(state.step)
        for later in [known for known in scores if known > step]:
            del scores[later]  # their log is dropped, too, and they will be measured again
        _announce(run, step)
        with contextlib.ExitStack() as stack:
            stack.callback(run.feed.close)
            stack.callback(clock.busy.close)
            opened = workdir_lib.open_log(workdir, resumed_step=step, warn=progress.say)
            log = stack.enter_context(opened if peers.is_main else workdir_lib.silent_log())
            sizes = metrics_reader.Sizes(run.num_steps, settings.batch_size, data.epoch_size(run.train_set))
            every = settings.log_every_steps
            reader = metrics_reader.Reader(log, peers, sizes, step=step, log_every=every, clock=clock)
            with peers.noticing_loss():
                measured = scores if run.test_set is not None else workdir_lib.read_evaluated(workdir)
                find_nonfinite = finite.make_find_nonfinite(run.mesh)
                saver = saver_lib.Saver(checkpoints, like, scores, find_nonfinite, is_proven=restored is not None)
                # Of several processes none is further than the update that it makes together with this one.
                stop.may_leave, stop.is_saving = saver.why_nothing_is_lost, saver.is_saving
                if step not in measured and _is_evaluated(run, step - settings.steps_per_dispatch, step):
                    _evaluate(run, reader, state, scores)  # a run that was stopped between saving and evaluating
                clock.started()
                return _loop_on(run, saver, state, reader, stop=stop, peers=peers, rollbacks=on_nonfinite == "rollback")


def _initial_state(run: Run, workdir: pathlib.Path, peers: distributed.Peers) -> base.TrainState:
    state, start = sharding.jit_once(run.init, run.mesh, placement=run.placement)(), run.config["init"]
    teacher = run.config["teacher"]
    if start["workdir"] is None and teacher["workdir"] is None:
        return state
    # Adopting happens on the host, from a whole copy.
    whole = sharding.jit_once(run.init, run.mesh)()
    if start["workdir"] is not None:
        progress.say(f"Starting from the weights of {start['workdir']}.")
        whole = pretrained.adopt(whole, workdir=start["workdir"], which=start["checkpoint"])
        if peers.is_main:
            frozen.write_start(workdir, frozen.encoder_digests(whole.params, whole.method_state))
    if teacher["workdir"] is not None:
        progress.say(f"Learning from the classifier of {teacher['workdir']}.")
        whole = pretrained.adopt_teacher(whole, workdir=teacher["workdir"], which=teacher["checkpoint"])
    return sharding.put_placed(whole, run.placement)


def _loop_on(
    run: Run,
    saver: saver_lib.Saver,
    state: base.TrainState,
    reader: metrics_reader.Reader,
    *,
    stop: stopping.Stop,
    peers: distributed.Peers,
    rollbacks: bool,
) -> int:
    """`_loop`, and with `rollbacks` again from the newest checkpoint where it diverges, with the images that follow."""
    for _ in range(finite.MOST_ROLLBACKS if rollbacks else 0):
        try:
            return _loop(run, saver, state, reader, stop)
        except finite.Diverged as error:
            restored = saver.newest(peers)
            if restored is None:
                raise
            progress.say(f"{error}: going back to step {int(restored.step)}, on to step {reader.taken} without it.")
            reader.forget()
            # Images and random numbers are a function of the step: those between are left out.
            state = restored._replace(step=jnp.full_like(restored.step, reader.taken))
    return _loop(run, saver, state, reader, stop)


def _loop(
    run: Run, saver: saver_lib.Saver, state: base.TrainState, reader: metrics_reader.Reader, stop: stopping.Stop
) -> int:
    settings = run.settings
    key = sharding.make_key(run.mesh, run.config["seed"])
    vote = sharding.make_vote(run.mesh)
    step = int(state.step)
    stopped, is_compiled, clock = 0, False, reader.clock
    while step < run.num_steps:
        with reader.waiting(step + 1):
            stopped = vote(stop.number)  # a signal to one process stops all of them before the same step
        if stopped:
            break
        count = min(settings.steps_per_dispatch, run.num_steps - step)
        with clock.spending("waiting for data"):
            source, indices = run.feed.draw(step)
        given = (state, key, source, indices, jnp.asarray(count, jnp.int32))
        state, metrics = _dispatch(run, clock, given, is_first=not is_compiled)
        is_compiled = True
        del given  # the state before, which was donated
        saver.moved()
        before, step = step, step + count
        reader.put(before, count, metrics)
        saver.check()
        evaluates = _is_evaluated(run, before, step)
        if evaluates or metrics_reader.crosses(before, step, settings.checkpoint_every_steps):
            reader.flush()  # never save a state whose metrics have not been seen to be finite
            with reader.waiting(step, times=_PATIENCE_WITH_DISKS), clock.spending("saving"):
                saver.save(state, step, norms=reader.norms)
            with reader.waiting(step):
                stopped = vote(stop.number)
            if evaluates and not stopped:
                _evaluate(run, reader, state, saver.scores)
    reader.flush()
    with reader.waiting(step, times=_PATIENCE_WITH_DISKS), clock.spending("saving"):
        saver.save(state, step, norms=reader.norms)  # where the loop ended, unless that was just saved
        saver.finish()
    reader.write_goodput()
    return stopped


def _dispatch(
    run: Run, clock: goodput.Clock, given: tuple[Any, ...], *, is_first: bool
) -> tuple[base.TrainState, base.Metrics]:
    """Sends the device its next updates; the first time they are compiled, and their work is counted before."""
    sent = time.perf_counter()
    with clock.spending("compiling") if is_first else contextlib.nullcontext():
        if is_first and clock.peak_flops:
            clock.flops_of_update = _flops_of_update(run, given)
        state, metrics = run.train_steps(*given)
    clock.busy.add(time.perf_counter() if is_first else sent, metrics["loss"])
    return state, metrics


def _flops_of_update(run: Run, given: tuple[Any, ...]) -> float | None:
    """By XLA's count of the program that is to be compiled; None where it tells none, or hides loops of chunks."""
    if run.settings.num_chunks > 1:
        return None
    # A loop over updates has no known length, so that its body is counted once.
    flops = goodput.count_flops(run.train_steps.lower(*given))  # type: ignore[attr-defined]
    return flops / run.mesh.size if flops else None


def _is_evaluated(run: Run, before: int, step: int) -> bool:
    """Whether the representation is to be measured after the updates before + 1 ... step."""
    measures = run.test_set is not None or run.measure_recall is not None or run.config["probe"]["label_free_rows"] > 0
    if run.settings.evaluate_every_epochs <= 0 or step <= 0 or not measures:
        return False
    batches = data.epoch_size(run.train_set) / run.settings.batch_size
    every = max(round(run.settings.evaluate_every_epochs * batches), 1)
    # Not shortly before the last step, which is evaluated in any case.
    return step >= run.num_steps or (metrics_reader.crosses(before, step, every) and run.num_steps - step > every // 2)


def _evaluate(run: Run, reader: metrics_reader.Reader, state: base.TrainState, scores: dict[int, float]) -> None:
    """kNN of the test split against the training split, over the labelled rows of both, and scores without labels.

    Of a run with texts the recall between pictures and texts of the test split, too. All is logged; kNN is kept as a
    score; what looks wrong is said. Images that cannot be read end the training, whose state has been saved: another
    process may have read them, and all must go on alike. What keeps kNN from being computed is the same in every
    process: it is said, and the training goes on.
    """
    step, accuracy = int(state.step), None
    variables = features.encoder_variables(state.params, state.method_state)
    with reader.paused(), reader.waiting(step, what="evaluation"), reader.clock.spending("evaluating"):
        train_h = None if run.test_set is None else run.encode(variables, run.train_set)
        test_h = None if run.test_set is None else run.encode(variables, run.test_set)
        try:
            accuracy = None if train_h is None or test_h is None else _knn_accuracy(run, train_h, test_h)
        except base.InputError as error:
            progress.say(f"step {step}: kNN could not be measured, the training goes on: {error}")
        label_free, signs = run.measure(state, train_h)
        recalls = {} if run.measure_recall is None else run.measure_recall(state)
    if accuracy is None and not label_free and not recalls:
        return
    if accuracy is not None:
        scores[step] = accuracy
    reader.write_evaluation(step, accuracy, scores={**label_free, **recalls})
    num_classes = len(run.train_set.class_names)
    for sentence in health.diagnose(run.config, signs, reader.rows, num_steps=run.num_steps, num_classes=num_classes):
        progress.say(f"step {step}: {sentence}")


def _knn_accuracy(run: Run, train_h: np.ndarray, test_h: np.ndarray) -> float | None:
    test_set = run.test_set
    assert test_set is not None
    return probes.knn_accuracy(
        train_h,
        run.train_set.labels,
        test_h,
        test_labels=test_set.labels,
        num_classes=len(run.train_set.class_names),
        k=run.probe.knn_k,
        temperature=run.probe.knn_temperature,
        weights=run.probe.knn_weights,
    )


def _announce(run: Run, step: int) -> None:
    loss = health.uninformed_loss(run.config, num_classes=len(run.train_set.class_names))
    count, length = len(run.train_set.images), data.epoch_size(run.train_set)
    progress.say(
        f"{run.config['data']['name']}: {count} images{'' if length == count else f' ({length} an epoch)'} "
        f"{run.feed.name}, batch {run.settings.batch_size}, {run.num_steps} steps, "
        f"{sharding.device_summary(run.mesh)}. "
        f"{'A projection_spread of 0' if loss is None else f'A loss of {loss:.3f}'} means that all embeddings are the "
        "same."
    )
    # Streamed pictures are cut from their full resolution, whatever that is.
    remark = "" if run.feed.is_cut else program_lib.remark_on_size(run.config, run.train_set.images.shape[1:3])
    if remark:
        progress.say(remark)
    progress.say(f"Going on from step {step}." if step else "Compiling the training step ...")
