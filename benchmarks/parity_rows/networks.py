"""Rows of the encoders and the projection head against the recorded networks of both code bases."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.parity_rows import table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import models
from simclr_jax.models import heads, layers
from tests import golden, oracles

GROUP = "Networks"
HEAD = "projection_head/"


class Net(NamedTuple):
    """A recorded network: words for the table, our arguments, and the tolerance of its train mode in float32."""

    words: str
    name: str
    arguments: dict[str, Any]
    float32_train: float


# In train mode the variance is computed as E[x^2] - E[x]^2 and few values enter the last groups.
NETS = {
    "resnet_r18_w0.0625_cifar_32": Net(
        "R18 1/16, CIFAR", "resnet18", {"stem": "cifar", "width_multiplier": 1 / 16}, 3e-4
    ),
    "resnet_r18_cifar_32": Net("R18, CIFAR", "resnet18", {"stem": "cifar"}, 3e-4),
    "resnet_r18_w2_cifar_32": Net("R18 2x, CIFAR", "resnet18", {"stem": "cifar", "width_multiplier": 2}, 3e-4),
    "resnet_r18_imagenet_64": Net("R18", "resnet18", {}, 3e-4),
    "resnet_r34_cifar_32": Net("R34, CIFAR", "resnet34", {"stem": "cifar"}, 3e-4),
    "resnet_r50_imagenet_64": Net("R50", "resnet50", {}, 5e-3),
    "resnet_r50_sk_imagenet_64": Net("R50 SK", "resnet50", {"sk_ratio": 0.0625}, 5e-3),
}
ENDPOINTS = ("initial_conv", "initial_max_pool", *(f"block_group{group}" for group in range(1, 5)))
TF1_NETS = {"r18_cifar_32": "resnet_r18_cifar_32", "r50_sk_imagenet_64": "resnet_r50_sk_imagenet_64"}
HEADS = ("layers2_in64_out128", "layers3_in64_out128", "layers3_in512_out128")


class Forward(NamedTuple):
    """One mode of one network: h [N, D], statistics by canonical name, (mean, std) of the endpoints."""

    features: np.ndarray
    statistics: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


def shapes_of(encoder: nn.Module, image_size: int = 32) -> Any:
    """The shapes of an encoder's variables."""
    images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.dtype(encoder.dtype))
    return jax.eval_shape(lambda key, x: encoder.init(key, x, train=False), jax.random.key(0), images)


@functools.cache
def forward(file: str, dtype: str) -> dict[str, Forward]:
    """Both modes of a recorded network with its golden weights; one program, so that XLA compiles once."""
    net, images = NETS[file], golden.load(file)["input"]
    with jax.enable_x64(dtype == "float64"):
        encoder = models.make_encoder(net.name, dtype=dtype, **net.arguments)
        variables = oracles.golden_variables(shapes_of(encoder), dtype=np.dtype(dtype))

        def both(variables, images):
            found = {}
            for mode in ("eval", "train"):
                mutable = ["intermediates", "batch_stats"]
                apply = functools.partial(encoder.apply, capture_intermediates=True, mutable=mutable)
                h, state = apply(variables, images, train=mode == "train")
                found[mode] = h, {"batch_stats": state["batch_stats"]}, _moments(state["intermediates"])
            return found

        found = jax.device_get(jax.jit(both)(variables, jnp.asarray(images, dtype)))
    return {mode: Forward(h, oracles.named_leaves(s), moments) for mode, (h, s, moments) in found.items()}


def _moments(intermediates: Any) -> dict[str, jax.Array]:
    stem = intermediates["stem"]
    last = max(name for name in stem if name.startswith("conv"))
    nodes = [stem[last], stem, *(intermediates[name] for name in ENDPOINTS[2:])]
    outputs = [node["__call__"][0] for node in nodes]
    return {name: jnp.stack([jnp.mean(x), jnp.std(x)]) for name, x in zip(ENDPOINTS, outputs, strict=True)}


def _features(file: str, dtype: str, mode: str) -> Iterator[Case]:
    yield Case(forward(file, dtype)[mode].features, golden.load(file)[f"{mode}/features_f64"])


