"""Convolution, pooling, BatchNorm, heads and whole thin encoders on unseen weights and sizes, against float64 loops."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from simclr_jax import models
from simclr_jax.models import heads, layers
from tests import oracles, properties
from tests.properties import network_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=10)

seeds = st.integers(0, 2**31 - 1)

# Spatial shape, kernel size, stride: odd and even, smaller than the kernel.
CONVOLUTIONS = [((7, 5), 3, 2), ((8, 6), 3, 2), ((9, 12), 7, 2), ((3, 2), 7, 2), ((5, 4), 1, 2), ((1, 1), 3, 1)]


@functools.partial(jax.jit, static_argnames="strides")
def _convolve(x, kernel, *, strides):
    conv = layers.Conv(kernel.shape[-1], kernel.shape[0], strides, x.dtype.name)
    return conv.apply({"params": {"kernel": kernel}}, x)


@FEW
@hypothesis.given(seeds, st.sampled_from(CONVOLUTIONS))
def test_strided_convolution_equals_float64_loops(seed, case):
    shape, size, strides = case
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(2, *shape, 3)), rng.normal(size=(size, size, 3, 4))
    expected = oracle.conv(x, kernel, strides)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            _convolve(x, kernel, strides=strides), expected, rtol=0, atol=1e-12 * np.abs(expected).max()
        )


POOL_SHAPES = [(1, 1), (2, 2), (5, 4), (7, 8), (9, 6)]


@jax.jit
def _pool_and_gradient(x, cotangent):
    pooled, pull = jax.vjp(lambda x: layers.max_pool(x, layers.same_padding(x.shape)), x)
    return pooled, pull(cotangent)[0]


@jax.jit
def _reduce_window_and_gradient(x, cotangent):
    def pool(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

    pooled, pull = jax.vjp(pool, x)
    return pooled, pull(cotangent)[0]


def draw_pool_input(seed: int, shape: tuple[int, int], ties: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, cotangent); values on a coarse grid tie, those behind a ReLU tie at zero, equal ones tie everywhere."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    x = {"none": x, "grid": np.round(x), "relu": np.maximum(x, 0), "equal": np.full_like(x, -3), "low": x - 1e30}[ties]
    out = (2, -(-shape[0] // 2), -(-shape[1] // 2), 3)
    return x, rng.integers(-8, 9, out).astype(np.float32)


@pytest.mark.slow
@hypothesis.settings(FEW, max_examples=40)
@hypothesis.given(seeds, st.sampled_from(POOL_SHAPES), st.sampled_from(["none", "grid", "relu", "equal", "low"]))
def test_max_pool_and_its_gradient_equal_loops_and_the_window_reduction(seed, shape, ties):
    x, cotangent = draw_pool_input(seed, shape, ties)
    pooled, gradient = _pool_and_gradient(x, cotangent)
    np.testing.assert_array_equal(pooled, oracle.max_pool(x))
    # Whole cotangents: their sums are exact.
    np.testing.assert_array_equal(gradient, oracle.max_pool_gradient(x, cotangent))
    for ours, theirs in zip((pooled, gradient), _reduce_window_and_gradient(x, cotangent), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@FEW
@hypothesis.given(seeds, st.sampled_from([(5, 4), (7, 8), (1, 1)]), st.sampled_from([1, 2]))
def test_mean_pool_equals_float64_loops(seed, shape, strides):
    x = np.random.default_rng(seed).normal(size=(2, *shape, 3))
    with jax.enable_x64(True):
        ours = _mean_pool(x, strides=strides)
    np.testing.assert_allclose(ours, oracle.mean_pool(x, strides), rtol=0, atol=1e-14)


_mean_pool = jax.jit(lambda x, *, strides: layers.mean_pool(x, strides), static_argnames="strides")


@jax.jit
def _batch_norm(x, variables):
    return layers.make_batch_norm(x.dtype.name, train=True)().apply(variables, x, mutable=["batch_stats"])


def batch_norm(x: np.ndarray, seed: int, dtype: str):
    """(ours, updated statistics, expected, expected statistics) of a training pass over x [..., C]."""
    names = {"gamma": "scale", "beta": "bias"}
    values = {
        leaf: oracles.golden_value(f"bn/{leaf}", x.shape[-1:], salt=seed) for leaf in ("gamma", "beta", "mean", "var")
    }
    norms = oracle.Statistics(lambda name, _: values[name.rsplit("/", 1)[-1]], train=True)
    expected = norms.norm(x, "bn")
    with jax.enable_x64(dtype == "float64"):
        variables = {
            "params": {names[leaf]: jnp.asarray(values[leaf], dtype) for leaf in names},
            "batch_stats": {leaf: jnp.asarray(values[leaf], dtype) for leaf in ("mean", "var")},
        }
        ours, state = jax.device_get(_batch_norm(jnp.asarray(x, dtype), variables))
    return ours, state["batch_stats"], expected, {leaf: norms.updated[f"bn/{leaf}"] for leaf in ("mean", "var")}


@FEW
@hypothesis.given(seeds, st.sampled_from([(2, 1, 1, 5), (2, 5), (2, 3, 4, 5)]), st.sampled_from([1.0, 1e-3, 100.0]))
def test_batch_norm_of_few_rows_equals_float64(seed, shape, scale):
    x = scale * np.random.default_rng(seed).normal(size=shape)
    ours, statistics, expected, expected_statistics = batch_norm(x, seed, "float64")
    # E[x^2] - E[x]^2 loses digits where two rows are nearly equal: 1e-16 x^2 / (var + 1e-5).
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9 * max(scale, 1) ** 2)
    for leaf, value in statistics.items():
        np.testing.assert_allclose(value, expected_statistics[leaf], rtol=1e-12, atol=1e-12 * max(scale, 1) ** 2)


@FEW
@hypothesis.given(seeds, st.floats(-3, 3, width=32), st.sampled_from([(2, 5), (2, 3, 4, 5)]))
def test_batch_norm_sets_a_constant_channel_to_its_bias(seed, value, shape):
    """Its variance is 0 up to rounding, and never negative."""
    x = np.random.default_rng(seed).normal(size=shape)
    x[..., 2] = value
    bias = oracles.golden_value("bn/beta", (5,), salt=seed)[2]
    old = oracles.golden_value("bn/var", (5,), salt=seed)[2]
    # In float32 the mean of equal values is off by a rounding, which 1/sqrt(1e-5) = 316 amplifies.
    for dtype, tolerance in (("float32", 5e-4), ("float64", 1e-12)):
        ours, statistics, _, _ = batch_norm(x, seed, dtype)
        np.testing.assert_allclose(ours[..., 2], bias, rtol=0, atol=tolerance)
        assert statistics["var"][2] == pytest.approx(0.9 * old, rel=1e-6) and np.isfinite(ours).all()


def recorder(salt: int) -> tuple[dict, oracle.Weight]:
    """(the golden values handed out so far by name, the function that hands them out)."""
    used: dict[str, np.ndarray] = {}

    def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return used.setdefault(name, oracles.golden_value(name, shape, salt=salt))

    return used, weight


# Layers, width of h, width of z, rows.
HEADS = [(1, 5, 3, 2), (2, 12, 7, 4), (3, 6, 33, 5), (4, 9, 1, 3)]


@pytest.mark.few(2)
@pytest.mark.parametrize(("num_layers", "dim", "out_dim", "rows"), HEADS)
def test_projection_heads_of_other_widths_equal_float64(num_layers, dim, out_dim, rows):
    salt = 100 + num_layers
    h = np.random.default_rng(salt).normal(size=(rows, dim))
    used, weight = recorder(salt)
    evaluation, training = (oracle.Statistics(weight, train=train) for train in (False, True))
    expected, expected_train = (
        oracle.projection_head(h, norms, layers=num_layers, out_dim=out_dim) for norms in (evaluation, training)
    )
    # The golden files' tolerances: 1e-9 in float64; in float32 1e-5 relative, 1e-4 for training with few rows.
    for dtype, tolerance, train_tolerance in (("float64", 1e-9, 1e-9), ("float32", 1e-5, 1e-4)):
        with jax.enable_x64(dtype == "float64"):
            head = heads.ProjectionHead(num_layers, out_dim, dtype)
            x = jnp.asarray(h, dtype)
            variables = golden_variables(head, x, salt, used, prefix="projection_head/")
            evaluated, (trained, state) = jax.device_get(_both_modes(head)(variables, x))
        for ours, theirs in ((evaluated, expected), (trained, expected_train)):
            assert len(ours) == len(theirs) == num_layers + 1
            for activation, value in zip(ours, theirs, strict=True):
                limit = tolerance if ours is evaluated else train_tolerance
                np.testing.assert_allclose(activation, value, rtol=0, atol=limit * max(np.abs(value).max(), 1))
        statistics = oracles.named_leaves(dict(state), prefix="projection_head/")
        assert statistics.keys() == training.updated.keys()
        for name, value in statistics.items():
            np.testing.assert_allclose(value, training.updated[name], rtol=0, atol=tolerance)


def golden_variables(module, example, salt: int, used: dict, *, prefix: str = ""):
    """Our module's variables, filled with the golden values of `salt`, which must be those that `used` names."""
    shapes = jax.eval_shape(lambda key, x: module.init(key, x, train=False), jax.random.key(0), example)
    ours = {name: leaf.shape for name, leaf in oracles.named_leaves(shapes, prefix=prefix).items()}
    assert ours == {name: value.shape for name, value in used.items()}
    return oracles.golden_variables(shapes, prefix=prefix, salt=salt, dtype=example.dtype)


