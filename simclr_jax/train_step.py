"""The pure training step: rows of data -> views -> loss -> gradient -> update.

It receives the method, the optimizer and the views as functions and knows none of them by name.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax import base

LoadBatch = Callable[[Any, base.Array, base.Array], base.Batch]
LoadViews = Callable[[base.Array, Any, base.Array, base.Array], tuple[base.Batch, base.Array]]
Dispatch = Callable[[base.TrainState, base.Array, Any, base.Array, base.Array], tuple[base.TrainState, base.Metrics]]
TrainStep = Callable[[base.TrainState, base.Array, Any, base.Array], tuple[base.TrainState, base.Metrics]]


def make_load_views(load_batch: LoadBatch, make_views: base.MakeViews) -> LoadViews:
    """(views_key, source, indices [B], positions [B]) -> (batch, views [B, V, h, w, 3]), row by row.

    Being row by row, it may be split over devices with no communication (`sharding.map_rows`).
    """

    def load_views(
        key: base.Array, source: Any, indices: base.Array, positions: base.Array
    ) -> tuple[base.Batch, base.Array]:
        batch = load_batch(source, indices, positions)
        return batch, make_views(key, batch["image"], batch["size"], batch["position"])

    return load_views


def views_key(key: base.Array, step: base.Array) -> base.Array:
    """The key of all views of update `step` (0-based) of the run with key `key`."""
    return jax.random.fold_in(jax.random.fold_in(key, step), 0)


def make_train_step(
    method: base.Method, tx: optax.GradientTransformation, load_views: LoadViews, *, schedule: base.Schedule
) -> TrainStep:
    """One update: (state, key, source, indices int32 [B]) -> (state, metrics of float32 scalars).

    `key` is the run's key and the same in every call: all randomness is a function of (key, step, position in the
    global batch). `source` is whatever `load_views` reads rows from. Metrics hold the method's own, "loss",
    "gradient_norm" (global L2 norm) and "learning_rate".
    """

    def train_step(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        positions = jnp.arange(indices.shape[0], dtype=jnp.int32)
        batch, views = load_views(views_key(key, state.step), source, indices, positions)
        embed_key = jax.random.fold_in(jax.random.fold_in(key, state.step), 1)

        def loss_fn(params: base.PyTree) -> tuple[base.Array, tuple[base.PyTree, base.Metrics]]:
            outputs, method_state = method.embed(params, state.method_state, views, batch, embed_key)
            return method.loss(outputs, method_state)

        (loss, (method_state, metrics)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        method_state = method.update(params, method_state, state.step)
        metrics = {
            **metrics,
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        return base.TrainState(state.step + 1, params, method_state, opt_state), metrics

    return train_step


def single_step(train_step: TrainStep) -> Dispatch:
    """One update a dispatch, in the form of `repeat_steps` with K = 1; `count` is not read."""

    def train_steps(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array, count: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        del count
        state, metrics = train_step(state, key, source, indices[0])
        return state, jax.tree.map(lambda x: x[None], metrics)

    return train_steps


def repeat_steps(train_step: TrainStep) -> Dispatch:
    """Up to K updates in one dispatch: (state, key, source, indices int32 [K, B], count) -> (state, metrics [K]).

    `count` is a traced int32 <= K, so that one compiled program also serves the shorter last dispatch of a run; the
    metrics from `count` on are NaN. For accelerators: inside a loop XLA's CPU backend does without its fast
    convolutions, and a step takes some fifty times as long.
    """

    def train_steps(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array, count: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        shapes = jax.eval_shape(train_step, state, key, source, indices[0])[1]
        empty = {name: jnp.full((indices.shape[0],), jnp.nan, jnp.float32) for name in shapes}

        def body(i: base.Array, carry: tuple[base.TrainState, base.Metrics]) -> tuple[base.TrainState, base.Metrics]:
            state, history = carry
            state, metrics = train_step(state, key, source, indices[i])
            return state, {name: history[name].at[i].set(metrics[name].astype(jnp.float32)) for name in history}

        return jax.lax.fori_loop(0, count, body, (state, empty))

    return train_steps


def init_state(
    method: base.Method, tx: optax.GradientTransformation, key: base.Array, *, views_shape: tuple[int, ...]
) -> base.TrainState:
    """The state before the first update, for views of shape (B, V, h, w, 3). Pure: wrap it in `jit` or `eval_shape`."""
    params, method_state = method.init(key, jnp.zeros(views_shape, jnp.float32))
    return base.TrainState(jnp.zeros((), jnp.int32), params, method_state, tx.init(params))
