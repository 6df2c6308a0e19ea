"""A saved state of any method goes on as if it had not been saved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import optim, train_step
from simclr_jax.methods import METHODS
from simclr_jax.run import checkpoint
from tests.methods import settings, steps


@pytest.mark.few(1)
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"supervised"}, reverse=True))
def test_a_saved_state_goes_on_bit_for_bit(name, tmp_path):
    method = METHODS[name](steps.TinyEncoder(5), **settings.arguments(name))
    tx = optim.make_optimizer("lars", learning_rate=0.1, weight_decay=1e-4)
    update = jax.jit(train_step.make_update(method, tx))
    views = jnp.asarray(np.random.default_rng(0).random((3, 4, 2, 8, 8, 3), np.float32))
    labels = jnp.asarray([0, 1, 0, 2], jnp.int32)
    texts = jnp.asarray([[18, 3, 19, 0, 0], [18, 5, 1, 2, 19], [18, 19, 0, 0, 0], [18, 7, 7, 19, 0]], jnp.int32)
    update = functools.partial(update, labels=labels, texts=texts)
    init = jax.jit(lambda: train_step.init_state(method, tx, jax.random.key(0), views_shape=views.shape[1:]))
    state, _ = update(init(), views[0])
    with checkpoint.open_checkpoints(tmp_path / "run") as checkpoints:
        checkpoint.save(checkpoints, state, step=1)
    with checkpoint.open_checkpoints(tmp_path / "run") as checkpoints:
        restored = checkpoint.restore(checkpoints, jax.eval_shape(init), step=1)
    for view in views[1:]:
        state, metrics = update(state, view)
        restored, again = update(restored, view)
    for a, b in zip(jax.tree.leaves((state, metrics)), jax.tree.leaves((restored, again)), strict=True):
        np.testing.assert_array_equal(a, b)
