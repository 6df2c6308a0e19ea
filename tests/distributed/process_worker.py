"""What one process of `test_processes` does: steps of a tiny run, and what it saw written to a JSON file.

Started as `python -m tests.distributed.process_worker FOLDER TASK...`; the launcher's variables give its number.
"""

import functools
import hashlib
import json
import os
import pathlib
import signal
import sys
import time
from typing import Any

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")

import jax.numpy as jnp
import numpy as np

from simclr_jax import augment, base, distributed, train_step
from simclr_jax.cli import train_run
from simclr_jax.data import resident
from simclr_jax.distributed import sharding
from simclr_jax.run import checkpoint, pretrained, setup, training_loop, tree_digests
from simclr_jax.run import config as config_lib
from simclr_jax.run import workdir as workdir_lib

NUM_STEPS, SAVED_STEP, SIGNAL_STEP = 20, 6, 6
OVERRIDES = [
    "--config.augment.image_size=8",
    "--config.train.batch_size=32",
    "--config.optimizer.name=lars",
    "--config.schedule.base_learning_rate=0.0005",  # at a hundred times that this net is chaotic, see the test
    "--config.train.log_every_steps=1",
    "--config.train.checkpoint_every_steps=5",
    "--config.train.evaluate_every_epochs=0.3",
]


def settings(*overrides: str) -> dict[str, Any]:
    return config_lib.load_file("smoke", *OVERRIDES, *overrides).to_dict()


@functools.cache
def built(how: str = "replicated") -> training_loop.Run:
    """The run, built and compiled once for all tasks of this process."""
    return setup.make_run(settings(f"--config.train.parameter_sharding={how}"))


def digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def whole(run: training_loop.Run, tree: Any) -> Any:
    """Global arrays as host arrays, collected from all processes."""
    return jax.tree.map(np.asarray, jax.jit(same, out_shardings=sharding.replicated(run.mesh))(tree))


def same(tree: Any) -> Any:
    """Not a lambda, so that it is compiled once."""
    return tree


def views_of(run: training_loop.Run, at: tuple[int, ...]) -> list[str]:
    """Digests of the views of the updates `at`, made as the training step makes them."""
    make_views = augment.make_simclr_views(**run.config["augment"])
    load = sharding.map_rows(
        train_step.make_load_views(resident.gather_batch, make_views), run.mesh, row_args=(False, False, True, True)
    )

    def views(key: jax.Array, step: Any, draw: Any, positions: jax.Array) -> jax.Array:
        return load(train_step.views_key(key, step), draw[0], draw[1][0], positions)[1]

    compiled = jax.jit(views, out_shardings=sharding.replicated(run.mesh))
    key = sharding.make_key(run.mesh, run.config["seed"])
    positions = sharding.put_rows(run.mesh, np.arange(run.settings.batch_size, dtype=np.int32))
    return [digest(np.asarray(compiled(key, np.int32(step), run.feed.draw(step), positions))) for step in at]


def steps(
    run: training_loop.Run, state: base.TrainState, *, until: int, save_to: Any = None
) -> tuple[Any, list[float]]:
    key, losses = sharding.make_key(run.mesh, run.config["seed"]), []
    for step in range(int(state.step), until):
        state, metrics = run.train_steps(state, key, *run.feed.draw(step), jnp.asarray(1, jnp.int32))
        losses.append(float(np.asarray(jax.block_until_ready(metrics["loss"]))[0]))
        if save_to is not None and step + 1 == SAVED_STEP:
            checkpoint.save(save_to, state, step=SAVED_STEP)
    return state, losses