def check_encoder(*, depth, width, stem, size, salt, sk_ratio=0.0, se_ratio=0.0, batch=3, float32_train=None) -> None:
    """`float32_train` is the tolerance of train mode in float32; None leaves float32 out."""
    images = np.random.default_rng(salt).random((batch, *size, 3))
    used, weight = recorder(salt)
    evaluation, training = (oracle.Statistics(weight, train=train) for train in (False, True))
    network = functools.partial(
        oracle.resnet, images, depth=depth, width=width, stem=stem, sk_ratio=sk_ratio, se_ratio=se_ratio
    )
    expected, expected_train = network(evaluation), network(training)
    arguments = {"width_multiplier": width, "stem": stem, "sk_ratio": sk_ratio, "se_ratio": se_ratio}
    # README of the golden files: 1e-9 and 1e-6 in float64, 1e-5 and the given figure in float32.
    for dtype, tolerance, train_tolerance in (("float64", 1e-9, 1e-6), ("float32", 1e-5, float32_train)):
        if train_tolerance is None:
            continue
        with jax.enable_x64(dtype == "float64"):
            encoder = models.make_encoder(f"resnet{depth}", dtype=dtype, **arguments)
            x = jnp.asarray(images, dtype)
            variables = golden_variables(encoder, x, salt, used)
            h, (h_train, state) = jax.device_get(_both_modes(encoder)(variables, x))
        np.testing.assert_allclose(h, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(h_train, expected_train, rtol=0, atol=train_tolerance)
        if dtype == "float64":
            statistics = oracles.named_leaves(dict(state))
            assert statistics.keys() == training.updated.keys()
            for name, value in statistics.items():
                np.testing.assert_allclose(value, training.updated[name], rtol=1e-9, atol=1e-9, err_msg=name)


def _both_modes(module):
    def both(variables, x):
        return module.apply(variables, x, train=False), module.apply(variables, x, train=True, mutable=["batch_stats"])

    return jax.jit(both)


@pytest.mark.slow
def test_a_thin_network_with_unseen_weights_equals_float64_loops():
    check_encoder(depth=10, width=1 / 32, stem="imagenet", size=(35, 46), salt=7)


# Odd and non-square images, both stems, SK and SE, other weights. SK normalises over one row per image: with 3 images
# E[x^2] - E[x]^2 is off by so much in float32 that h moves by 5e-2 (2e-3 with a variance in two passes), hence 8.
THIN = [
    {"depth": 18, "width": 1 / 16, "stem": "cifar", "size": (32, 32), "salt": 1, "float32_train": 3e-4},
    {"depth": 18, "width": 1 / 8, "stem": "imagenet", "size": (63, 50), "salt": 2, "float32_train": 3e-4},
    {"depth": 34, "width": 1 / 32, "stem": "imagenet", "size": (64, 64), "salt": 3, "float32_train": 3e-4},
    {"depth": 50, "width": 1 / 16, "stem": "imagenet", "size": (64, 64), "salt": 4, "float32_train": 5e-3},
    {"depth": 50, "width": 1 / 16, "stem": "cifar", "size": (31, 33), "salt": 5, "float32_train": 5e-3},
    {
        "depth": 50,
        "width": 1 / 16,
        "stem": "imagenet",
        "size": (63, 47),
        "salt": 6,
        "batch": 8,
        "sk_ratio": 0.0625,
        "float32_train": 5e-3,
    },
    {
        "depth": 50,
        "width": 1 / 32,
        "stem": "imagenet",
        "size": (64, 64),
        "salt": 8,
        "se_ratio": 0.25,
        "float32_train": 5e-3,
    },
    {
        "depth": 18,
        "width": 1 / 16,
        "stem": "imagenet",
        "size": (45, 64),
        "salt": 9,
        "sk_ratio": 0.0625,
        "float32_train": 3e-4,
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("case", THIN, ids=lambda case: "-".join(map(str, case.values())).replace("/", "_"))
def test_thin_networks_with_unseen_weights_equal_float64_loops(case):
    check_encoder(**case)
