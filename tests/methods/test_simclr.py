"""What is particular to SimCLR as a method; what every method must do is in test_protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base, losses
from simclr_jax.methods import simclr
from simclr_jax.models import heads, resnet

ENCODER = resnet.ResNet(resnet.BasicBlock, group_sizes=(1,), width_multiplier=1 / 4, stem="cifar")
VIEWS = np.random.default_rng(0).random((3, 2, 8, 8, 3), np.float32)


def shapes(method: base.Method):
    return jax.eval_shape(method.init, jax.random.key(0), jnp.asarray(VIEWS))


def numbers_for(tree, seed: int = 0):
    """Positive numbers in the shape of a tree, without running initialisers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.9, leaf.shape), leaf.dtype), tree)


def test_rows_of_an_image_are_neighbours_in_one_forward_pass():
    method = simclr.make_simclr(ENCODER, head_layers=2, head_dim=5)
    params, state = (numbers_for(tree) for tree in shapes(method))
    outputs, new_state = jax.jit(lambda views: method.embed(params, state, views, None, None))(VIEWS)
    rows = VIEWS.reshape(6, 8, 8, 3)

    @jax.jit
    def direct(rows):
        statistics = state["batch_stats"]
        h, h_state = ENCODER.apply(
            {"params": params["encoder"], "batch_stats": statistics["encoder"]},
            rows,
            train=True,
            mutable=["batch_stats"],
        )
        activations, _ = heads.ProjectionHead(2, 5).apply(
            {"params": params["projection_head"], "batch_stats": statistics["projection_head"]},
            h,
            train=True,
            mutable=["batch_stats"],
        )
        return activations[-1], h_state["batch_stats"]

    z, statistics = direct(rows)
    assert outputs["z"].shape == (3, 2, 5)
    np.testing.assert_array_equal(outputs["z"].reshape(6, 5), z)
    for ours, expected in zip(
        jax.tree.leaves(new_state["batch_stats"]["encoder"]), jax.tree.leaves(statistics), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("loss_scale", [1.0, 2.0])
def test_loss_is_the_scaled_mean_and_the_metrics_hold_the_mean(loss_scale):
    method = simclr.make_simclr(ENCODER, temperature=0.3, loss_scale=loss_scale)
    z = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 6)).astype(np.float32))
    state = {"batch_stats": {}}
    loss, (new_state, metrics) = jax.jit(method.loss)({"z": z}, state)
    mean, expected = jax.jit(lambda z: losses.nt_xent(z, temperature=0.3))(z)
    assert float(loss) == loss_scale * float(mean)
    assert float(metrics["contrastive_loss"]) == float(mean)
    assert {key: float(metrics[key]) for key in expected} == {key: float(value) for key, value in expected.items()}
    assert new_state == state


@pytest.mark.parametrize("head_layers", [0, 1, 4])
def test_the_head_has_the_layers_asked_for(head_layers):
    method = simclr.make_simclr(ENCODER, head_layers=head_layers, head_dim=7)
    params, state = shapes(method)
    assert set(params) == set(state["batch_stats"]) == {"encoder", "projection_head"}
    assert len(params["projection_head"]) == 2 * head_layers
    outputs, new_state = jax.eval_shape(method.embed, params, state, jnp.asarray(VIEWS), None, None)
    assert outputs["z"].shape == (3, 2, 7 if head_layers else ENCODER.num_features)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_bfloat16_activations_leave_everything_outside_in_float32():
    method = simclr.make_simclr(ENCODER.clone(dtype="bfloat16"), dtype="bfloat16")
    params, state = shapes(method)
    outputs, new_state = jax.eval_shape(method.embed, params, state, jnp.asarray(VIEWS), None, None)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state, outputs, new_state))} == {jnp.dtype("float32")}


def test_encoder_and_head_start_from_different_keys_and_every_key_gives_other_weights():
    method = simclr.make_simclr(ENCODER)
    init = method.init
    first, second = (init(jax.random.key(seed), jnp.asarray(VIEWS))[0] for seed in (0, 1))
    assert not np.array_equal(
        first["projection_head"]["dense1"]["kernel"], second["projection_head"]["dense1"]["kernel"]
    )
    assert not np.array_equal(first["encoder"]["stem"]["conv1"]["kernel"], second["encoder"]["stem"]["conv1"]["kernel"])


def test_make_simclr_refuses_a_temperature_that_is_not_positive():
    with pytest.raises(base.InputError, match="temperature must be above 0; got 0"):
        simclr.make_simclr(ENCODER, temperature=0.0)


def test_make_simclr_refuses_an_impossible_head():
    with pytest.raises(base.InputError, match="0 to 4; got 9"):
        simclr.make_simclr(ENCODER, head_layers=9)