def task_fresh(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """All steps from the beginning, with the state saved in the middle."""
    run = built()
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    before = jax.tree.leaves(whole(run, state.params))
    with checkpoint.open_checkpoints(folder / "checkpoints") as checkpoints:
        state, losses = steps(run, state, until=NUM_STEPS, save_to=checkpoints)
    after = jax.tree.leaves(whole(run, state.params))
    if peers.is_main:
        np.savez(folder / "moved.npz", *(b - a for a, b in zip(before, after, strict=True)))
    return {
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "order": [digest(whole(run, run.feed.draw(step)[1])) for step in range(NUM_STEPS)],
        "views": views_of(run, (0, 7)),
        "losses": losses,
        "compiled": run.train_steps._cache_size(),
    }


def task_resume(folder: pathlib.Path, peers: distributed.Peers, *, how: str = "replicated") -> dict[str, Any]:
    """The second half of the run that another number of devices saved in the middle."""
    run = built(how)
    like = sharding.like_placed(jax.eval_shape(run.init), run.placement)
    with checkpoint.open_checkpoints(folder.parent / "saved" / "checkpoints") as checkpoints:
        state = checkpoint.restore_latest(checkpoints, like, any_process=peers.any)
        assert state is not None
    first = int(state.step)
    digests = tree_digests.leaf_digests(state._asdict())
    state, losses = steps(run, state, until=NUM_STEPS)
    order = [digest(whole(run, run.feed.draw(step)[1])) for step in range(first, NUM_STEPS)]
    compiled = run.train_steps._cache_size()
    return {
        "first": first,
        "losses": losses,
        "order": order,
        "compiled": compiled,
        "digests": digest(json.dumps(digests).encode()),
    }


def task_split(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """The same with split parameters, saved in parts and restored in parts."""
    found = task_resume(folder, peers, how="fsdp")
    run = built("fsdp")
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    split = [leaf for leaf in jax.tree.leaves(state) if not leaf.is_fully_replicated]
    with checkpoint.open_checkpoints(folder / "split") as checkpoints:
        checkpoint.save(checkpoints, state, step=0)
        checkpoints.wait_until_finished()
        back = checkpoint.restore(checkpoints, state, step=0)
    same = tree_digests.leaf_digests(back) == tree_digests.leaf_digests(state)
    return {**found, "split": len(split), "same": same, "local_bytes": local_bytes(state)}


def local_bytes(tree: Any) -> int:
    """Bytes of the tree that the first device of this process holds."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def task_tuned(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """Three updates from the weights of the run that four devices saved, as `init.workdir` asks for."""
    saved = folder.parent / "saved"
    if peers.is_main and folder == saved:
        workdir_lib.write_config(saved, settings())
    values = pretrained.inherit(settings(f"--config.init.workdir={saved}"))
    run = built()
    assert {**values, "init": run.config["init"]} == run.config, "so that the compiled step is that of the run"
    state = training_loop._initial_state(run._replace(config=values), folder, peers)
    with checkpoint.open_checkpoints(saved / "checkpoints") as checkpoints:
        there = checkpoint.restore_any(checkpoints, step=SAVED_STEP)
    taken = [
        tree_digests.leaf_digests(tree[0]["encoder"]) | tree_digests.leaf_digests(tree[1]["batch_stats"])
        for tree in ((state.params, state.method_state), (there["params"], there["method_state"]))
    ]
    step, (_, losses) = int(state.step), steps(run, state, until=3)
    return {"step": step, "losses": losses, "same": taken[0] == taken[1]}


def task_grouped(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """Three updates with BatchNorm over the images of a host; in one process, over two groups of them all the same."""
    del folder
    num_groups = sharding.num_groups
    if peers.count == 1:
        sharding.num_groups = lambda mesh, group: {"host": 2}[group]
    try:
        run = setup.make_run(settings("--config.train.bn_group=host"))
    finally:
        sharding.num_groups = num_groups
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    state, losses = steps(run, state, until=3)
    statistics = jax.tree.leaves(whole(run, state.method_state["batch_stats"]))
    return {"losses": losses, "statistics": [float(np.linalg.norm(leaf)) for leaf in statistics]}


def task_agree(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """What the processes say to each other; every answer must be the same in both."""
    del folder
    peers.agree({"seed": 0, "jax": jax.__version__})
    found: dict[str, Any] = {"any": [peers.any(False), peers.any(peers.index == 1), peers.any(False)]}
    try:
        peers.agree({"seed": peers.index, "jax": jax.__version__})
    except base.InputError as error:
        found["refused"] = str(error)
    vote = sharding.make_vote(sharding.make_mesh())
    found["votes"] = [vote(0), vote(15 if peers.index == 1 else 0), vote(0)]
    try:
        sharding.check_batch_size(30, sharding.make_mesh())
    except base.InputError as error:
        found["batch"] = str(error)
    return found


def task_streamed(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """Which rows this process reads of a batch that is streamed."""
    del folder, peers
    read: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            if isinstance(rows, np.ndarray):
                read.extend(rows.tolist())
            return np.asarray(super().__getitem__(rows))

    images = np.arange(64, dtype=np.int32).view(Counted)
    rows = sharding.gather_rows(sharding.make_mesh(), images, np.arange(16, 32, dtype=np.int32))
    return {"read": sorted(read), "sum": int(np.asarray(whole_sum(rows)))}


def whole_sum(rows: jax.Array) -> jax.Array:
    return jax.jit(jnp.sum, out_shardings=sharding.replicated(rows.sharding.mesh))(rows)  # type: ignore[attr-defined]


def task_stopped(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """The training program, one process of which gets SIGTERM in the middle."""
    build, run = setup.make_run, built()

    def draw(step: int) -> Any:
        if step == SIGNAL_STEP and peers.index == peers.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return run.feed.draw(step)

    def build_with_signal(values: Any) -> training_loop.Run:
        assert values == run.config
        return run._replace(feed=run.feed._replace(draw=draw))

    setup.make_run = build_with_signal
    try:
        status = train_run.run_in(folder / "run", settings(), peers)
    finally:
        setup.make_run = build
    with checkpoint.open_checkpoints(folder / "run" / "checkpoints") as checkpoints:
        return {"status": status, "step": checkpoints.latest_step()}


def task_endless(folder: pathlib.Path, peers: distributed.Peers) -> dict[str, Any]:
    """The training program, long enough that somebody ends it."""
    overrides = ("--config.train.num_epochs=200.0", "--config.train.evaluate_every_epochs=0.0")
    return {"status": train_run.run_in(folder / "run", settings(*overrides), peers)}


def main() -> None:
    folder, tasks = pathlib.Path(sys.argv[1]), sys.argv[2:]
    with distributed.join() as peers:
        for task in tasks:
            begin = time.monotonic()
            found = globals()[f"task_{task}"](folder, peers)
            print(f"{task}: {time.monotonic() - begin:.1f} s", flush=True)
            (folder / f"{task}.{peers.index}.json").write_text(json.dumps(found))
            peers.any(False)


if __name__ == "__main__":
    main()
