"""The work of `simclr-jax train`: from a config to a trained, checkpointed run.

What belongs here: who may train in the workdir, with which config, data and program. The loop is `training_loop`'s.
"""

import contextlib
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from simclr_jax import base, data, distributed
from simclr_jax.data import order
from simclr_jax.distributed import sharding
from simclr_jax.planning import hardware
from simclr_jax.run import (
    checkpoint,
    compilation_cache,
    finite,
    goodput,
    identity,
    paths,
    pretrained,
    progress,
    setup,
    stopping,
    texts,
    training_loop,
)
from simclr_jax.run import workdir as workdir_lib

EXIT_DIVERGED = 3


def train(
    *,
    config: Mapping[str, Any],
    workdir: str,
    seeds: int | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    on_nonfinite: str = "stop",
) -> int:
    """Trains the run that `config` describes in `workdir`, from its newest checkpoint if it has one.

    In a job of several processes, each calls this with the same arguments but for `process_id`; see `distributed.join`.
    With `seeds` there are so many runs, from the config's seed on, in the folders seed-0, seed-1 ... of the workdir.

    Returns:
        The exit status: 0 finished, 3 diverged, 4 another process was lost, 128 + n stopped by signal n.

    Raises:
        base.InputError: a value of the config is not valid, or the workdir belongs to another config.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    folder = pathlib.Path(workdir)
    with distributed.join(coordinator=coordinator, num_processes=num_processes, process_id=process_id) as peers:
        if not peers.is_main:
            progress.mute()
        if seeds is None:
            return run_in(folder, pretrained.inherit(config, resumed=folder), peers, on_nonfinite=on_nonfinite)
        return _train_seeds(folder, config, peers, seeds=seeds, on_nonfinite=on_nonfinite)


def _train_seeds(
    folder: pathlib.Path, config: Mapping[str, Any], peers: distributed.Peers, *, seeds: int, on_nonfinite: str
) -> int:
    """The run with `seeds` seeds, one after the other, each in a folder of its own; the first status that is not 0."""
    if workdir_lib.has_config(folder):
        raise base.InputError(
            f"The workdir of several seeds holds a folder for each; {folder} is that of a single run. Use another one."
        )
    for seed in range(config["seed"], config["seed"] + seeds):
        own = folder / f"seed-{seed}"
        progress.say(f"Seed {seed}, in {own}:")
        status = run_in(
            own, pretrained.inherit({**config, "seed": seed}, resumed=own), peers, on_nonfinite=on_nonfinite
        )
        if status:
            return status
    flag = paths.as_flag("workdir", folder)
    progress.say(f"All seeds are done. Next: simclr-jax evaluate {flag} && simclr-jax compare {folder}")
    return 0


def run_in(
    folder: pathlib.Path, config: Mapping[str, Any], peers: distributed.Peers, *, on_nonfinite: str = "stop"
) -> int:
    """`train`, once the processes of the run are connected."""
    clock = goodput.Clock()  # before any device is touched, which takes its time
    with stopping.stop_signals() as stop:
        stop.may_leave = lambda: "nothing was trained since it was started"
        if peers.count > 1:  # all end with the one that got the signal
            stop.end = lambda number, line: peers.end(128 + number, f"simclr-jax train: {line}")
        peers.agree({**_facts(config), "on_nonfinite": on_nonfinite})
        peers.agree({"devices per process": sharding.local_summary()})
        return _run_alike(folder, config, peers, stop=stop, clock=clock, on_nonfinite=on_nonfinite)


def _run_alike(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    peers: distributed.Peers,
    *,
    stop: stopping.Stop,
    clock: goodput.Clock,
    on_nonfinite: str,
) -> int:
    """`run_in`, once all processes are known to have the same settings."""
    with workdir_lib.lock(folder) if peers.is_main else contextlib.nullcontext():
        if peers.is_main and (changes := identity.check_config(folder, config)):
            progress.say(changes)
        config = identity.with_kept_feed(folder, config)
        run = _make_run(folder, config, on_nonfinite=on_nonfinite)
        clock.peak_flops = hardware.peak_flops(sharding.device_kind())
        size, length = len(run.train_set.images), data.epoch_size(run.train_set)
        digest = run.train_set.fingerprint
        peers.agree({"training images": size, "images of an epoch": length, "their digest": digest})
        # By the lock's text a folder that all hosts share differs from folders of the same name.
        peers.agree({"workdir, a folder that all hosts share,": workdir_lib.lock_holder(folder)})
        if peers.is_main:
            identity.check_data(folder, run.source)
            workdir_lib.write_config(folder, identity.with_resolved_feed(config, run.train_set))
            identity.write_data(folder, run.source)
            texts.keep(folder, run.tokenizer)
        try:
            number = training_loop.train(run, folder, stop, peers=peers, clock=clock, on_nonfinite=on_nonfinite)
        except finite.Diverged as error:
            progress.say(f"simclr-jax train: {error}, with seed {config['seed']}. {_way_on(folder)}")
            if peers.is_main:
                _note_divergence(folder, run, error)
            return EXIT_DIVERGED
    if number:
        progress.say(
            f"Stopped by {stopping.signal_name(number)}; the state is saved. The same command goes on from here."
        )
        return 128 + number
    flag = paths.as_flag("workdir", folder)
    progress.say(f"Done. Next: simclr-jax evaluate {flag} && simclr-jax report {flag}")
    return 0


def _make_run(folder: pathlib.Path, config: Mapping[str, Any], *, on_nonfinite: str) -> training_loop.Run:
    """The run, with the tokenizer that it has kept; before its first checkpoint everything of a run may change."""
    kept = texts.read_kept(folder) if checkpoint.saved_steps(folder / "checkpoints") else None
    how: dict[str, Any] = {"skip_nonfinite": True} if on_nonfinite == "skip" else {}
    how |= {} if kept is None else {"tokenizer": kept}
    return setup.make_run(config, **how)


def _note_divergence(folder: pathlib.Path, run: training_loop.Run, error: finite.Diverged) -> None:
    """Keeps in nonfinite.json what a divergence is looked into with; the same command plays it again, bit for bit."""
    size, seed, train_set = run.settings.batch_size, run.config["seed"], run.train_set
    stream = order.make_stream(seed, num_examples=len(train_set.images), mix=train_set.mix)
    rows = stream(error.step * size, size)
    content = {
        "what": str(error),
        "update": error.step,
        "seed": seed,
        "gradient_norms": {name: norm if math.isfinite(norm) else str(norm) for name, norm in error.norms.items()},
        "examples": [str(train_set.ids[row]) for row in rows],
        "replay": f"simclr-jax train {paths.as_flag('config_json', folder / 'config.json')} "
        f"{paths.as_flag('workdir', folder)}",
        "saved_steps": checkpoint.saved_steps(folder / "checkpoints"),
    }
    workdir_lib.write_json(folder / "nonfinite.json", content)


def _way_on(folder: pathlib.Path) -> str:
    """What to do about a run that has diverged: what the program accepts then."""
    steps = checkpoint.saved_steps(folder / "checkpoints")
    gentler = "a lower schedule.base_learning_rate or more schedule.warmup_epochs"
    if not steps:
        return f"Nothing was saved: the same command with {gentler} may use the same --workdir."
    start = paths.as_flag("config.init.workdir", folder)
    return (
        f"Step {steps[-1]} is saved and finite: go on from it with --on_nonfinite=rollback or skip, or from its "
        f"weights in a new --workdir with {gentler}: {start}."
    )


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What all processes of a run must have in common before they start."""
    return {**base.flat(config), **workdir_lib.environment()}