def _statistics(file: str) -> Iterator[Case]:
    """The sums of all moving statistics after one update, sorted; for one network also the statistics themselves."""
    expected, ours = golden.load(file), forward(file, "float64")["train"].statistics
    sums = np.sort([np.sum(leaf) for leaf in ours.values()])
    stored = np.sort(expected["train/updated_statistics_sum_all_f64"])
    yield Case(sums, stored, np.maximum(np.abs(stored), 10.0))
    prefix = "train/updated_statistics_f64/"
    for key in (key for key in expected if key.startswith(prefix)):
        yield Case(ours[key.removeprefix(prefix)][:64], expected[key], 1.0)


def _endpoints(mode: str) -> Iterator[Case]:
    for file in NETS:
        for name, ours in forward(file, "float64")[mode].moments.items():
            yield Case(ours, golden.load(file)[f"{mode}/{name}_mean_std_f64"])


def _counts() -> Iterator[Case]:
    for file, net in NETS.items():
        shapes = shapes_of(models.make_encoder(net.name, **net.arguments))
        for key, tree in (("num_trainable", shapes["params"]), ("num_with_statistics", shapes)):
            yield Case(sum(leaf.size for leaf in jax.tree.leaves(tree)), golden.load(file)[key])


def _tf1(mode: str) -> Iterator[Case]:
    """TF1's float32 features against ours in float64."""
    arrays = golden.load("resnet_tf1")
    for case, file in TF1_NETS.items():
        if f"{case}/{mode}/features_tf1" in arrays:
            yield Case(forward(file, "float64")[mode].features, arrays[f"{case}/{mode}/features_tf1"])


@functools.cache
def _head(case: str, dtype: str) -> dict[str, tuple[tuple[np.ndarray, ...], dict]]:
    """Activations and statistics of a recorded head, by mode."""
    with jax.enable_x64(dtype == "float64"):
        h = jnp.asarray(golden.load("projection_head")[f"{case}/input"], dtype)
        head = heads.ProjectionHead(int(case[6]), 128, dtype)
        shapes = jax.eval_shape(lambda key, h: head.init(key, h, train=False), jax.random.key(0), h)
        variables = oracles.golden_variables(shapes, prefix=HEAD, dtype=np.dtype(dtype))

        @functools.partial(jax.jit, static_argnames="train")
        def apply(variables, h, train):
            activations, state = head.apply(variables, h, train=train, mutable=["batch_stats"])
            return activations, dict(state)

        found = {mode: jax.device_get(apply(variables, h, mode == "train")) for mode in ("eval", "train")}
    return {mode: (values, oracles.named_leaves(state, prefix=HEAD)) for mode, (values, state) in found.items()}


def _head_outputs(dtype: str, mode: str) -> Iterator[Case]:
    """The output, and in float64 every recorded selector."""
    arrays = golden.load("projection_head")
    for case in HEADS:
        activations, _ = _head(case, dtype)[mode]
        yield Case(activations[-1], arrays[f"{case}/{mode}/output_f64"])
        for selector in range(1, len(activations)) if dtype == "float64" else ():
            if f"{case}/{mode}/selector{selector}_f64" in arrays:
                expected = arrays[f"{case}/{mode}/selector{selector}_f64"]
                yield Case(heads.select(activations, selector), expected)


def _head_statistics() -> Iterator[Case]:
    arrays = golden.load("projection_head")
    for case in HEADS:
        for name, ours in _head(case, "float64")["train"][1].items():
            if f"{case}/train/updated_statistics_f64/{name}" in arrays:
                yield Case(ours, arrays[f"{case}/train/updated_statistics_f64/{name}"])


def _synchronised(dtype: str) -> Iterator[Case]:
    """BatchNorm of the global batch against the reference's on 2 and 4 replicas: outputs, gradients, statistics."""
    for file in ("replicas_2", "replicas_4"):
        arrays = golden.load(file)
        for key in sorted({"/".join(key.split("/")[:2]) for key in arrays if key.startswith("sync_bn/")}):
            with jax.enable_x64(dtype == "float64"):
                y, gradient, statistics = _batch_norm(arrays, key, dtype)
            expected = arrays[f"{key}/output_f64" if dtype == "float64" else f"{key}/output_per_replica"]
            yield Case(y, _merged(expected))
            yield Case(gradient, _merged(arrays[f"{key}/input_gradient_per_replica"]))
            yield Case(statistics["mean"], arrays[f"{key}/updated_moving_mean"])
            yield Case(statistics["var"], arrays[f"{key}/updated_moving_variance"])


