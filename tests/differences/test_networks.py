"""The size of intended differences between networks; the words beside it stand in docs/parity.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import models
from simclr_jax.models import heads, layers, resnet
from tests import oracles
from tests.models.test_resnet import count, shapes_of
from tests.peers.test_layers import batch_norms, images

pytestmark = pytest.mark.slow  # for docs/parity.md


def picture():
    """A smooth float32 image batch [2, 64, 64, 3]."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.random((2, 9, 9, 3)), np.ones((1, 8, 8, 1)))
    return jnp.asarray(sum(coarse[:, i : i + 64, i : i + 64] for i in range(8)) / 8, jnp.float32)


def relative(ours, theirs):
    return float(np.linalg.norm(np.asarray(ours) - np.asarray(theirs)) / np.linalg.norm(np.asarray(ours)))


def test_strided_convolutions(effect):
    x, kernel = picture(), np.random.default_rng(1).normal(size=(7, 7, 3, 8)).astype(np.float32)
    ours = layers.Conv(8, 7, 2).apply({"params": {"kernel": kernel}}, x)
    theirs = nn.Conv(8, (7, 7), (2, 2), padding="SAME", use_bias=False).apply({"params": {"kernel": kernel}}, x)
    value = relative(ours, theirs)
    text = f"output of a 7x7/2 convolution differs by {100 * value:.0f} % (L2), windows one pixel off"
    effect("strided convolutions", text, value, low=0.05, high=2)


def test_borders_of_the_max_pool(effect):
    x = nn.relu(jnp.asarray(np.random.default_rng(2).normal(size=(2, 16, 16, 8)), jnp.float32))
    ours, theirs = layers.max_pool(x, layers.same_padding(x.shape)), layers.max_pool(x, ((1, 1), (1, 1)))
    share = float(np.mean(np.asarray(ours) != np.asarray(theirs)))
    features = {}  # of a ResNet-50, whose layers have the same shapes in both, with the same weights
    for padding in ("reference", "torchvision"):
        encoder = models.make_encoder("resnet50", width_multiplier=1 / 16, padding=padding)
        weights = oracles.golden_variables(shapes_of(encoder, 64))
        features[padding] = jax.jit(lambda x, e=encoder, w=weights: e.apply(w, x, train=False))(picture())
    value = relative(*features.values())
    text = f"{100 * share:.0f} % of the maxima of a random map; features of a random ResNet-50 by {100 * value:.1f} %"
    effect("max-pool: borders", text, value, low=1e-3, high=1)


def test_shortcut_of_group_1(effect, torchvision):
    more = {}
    for name in ("resnet18", "resnet50"):
        net = getattr(torchvision.models, name)(weights=None)
        theirs = sum(p.numel() for key, p in net.named_parameters() if not key.startswith("fc."))
        more[name] = count(shapes_of(models.make_encoder(name))["params"]) - theirs
    text = f"{more['resnet18']:,} parameters more in ResNet-18, {more['resnet50']} in ResNet-50"
    effect("shortcut of group 1", text, more["resnet18"], low=4224, high=4224)


def test_decay_of_the_statistics(effect):
    x, moved = jnp.ones((8, 4)), []
    for norm in (layers.make_batch_norm("float32", True)(), nn.BatchNorm(False)):
        _, state = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
        moved.append(float(state["batch_stats"]["mean"][0]))
    ours, theirs = moved
    text = f"one update moves the average by {100 * ours:.0f} % against {100 * theirs:.0f} % of the way"
    effect("BatchNorm: decay", text, ours / theirs, low=9.99, high=10.01)


def test_stored_variance(effect):
    x = images(4)
    ours, theirs = batch_norms(x, train=True)
    added = [values["var"] - 0.9 * theirs["old_var"] for values in (ours, theirs)]
    ratio, values = float(np.mean(added[1] / added[0])), x[..., 0].size
    text = f"what is added to the moving variance is {ratio:.4f} times ours with {values} values, n/(n-1)"
    expected = values / (values - 1)
    effect("BatchNorm: stored variance", text, ratio, low=expected - 1e-9, high=expected + 1e-9)


def test_formula_of_the_variance(effect):
    """Around the mean against E[x^2] - E[x]^2, float32."""
    x = np.random.default_rng(0).normal(5.0, 1.0, (64, 8, 8, 16)).astype(np.float32)
    exact = x.astype(np.float64).var(axis=(0, 1, 2))
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    _, state = jax.jit(lambda v, x: norm.apply(v, x, mutable=["batch_stats"]))(variables, x)
    found = (jax.jit(layers.moments)(x)[1], state["batch_stats"]["var"])
    ours, theirs = (float(np.abs(np.asarray(value) / exact - 1).max()) for value in found)
    text = f"relative error of a float32 variance, mean = 5 deviations: {ours:.0e} against {theirs:.0e}"
    effect("BatchNorm: formula", text, theirs / ours, low=2, high=1e4)


def test_initial_values_of_a_block(effect, torchvision):
    import torch

    torch.manual_seed(0)
    block = torchvision.models.resnet18(weights=None).layer1[0]
    kernel = layers.Conv(64, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]["kernel"]
    ours, theirs = (float(np.std(w) * np.sqrt(9 * 64)) for w in (kernel, block.conv1.weight.detach().numpy()))
    text = f"deviation times sqrt(fan-in) of a 3x3, 64 to 64 kernel: {ours:.2f} against {theirs:.2f}"
    effect(
        "initial convolutions", text, theirs / ours, low=1.35, high=1.48
    )  # 1 is lecun-normal, sqrt(2) He's rule here
    params = resnet.BasicBlock(4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)), train=False)["params"]
    ours, theirs = float(params["bn2"]["scale"].mean()), float(block.bn2.weight.detach().mean())
    topic = "initial scale of a block's last BatchNorm"
    effect(topic, f"initial scale {ours:.0f} against {theirs:.0f}", theirs - ours, low=1, high=1)


def test_batch_norm_of_the_head(effect):
    """The papers' text does not have it."""
    head, h = heads.ProjectionHead(2), jnp.zeros((2, 2048))
    shapes = jax.eval_shape(lambda key, h: head.init(key, h, train=False), jax.random.key(0), h)["params"]
    found = count({name: layer for name, layer in shapes.items() if "bn" in name})
    biases = 2048 + 128
    text = f"{found:,} scales and biases of BatchNorm against {biases:,} biases, v1 head on 2,048 features"
    effect("projection head", text, found, low=2048 * 2 + 128, high=2048 * 2 + 128)
