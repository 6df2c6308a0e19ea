"""Intended differences between networks: padding, normalisation, parameters and their initial values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.parity_rows import layers as layer_rows
from benchmarks.parity_rows import networks, peers
from benchmarks.parity_rows.table import Difference, Effect
from simclr_jax import models
from simclr_jax.models import heads, layers, resnet
from tests import oracles

GROUP = "Networks"


def _picture() -> jax.Array:
    """A smooth float32 image batch [2, 64, 64, 3]."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.random((2, 9, 9, 3)), np.ones((1, 8, 8, 1)))
    smooth = sum(coarse[:, i : i + 64, i : i + 64] for i in range(8)) / 8
    return jnp.asarray(smooth, jnp.float32)


def _relative(ours: Any, theirs: Any) -> float:
    return float(np.linalg.norm(np.asarray(ours) - np.asarray(theirs)) / np.linalg.norm(np.asarray(ours)))


def _same_convolution() -> Effect:
    x, kernel = _picture(), np.random.default_rng(1).normal(size=(7, 7, 3, 8)).astype(np.float32)
    ours = layers.Conv(8, 7, 2).apply({"params": {"kernel": kernel}}, x)
    theirs = nn.Conv(8, (7, 7), (2, 2), padding="SAME", use_bias=False).apply({"params": {"kernel": kernel}}, x)
    value = _relative(ours, theirs)
    return Effect(
        value, 0.05, 2, f"output of a 7x7/2 convolution differs by {100 * value:.0f} % (L2), windows one pixel off"
    )


def _pool_padding() -> Effect:
    x = nn.relu(jnp.asarray(np.random.default_rng(2).normal(size=(2, 16, 16, 8)), jnp.float32))
    ours, theirs = layers.max_pool(x, layers.same_padding(x.shape)), layers.max_pool(x, ((1, 1), (1, 1)))
    share = float(np.mean(np.asarray(ours) != np.asarray(theirs)))
    features = _features_of_paddings()
    text = (
        f"{100 * share:.0f} % of the maxima of a random map; features of a random ResNet-50 by {100 * features:.1f} %"
    )
    return Effect(features, 1e-3, 1, text)


def _features_of_paddings() -> float:
    """Relative L2 difference for a ResNet-50, whose layers have the same shapes in both, with the same weights."""
    features = {}
    for padding in ("reference", "torchvision"):
        encoder = models.make_encoder("resnet50", width_multiplier=1 / 16, padding=padding)
        weights = oracles.golden_variables(networks.shapes_of(encoder, 64))
        features[padding] = jax.jit(lambda x, e=encoder, w=weights: e.apply(w, x, train=False))(_picture())
    return _relative(features["reference"], features["torchvision"])


def _group_one_projection() -> Effect:
    torchvision = peers.load_torchvision()
    counts = {}
    for name in ("resnet18", "resnet50"):
        ours = sum(leaf.size for leaf in jax.tree.leaves(networks.shapes_of(models.make_encoder(name))["params"]))
        net = getattr(torchvision.models, name)(weights=None)
        counts[name] = ours - sum(p.numel() for key, p in net.named_parameters() if not key.startswith("fc."))
    text = f"{counts['resnet18']:,} parameters more in ResNet-18, {counts['resnet50']} in ResNet-50"
    return Effect(counts["resnet18"], 4224, 4224, text)


def _statistics_decay() -> Effect:
    x = jnp.ones((8, 4))
    moved = {}
    for name, norm in (("ours", layers.make_batch_norm("float32", True)()), ("flax", nn.BatchNorm(False))):
        variables = norm.init(jax.random.key(0), x)
        _, state = norm.apply(variables, x, mutable=["batch_stats"])
        moved[name] = float(state["batch_stats"]["mean"][0])
    text = f"one update moves the average by {100 * moved['ours']:.0f} % against {100 * moved['flax']:.0f} % of the way"
    return Effect(moved["ours"] / moved["flax"], 9.99, 10.01, text)


def _bessel() -> Effect:
    x = layer_rows.images(size=4)
    ours, theirs = layer_rows.batch_norms(x, train=True)
    added = [values["var"] - 0.9 * theirs["old_var"] for values in (ours, theirs)]
    ratio = float(np.mean(added[1] / added[0]))
    count = x[..., 0].size
    text = f"what is added to the moving variance is {ratio:.4f} times ours with {count} values, n/(n-1)"
    return Effect(ratio, count / (count - 1) - 1e-9, count / (count - 1) + 1e-9, text)