def _batch_norm(arrays: dict[str, np.ndarray], key: str, dtype: str) -> tuple[Any, Any, Any]:
    """(outputs, gradient of sum(outputs * cotangent), statistics) of our layer on all replicas' rows."""
    x, cotangent = (jnp.asarray(_merged(arrays[f"{key}/{kind}_per_replica"]), dtype) for kind in ("input", "cotangent"))
    params = {"scale": jnp.asarray(arrays[f"{key}/gamma"], dtype), "bias": jnp.asarray(arrays[f"{key}/beta"], dtype)}
    moving = {"mean": arrays[f"{key}/moving_mean"], "var": arrays[f"{key}/moving_variance"]}
    variables = {"params": params, "batch_stats": {name: jnp.asarray(value, dtype) for name, value in moving.items()}}
    norm = layers.make_batch_norm(dtype, True)()
    apply = jax.jit(lambda x: norm.apply(variables, x, mutable=["batch_stats"]))
    y, pull_back, state = jax.vjp(apply, x, has_aux=True)
    return jax.device_get((y, pull_back(cotangent)[0], state["batch_stats"]))


def _merged(per_replica: np.ndarray) -> np.ndarray:
    return per_replica.reshape(-1, *per_replica.shape[2:])


def _net_rows() -> list[Row]:
    rows, bind = [], functools.partial
    for file, net in NETS.items():
        words = net.words
        rows += [
            Row(f"{words}, eval, f64", "TF2", 1e-9, table.LARGEST, bind(_features, file, "float64", "eval")),
            Row(f"{words}, train, f64", "TF2", 1e-6, table.ABSOLUTE, bind(_features, file, "float64", "train")),
            Row(f"{words}, statistics, f64", "TF2", 1e-7, "of max(value, 10)", bind(_statistics, file)),
            Row(f"{words}, eval, f32", "TF2", 1e-5, table.LARGEST, bind(_features, file, "float32", "eval")),
            Row(
                f"{words}, train, f32",
                "TF2",
                net.float32_train,
                table.ABSOLUTE,
                bind(_features, file, "float32", "train"),
            ),
        ]
    return rows


ROWS = [
    *_net_rows(),
    Row("all: endpoints, eval, f64", "TF2", 1e-9, table.EACH, lambda: _endpoints("eval")),
    Row("all: endpoints, train, f64", "TF2", 1e-9, table.EACH, lambda: _endpoints("train")),
    Row("all: numbers of parameters", "TF2", 0.0, table.EXACT, _counts),
    Row("R18 and R50 SK, eval, f64", "TF1", 1e-5, table.LARGEST, lambda: _tf1("eval")),
    Row("R18, CIFAR, train, f64", "TF1", 3e-4, table.ABSOLUTE, lambda: _tf1("train")),
    Row("heads, eval, f64", "TF2", 1e-9, table.ABSOLUTE, lambda: _head_outputs("float64", "eval")),
    Row("heads, train, f64", "TF2", 1e-9, table.ABSOLUTE, lambda: _head_outputs("float64", "train")),
    Row("heads, statistics, f64", "TF2", 1e-7, table.ABSOLUTE, _head_statistics),
    Row("heads, eval, f32", "TF2", 1e-5, table.LARGEST, lambda: _head_outputs("float32", "eval")),
    Row("heads, train, f32", "TF2", 1e-4, table.ABSOLUTE, lambda: _head_outputs("float32", "train")),
    Row(
        "BatchNorm, global batch, f64", "TF2, 2 and 4 replicas", 1e-5, table.ABSOLUTE, lambda: _synchronised("float64")
    ),
    Row(
        "BatchNorm, global batch, f32", "TF2, 2 and 4 replicas", 1e-5, table.ABSOLUTE, lambda: _synchronised("float32")
    ),
]
