"""CONTRIBUTING's walk "Adding a method", followed: a file's worth of functions, one table row, and a config trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses, methods
from simclr_jax.distributed import sharding
from simclr_jax.methods import siamese
from simclr_jax.models import heads
from simclr_jax.run import config as config_lib
from simclr_jax.run import program as program_lib
from tests.methods import steps


def pull(z, *, weight):
    """The loss: the mean squared distance of both views' unit vectors."""
    u = losses.l2_normalize(z)
    value = weight * jnp.mean(jnp.sum(jnp.square(u[:, 0] - u[:, 1]), axis=-1))
    return value, {"distance": value / weight}


def make_pull(encoder, *, proj_out_dim=8, weight=1.0, dtype="float32"):
    """The method: a head, and the loss."""
    network = siamese.make_siamese(encoder, heads.make_mlp((16, proj_out_dim), dtype=dtype), bn_per="view")
    return siamese.make_method(network, lambda z: pull(z, weight=weight))


@pytest.mark.slow
def test_a_method_needs_its_functions_and_one_row_of_the_table(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "pull", make_pull)
    monkeypatch.setattr(program_lib, "make_encoder", lambda config, mesh: steps.TinyEncoder(4))  # quick to compile
    # Views of crops and flips: the colours take long to compile and are not what is tested.
    plain = "color_jitter_probability=0.0", "grayscale_probability=0.0", "image_size=8"
    short = "--config.train.batch_size=8", *(f"--config.augment.{word}" for word in plain)
    config = config_lib.load_file("smoke", *short).to_dict()
    config["method"] = {"name": "pull", "weight": 0.5}
    mesh = sharding.make_mesh()
    shape = program_lib.DataShape(num_examples=16, num_classes=10, canvas=(8, 8), is_streamed=False)
    program = program_lib.make_program(config, mesh, shape=shape, steps_per_dispatch=1, seed=0)
    arguments = program_lib.abstract_arguments(program, mesh, shape=shape, batch_size=8, steps_per_dispatch=1)
    rng = np.random.default_rng(0)
    source = arguments[2]._replace(
        images=jnp.asarray(rng.integers(0, 256, (16, 8, 8, 3)), jnp.uint8),
        sizes=jnp.full((16, 2), 8, jnp.int32),
        labels=jnp.zeros(16, jnp.int32),
    )
    # Numbers of the right shapes: compiling the initialisation would be half of the test.
    like = jax.tree.map(lambda x: rng.uniform(size=x.shape).astype(x.dtype), jax.eval_shape(program.init))
    before, state = like.params, sharding.put_placed(like, program.placement)
    indices = jnp.arange(8, dtype=jnp.int32)[None]
    state, metrics = program.train_steps(state, jax.random.key(0), source, indices, jnp.asarray(1, jnp.int32))
    np.testing.assert_allclose(metrics["loss"], 0.5 * metrics["distance"], rtol=1e-6)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, jax.device_get(state.params))
    assert int(state.step) == 1 and all(value > 0 for value in jax.tree.leaves(moved["encoder"]))


def test_a_mistake_in_its_section_is_told_with_the_keys_it_takes(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "pull", make_pull)
    config = config_lib.load_file("smoke").to_dict()
    config["method"] = {"name": "pull", "wieght": 0.5}
    with pytest.raises(base.InputError, match="takes proj_out_dim, weight, dtype; got unknown wieght"):
        program_lib.check_sections(config, sharding.make_mesh())