def _variance_formula() -> Effect:
    """Error of a float32 variance where the mean is five times the deviation: around the mean, and E[x^2] - E[x]^2."""
    x = np.random.default_rng(0).normal(5.0, 1.0, (64, 8, 8, 16)).astype(np.float32)
    exact = x.astype(np.float64).var(axis=(0, 1, 2))
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    _, state = jax.jit(lambda v, x: norm.apply(v, x, mutable=["batch_stats"]))(variables, x)
    found = {"ours": jax.jit(layers.moments)(x)[1], "flax": state["batch_stats"]["var"]}
    errors = {name: float(np.abs(np.asarray(value) / exact - 1).max()) for name, value in found.items()}
    words = f"{errors['ours']:.0e} against {errors['flax']:.0e}"
    text = f"relative error of a float32 variance, mean = 5 deviations: {words}"
    return Effect(errors["flax"] / errors["ours"], 2, 1e4, text)


def _initial_scale() -> Effect:
    """Deviation of initial kernels times sqrt(fan-in): 1 for lecun-normal, sqrt(2) for He's rule here."""
    theirs = _torchvision_block().conv1.weight.detach().numpy()
    kernel = layers.Conv(64, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]["kernel"]
    ours, others = (float(np.std(w) * np.sqrt(9 * 64)) for w in (kernel, theirs))
    text = f"deviation times sqrt(fan-in) of a 3x3, 64 to 64 kernel: {ours:.2f} against {others:.2f}"
    return Effect(others / ours, 1.35, 1.48, text)


def _torchvision_block() -> Any:
    """The first block of torchvision's ResNet-18 as it is initialised."""
    torchvision = peers.load_torchvision()
    import torch

    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).layer1[0]


def _last_scale() -> Effect:
    theirs = float(_torchvision_block().bn2.weight.detach().mean())
    block = resnet.BasicBlock(4)
    params = block.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)), train=False)["params"]
    ours = float(params["bn2"]["scale"].mean())
    return Effect(theirs - ours, 1, 1, f"initial scale {ours:.0f} against {theirs:.0f}")


def _head_batch_norm() -> Effect:
    """BatchNorm variables of the default head, which the papers' text does not have."""
    shapes = jax.eval_shape(
        lambda key, h: heads.ProjectionHead(2).init(key, h, train=False), jax.random.key(0), jnp.zeros((2, 2048))
    )["params"]
    count = sum(leaf.size for name, layer in shapes.items() if "bn" in name for leaf in layer.values())
    biases = 2048 + 128
    text = f"{count:,} scales and biases of BatchNorm against {biases:,} biases, v1 head on 2,048 features"
    return Effect(count, 2048 * 2 + 128, 2048 * 2 + 128, text)


def _difference(topic: str, ours: str, others: str, measure: Callable, switch: str, *needs: str) -> Difference:
    return Difference(topic, ours, others, measure, switch, needs)


_TV = "torchvision"

DIFFERENCES = [
    _difference(
        "strided convolutions",
        "padded by the kernel size alone (as the reference and torch)",
        "Flax, Keras: SAME, asymmetric for even sizes",
        _same_convolution,
        "no option",
    ),
    _difference(
        "max-pool: borders",
        "TensorFlow's SAME (as the reference)",
        "torch: one row on every side",
        _pool_padding,
        '`encoder.padding = "torchvision"`',
    ),
    _difference(
        "shortcut of group 1",
        "a projection in every group (as the reference)",
        "torchvision: identity where shapes fit",
        _group_one_projection,
        '`encoder.padding = "torchvision"`',
        _TV,
    ),
    _difference(
        "BatchNorm: decay",
        "0.9 (as the reference and torch)",
        "Flax's default: 0.99",
        _statistics_decay,
        "no option",
    ),
    _difference(
        "BatchNorm: stored variance",
        "biased (as the reference with global BN)",
        "torch, TF1 with local BN: unbiased",
        _bessel,
        "no option",
        "torch",
    ),
    _difference(
        "BatchNorm: formula",
        "around the mean (as TF1); in bfloat16 E[x^2] - E[x]^2",
        "E[x^2] - E[x]^2 (TF2, Flax)",
        _variance_formula,
        "no option",
    ),
    _difference(
        "initial convolutions",
        "lecun-normal, fan-in (as the reference)",
        "torchvision: He-normal, fan-out",
        _initial_scale,
        "no option",
        _TV,
    ),
    _difference(
        "initial scale of a block's last BatchNorm",
        "0 (as the reference)",
        "torchvision's default: 1",
        _last_scale,
        "no option",
        _TV,
    ),
    _difference(
        "projection head",
        "BatchNorm behind every layer, no biases (as the reference)",
        "paper's text: dense layers only",
        _head_batch_norm,
        "`method.num_proj_layers`",
    ),
]
