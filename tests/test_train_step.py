"""The pure step, on a method of one matrix so that it compiles at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import base, train_step


def make_linear_method() -> base.Method:
    """Views [B, V, h, w, 3] -> z by one matrix; the loss is the mean square of z; state counts what it saw."""

    def init(key, views):
        size = int(np.prod(views.shape[2:]))
        return {"kernel": jax.random.normal(key, (size, 4))}, {
            "rows": jnp.zeros((), jnp.int32),
            "updates": jnp.int32(0),
        }

    def embed(params, method_state, views, batch, key):
        z = views.reshape(*views.shape[:2], -1) @ params["kernel"]
        return z, {**method_state, "rows": method_state["rows"] + jnp.sum(batch["mask"], dtype=jnp.int32)}

    def loss(outputs, method_state):
        return jnp.mean(outputs**2), (method_state, {"largest": jnp.max(outputs)})

    def update(params, method_state, step):
        return params, {**method_state, "updates": method_state["updates"] + 1}

    return base.Method(init, embed, loss, update)


def load_batch(source, indices, positions):
    image = source[indices]
    size = jnp.full((len(indices), 2), image.shape[1], jnp.int32)
    label = jnp.full((len(indices),), -1, jnp.int32)
    return base.Batch(image=image, size=size, label=label, index=indices, position=positions, mask=indices >= 0)


def make_views(key, images, sizes, positions):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
    noise = jax.vmap(lambda k: jax.random.uniform(k, (2, *images.shape[1:])))(keys)
    return images[:, None].astype(jnp.float32) / 255 + noise


@pytest.fixture
def parts():
    method, tx = make_linear_method(), optax.sgd(0.1, momentum=0.9)
    step = train_step.make_train_step(
        method,
        tx,
        train_step.make_load_views(load_batch, make_views),
        schedule=lambda step: 0.1 / (1.0 + step.astype(jnp.float32)),
    )
    key = jax.random.key(0)
    state = train_step.init_state(method, tx, key, views_shape=(2, 2, 3, 3, 3))
    source = jnp.asarray(np.random.default_rng(0).integers(0, 256, (10, 3, 3, 3), np.uint8))
    return step, state, key, source


def test_one_step_is_the_update_written_out(parts):
    step, state, key, source = parts
    indices = jnp.asarray([3, 1, 4, 1], jnp.int32)
    new, metrics = jax.jit(step)(state, key, source, indices)
    positions = jnp.arange(4, dtype=jnp.int32)
    views = np.asarray(make_views(train_step.views_key(key, state.step), source[indices], None, positions), np.float64)
    rows = views.reshape(8, 27)
    kernel = np.asarray(state.params["kernel"], np.float64)
    z = rows @ kernel
    gradient = 2 * rows.T @ z / z.size
    # float32 against float64 on sums of 27 terms.
    np.testing.assert_allclose(metrics["loss"], np.mean(z**2), rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(new.params["kernel"], kernel - 0.1 * gradient, rtol=1e-5, atol=1e-6)
    assert (int(new.step), int(new.method_state["rows"]), int(new.method_state["updates"])) == (1, 4, 1)


def test_the_learning_rate_in_the_metrics_is_that_of_the_update(parts):
    step, state, key, source = parts
    _, metrics = step(state._replace(step=jnp.int32(4)), key, source, jnp.zeros(2, jnp.int32))
    assert metrics["learning_rate"] == np.float32(0.02)


def test_repeated_steps_equal_single_steps_and_stop_at_count(parts):
    step, state, key, source = parts
    indices = jnp.asarray(np.arange(20).reshape(5, 4) % 10, jnp.int32)
    repeated, history = jax.jit(train_step.repeat_steps(step))(state, key, source, indices, jnp.int32(3))
    single = jax.jit(train_step.single_step(step))
    losses = []
    for row in indices[:3]:
        state, metrics = single(state, key, source, row[None], jnp.int32(1))
        losses.append(metrics["loss"][0])
    np.testing.assert_allclose(history["loss"][:3], losses, rtol=1e-6)
    assert np.isnan(history["loss"][3:]).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), repeated, state)


def test_every_step_has_its_own_views(parts):
    _, _, key, _ = parts
    keys = {jax.random.key_data(train_step.views_key(key, jnp.int32(s))).tobytes() for s in range(50)}
    assert len(keys) == 50


def test_an_update_that_is_not_finite_is_skipped_whole_and_counted():
    """The loss, the gradient or what comes of them: one is enough, and no part of the state has moved."""
    state = base.TrainState(jnp.int32(3), {"w": jnp.ones(2)}, {"mean": jnp.zeros(2)}, {"trace": jnp.zeros(2)})

    def step(state, key, source, indices):
        loss, norm, gradient = source
        moved = jax.tree.map(lambda x: x + gradient, (state.params, state.method_state, state.opt_state))
        return base.TrainState(state.step + 1, *moved), {"loss": loss, "gradient_norm": norm}

    careful = jax.jit(train_step.skip_nonfinite(step))
    bad = (jnp.nan, 1.0, 0.5), (1.0, jnp.inf, 0.5), (1.0, 1.0, jnp.nan)
    for source, moves in (((1.0, 1.0, 0.5), 0.5), *((numbers, 0.0) for numbers in bad)):
        after, metrics = careful(state, jax.random.key(0), jnp.asarray(source), jnp.arange(2))
        assert int(after.step) == 4 and float(metrics["skipped"]) == (moves == 0)
        for before, now in zip(jax.tree.leaves(state[1:]), jax.tree.leaves(after[1:]), strict=True):
            np.testing.assert_array_equal(now, before + moves)
