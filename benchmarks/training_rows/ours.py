"""Trains with this program: the run of a config on its own random numbers, or updates on given weights and views."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from simclr_jax import base, methods, models, optim, train_step
from simclr_jax.distributed import sharding
from simclr_jax.interop import tensorflow_names
from simclr_jax.run import compilation_cache, features, setup, splits
from simclr_jax.run import config as config_lib

# What its metrics are called here, and by what they are multiplied: the reference sums the loss of two directions.
METRICS = {
    "contrastive_loss": ("loss", 2.0),
    "contrastive_accuracy": ("contrastive_accuracy", 1.0),
    "supervised_accuracy": ("online_accuracy", 1.0),
}
PACKAGES = ("jax", "flax", "optax", "numpy")


def main() -> None:
    """Trains as the JSON behind this program's name says, and prints a line of JSON."""
    given = json.loads(sys.argv[1])
    compilation_cache.keep()
    begin = time.process_time()
    curves, kept = follow(given) if "views" in given else train(given)
    np.savez(given["out"], **kept)
    print(json.dumps({"curves": curves, "cpu_seconds": time.process_time() - begin, **timing.describe(PACKAGES)}))


def train(given: Mapping[str, Any]) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """The curves of a whole run of the config `given["config"]`, a mean for every window of steps, and its features."""
    config = {**given["config"], "seed": given["seed"]}
    run = setup.make_run(config)
    state = sharding.jit_once(run.init, run.mesh, placement=run.placement)()
    key, history = sharding.make_key(run.mesh, config["seed"]), []
    for step in range(run.num_steps):
        source, indices = run.feed.draw(step)
        state, metrics = run.train_steps(state, key, source, indices, jnp.asarray(1, jnp.int32))
        history.append({name: float(values[0]) for name, values in metrics.items()})
    run.feed.close()
    both, variables = splits.load(config), features.encoder_variables(state.params, state.method_state)
    assert both.test_set is not None
    kept = {"train": run.encode(variables, both.train_set), "test": run.encode(variables, both.test_set)}
    return means(history, given["window"]), kept


def means(history: Sequence[Mapping[str, float]], window: int) -> dict[str, list[float]]:
    """The metrics of single steps as means over windows, by their names here."""
    curves = {}
    for ours, (name, factor) in METRICS.items():
        if ours in history[0]:
            values = factor * np.asarray([metrics[ours] for metrics in history])
            curves[name] = values.reshape(-1, window).mean(axis=1).tolist()
    return curves


def follow(given: Mapping[str, Any]) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """The losses of updates on given views from the weights of a TF2 checkpoint, and weights at the steps to keep.

    Computes in `given["dtype"]`, "float32" or "float64". With `given["rounding"]`, every update computes with
    weights that are off by a share of them, drawn from a normal distribution of this width.
    """
    with jax.enable_x64(given["dtype"] == "float64"):
        config, arrays = given["config"], np.load(given["views"])
        views, labels = arrays["views"], arrays["labels"].astype(np.int32)
        update, state = make_update(config, views.shape[1:], dtype=given["dtype"])
        first = by_our_names(dict(np.load(given["first"])), step=1)
        state = state._replace(params=filled(state.params, first, given["dtype"]))
        if "rounding" in given:
            update = with_rounding(update, given["rounding"])
        losses, kept = [], {}
        for step, (batch, of_batch) in enumerate(zip(views, labels, strict=True), start=1):
            state, metrics = update(state, batch.astype(given["dtype"]), labels=of_batch)
            losses.append(2 * float(metrics["contrastive_loss"]))
            if step in given["keep"]:
                kept |= {f"{step}:{name}": np.asarray(leaf) for name, leaf in named(state.params)}
    return {"loss": losses}, kept


def with_rounding(update: Any, share: float) -> Any:
    """The update, computed with weights that are off by a random share of them, of the weights as they are."""
    random = np.random.default_rng(0)

    def rounded(state: base.TrainState, views: base.Array, **how: Any) -> tuple[base.TrainState, base.Metrics]:
        off = jax.tree.map(lambda leaf: leaf * (1 + share * random.normal(size=leaf.shape)), state.params)
        after, metrics = update(state._replace(params=off), views, **how)
        params = jax.tree.map(lambda old, used, new: old + (new - used), state.params, off, after.params)
        return after._replace(params=params), metrics

    return rounded


def make_update(config: Mapping[str, Any], shape: Sequence[int], *, dtype: str) -> tuple[Any, base.TrainState]:
    """One update on views of `shape` [B, V, h, w, 3], compiled, and a state of random weights."""
    config = {**config, "encoder": {**config["encoder"], "dtype": dtype}}
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    section = {name: value for name, value in config["method"].items() if name != "name"}
    method = methods.make_simclr(encoder, num_classes=config["follow"]["num_classes"], dtype=dtype, **section)
    sizes = {"num_examples": config["follow"]["num_examples"], "batch_size": shape[0]}
    schedule = config_lib.call(
        optim.make_schedule, config, "schedule", num_epochs=config["train"]["num_epochs"], **sizes
    )
    tx = config_lib.call(optim.make_optimizer, config, "optimizer", learning_rate=schedule)
    state = jax.jit(lambda key: train_step.init_state(method, tx, key, views_shape=(2, *shape[1:])))(jax.random.key(0))

    def as_asked(leaf: base.Array) -> base.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.jit(train_step.make_update(method, tx)), jax.tree.map(as_asked, state)


def by_our_names(arrays: Mapping[str, np.ndarray], *, step: int) -> dict[str, np.ndarray]:
    """The arrays of one step of an official checkpoint ("STEP:NAME"), by our names."""
    names = {name.partition(":")[2]: name for name in arrays if name.startswith(f"{step}:")}
    found = tensorflow_names.match_names(names, ema=False).found
    return {ours: arrays[names[theirs]] for ours, theirs in found.items()}


def named(params: base.PyTree) -> Iterator[tuple[str, Any]]:
    """(our name, leaf) of all parameters."""
    for path, leaf in jax.tree.leaves_with_path(params):
        yield "/".join(jax.tree_util.keystr((entry,), simple=True) for entry in path), leaf


def filled(params: base.PyTree, arrays: Mapping[str, np.ndarray], dtype: str) -> base.PyTree:
    """The same tree with the arrays of these names; every leaf must have one."""
    leaves = [jnp.asarray(arrays[name], dtype).reshape(leaf.shape) for name, leaf in named(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


if __name__ == "__main__":
    main()
