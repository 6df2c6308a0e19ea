"""The shared network: which layers exist, and that those which do not exist change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.methods import network
from simclr_jax.models import heads, resnet

ENCODER = resnet.ResNet(resnet.BasicBlock, group_sizes=(1,), width_multiplier=1 / 4, stem="cifar")
HEAD = heads.ProjectionHead(3, 5)
VIEWS = np.random.default_rng(0).random((4, 1, 8, 8, 3), np.float32)


@pytest.mark.parametrize(("selector", "layers"), [(0, 0), (1, 1), (3, 3), (-1, 3), (-4, 0)])
def test_a_selector_needs_the_layers_in_front_of_it(selector, layers):
    assert network.num_layers_before(HEAD, selector) == layers


@pytest.mark.parametrize("selector", [4, -5])
def test_a_selector_beyond_the_head_is_refused(selector):
    with pytest.raises(base.InputError, match=f"must be -4 to 3 for a head of 3 layers; got {selector}"):
        network.num_layers_before(HEAD, selector)


def test_shapes_of_the_activations_are_known_before_anything_runs():
    for layers, widths in ((0, [16]), (2, [16, 16, 16]), (3, [16, 16, 16, 5])):
        net = network.make_network(ENCODER, HEAD, num_layers=layers)
        *_, activations = jax.eval_shape(net.init, jax.random.key(0), jnp.asarray(VIEWS))
        assert [leaf.shape for leaf in activations] == [(2, width) for width in widths]


@pytest.mark.few(1)
@pytest.mark.parametrize("train", [False, True])
def test_layers_that_are_not_used_change_nothing(train):
    images = jnp.asarray(VIEWS[:, 0])
    whole, short = (network.make_network(ENCODER, HEAD, num_layers=layers) for layers in (3, 1))
    shapes = jax.eval_shape(whole.init, jax.random.key(0), jnp.asarray(VIEWS))[:2]
    rng = np.random.default_rng(1)
    trees = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 0.9, leaf.shape), leaf.dtype), shapes)
    kept = [
        {**tree, "projection_head": {k: v for k, v in tree["projection_head"].items() if k.endswith("1")}}
        for tree in trees
    ]
    activations, statistics = jax.jit(whole.apply, static_argnums=3)(*trees, images, train)
    ours, new = jax.jit(short.apply, static_argnums=3)(*kept, images, train)
    assert len(activations) == 4 and len(ours) == 2
    for a, b in zip(ours, activations, strict=False):
        # Two programs: XLA may take a sum in another order.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert set(new["projection_head"]) == {"bn1"} and jax.tree.structure(new) == jax.tree.structure(kept[1])
    np.testing.assert_allclose(
        new["projection_head"]["bn1"]["mean"], statistics["projection_head"]["bn1"]["mean"], rtol=1e-5
    )
