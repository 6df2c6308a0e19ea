"""GroupNorm, frozen BatchNorm, BatchNorm over groups of rows, and blocks that are run again for their gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from simclr_jax import base, models, optim
from simclr_jax.models import layers, norms, resnet
from tests import golden
from tests.devices import run_on_devices


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(1.0, 2.0, shape), jnp.float32)


@pytest.mark.parametrize(
    ("num_channels", "expected"), [(1, 1), (16, 1), (31, 1), (32, 2), (48, 3), (64, 4), (128, 8), (512, 32), (2048, 32)]
)
def test_group_norm_has_sixteen_channels_in_a_group_or_more_and_at_most_32_groups(num_channels, expected):
    assert norms.num_channel_groups(num_channels) == expected


def test_groups_divide_the_channels():
    for num_channels in range(1, 200):
        groups = norms.num_channel_groups(num_channels)
        assert num_channels % groups == 0 and (groups == 1 or num_channels // groups >= 16), num_channels


@pytest.mark.few(1)
@pytest.mark.parametrize("shape", [(3, 4, 5, 32), (3, 64), (2, 1, 1, 20)])
def test_group_norm_equals_loops_in_float64_and_flax(shape):
    x = normal(shape)
    layer = norms.make_norm("float32", True, norms.Norm("group"))()
    variables = {"params": {"scale": normal(shape[-1:], 1), "bias": normal(shape[-1:], 2)}}
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
    groups = norms.num_channel_groups(shape[-1])
    wide = np.asarray(x, np.float64).reshape(shape[0], -1, shape[-1])
    expected = np.empty_like(wide)
    each = shape[-1] // groups
    for image in range(shape[0]):
        for group in range(groups):
            part = wide[image, :, group * each : (group + 1) * each]
            expected[image, :, group * each : (group + 1) * each] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    expected = expected * np.asarray(variables["params"]["scale"]) + np.asarray(variables["params"]["bias"])
    ours = layer.apply(variables, x)
    np.testing.assert_allclose(ours, expected.reshape(shape), rtol=0, atol=2e-5)
    theirs = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False).apply(variables, x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_group_norm_computes_bfloat16_in_float32():
    layer = norms.make_norm("bfloat16", True, norms.Norm("group"))(use_bias=False)
    x = normal((2, 3, 3, 16))
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and variables["params"]["scale"].dtype == jnp.float32
    expected = layer.apply(variables, x.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


def test_frozen_batch_norm_normalises_by_its_averages_keeps_them_and_trains_scale_and_bias():
    x = normal((6, 2, 2, 3))
    layer, frozen = (norms.make_norm("float32", True, norms.Norm(kind))() for kind in ("batch", "frozen"))
    variables = layer.init(jax.random.key(0), x)
    variables = {**variables, "batch_stats": {"mean": normal((3,), 1), "var": jnp.square(normal((3,), 2))}}

    def total(params):
        y, state = frozen.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(y**2), (y, state)

    (_, (y, state)), gradient = jax.value_and_grad(total, has_aux=True)(variables["params"])
    mean, variance = (np.asarray(variables["batch_stats"][name], np.float64) for name in ("mean", "var"))
    np.testing.assert_allclose(y, (np.asarray(x) - mean) / np.sqrt(variance + 1e-5), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((6, 3, 2, 4), "float32"),
        pytest.param((6, 4), "bfloat16", marks=pytest.mark.slow),
        pytest.param((6, 3, 2, 4), "bfloat16", marks=pytest.mark.slow),
        pytest.param((6, 4), "float32", marks=pytest.mark.slow),
    ],
)
def test_batch_norm_in_groups_equals_each_group_by_itself(shape, dtype):
    x = normal(shape).astype(dtype)
    one, three = (norms.make_norm(dtype, True, norms.Norm("batch", groups))() for groups in (1, 3))
    variables = one.init(jax.random.key(0), x)
    weights = normal(shape, 3)

    def run(layer, x, weights):
        def total(x):
            y, state = layer.apply(variables, x, mutable=["batch_stats"])
            return jnp.sum(weights * y.astype(jnp.float32)), (y, state["batch_stats"])

        gradient, (y, state) = jax.grad(total, has_aux=True)(x)
        return y, gradient, state

    y, gradient, state = run(three, x, weights)
    parts = [run(one, x[i : i + 2], weights[i : i + 2]) for i in (0, 2, 4)]
    # The same sums by another program: float32 rounding, and in bfloat16 at most a unit in the last place.
    share = 1e-5 if dtype == "float32" else 2**-7
    for ours, theirs in ((y, [p[0] for p in parts]), (gradient, [p[1] for p in parts])):
        expected = np.concatenate([np.asarray(part, np.float32) for part in theirs])
        np.testing.assert_allclose(np.asarray(ours, np.float32), expected, rtol=share, atol=share)
    for name, value in state.items():
        expected = np.mean([np.asarray(part[2][name], np.float64) for part in parts], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


def test_one_group_is_the_layer_without_groups_bit_for_bit():
    x = normal((4, 3, 3, 5))
    plain, one = layers.make_batch_norm("float32", True)(), norms.make_norm("float32", True, norms.Norm())()
    variables = plain.init(jax.random.key(0), x)
    lowered = [
        jax.jit(lambda v, x, layer=layer: layer.apply(v, x, mutable=["batch_stats"])).lower(variables, x).as_text()
        for layer in (plain, one)
    ]
    assert lowered[0] == lowered[1]


_GROUPS = """
    import re, sys
    import jax, jax.numpy as jnp
    from simclr_jax import models
    from simclr_jax.distributed import sharding

    mesh = sharding.make_mesh()
    images = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32, sharding=sharding.rows(mesh))
    for group in ("global", "device"):
        encoder = models.make_encoder("resnet10", width_multiplier=0.0625, stem="cifar",
                                      bn_groups=sharding.num_groups(mesh, group))
        variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), train=False))

        def gradient(variables, images):  # in the images: no sum over devices for parameters
            h = lambda x: encoder.apply(variables, x, train=True, mutable=["batch_stats"])[0]
            y, pull_back = jax.vjp(h, images)
            return pull_back(y)[0]

        options = {"xla_backend_optimization_level": 0}
        compiled = jax.jit(gradient, out_shardings=sharding.rows(mesh)).lower(
            sharding.like_replicated(mesh, variables), images).compile(options)
        print(len(re.findall(r" all-reduce(?:-start)?\\(", compiled.as_text())))
"""


@pytest.mark.slow
def test_batch_norm_per_device_needs_no_communication():
    over_all, per_device = map(int, run_on_devices(2, _GROUPS).split())
    assert over_all > 0 and per_device == 0


def tiny(**fields):
    return resnet.ResNet(resnet.BasicBlock, (2,), width_multiplier=1 / 8, stem="cifar", **fields)


@pytest.mark.slow
def test_blocks_run_again_give_the_same_gradient_and_keep_less():
    images = normal((4, 16, 16, 3))
    plain, again = tiny(), tiny(remat="blocks")
    variables = jax.jit(functools.partial(plain.init, train=False))(jax.random.key(0), images)
    shapes = jax.eval_shape(functools.partial(again.init, train=False), jax.random.key(0), images)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)

    def pull_back(encoder, params):
        run = lambda params: encoder.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])  # noqa: E731
        return jax.vjp(run, params, has_aux=True)

    def gradient(encoder):
        def compute(params):
            h, back, state = pull_back(encoder, params)
            return h, back(h)[0], state

        return jax.jit(compute)(variables["params"])

    def kept(encoder):
        residuals = jax.eval_shape(lambda params: pull_back(encoder, params)[1], variables["params"])
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    jax.tree.map(np.testing.assert_array_equal, gradient(again), gradient(plain))
    assert 2.5 * kept(again) < kept(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_group_norm_is_excluded_from_decay_as_batch_norm_is(name):
    """Its scales and biases have the same paths: an update with a gradient of zero leaves them where they are."""
    images = jnp.zeros((2, 8, 8, 3))
    init = functools.partial(tiny(norm=norms.Norm("group")).init, train=False)
    by_group = jax.jit(init)(jax.random.key(0), images)
    by_batch = jax.eval_shape(functools.partial(tiny().init, train=False), jax.random.key(0), images)
    assert set(by_group) == {"params"}
    params = jax.tree.map(lambda leaf: leaf + 1, by_group["params"])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, by_batch["params"])
    tx = optim.make_optimizer(name, learning_rate=0.1, weight_decay=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for path, leaf in jax.tree.leaves_with_path(updates):
        assert leaf.any() == ("kernel" in str(path[-1])), path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm": "layer"}, "norm must be one of batch, group, frozen; got 'layer'"),
        ({"remat": "all"}, "remat must be one of none, blocks; got 'all'"),
        ({"bn_groups": 0}, "bn_groups must be at least 1; got 0"),
    ],
)
def test_unknown_choices_are_refused(arguments, said):
    with pytest.raises(base.InputError, match=said):
        models.make_encoder(**arguments)


SPLIT = golden.load("family/split_bn")


@pytest.mark.few(1)
@pytest.mark.parametrize("case", ["two", "eight", "rows"])
def test_interleaved_groups_are_the_split_batch_norm_of_moco(case):
    """Group g is every image whose number leaves g. The recorded running variances are unbiased, ours are biased."""
    x, splits, scale, bias = (SPLIT[f"{case}/{key}"] for key in ("input", "splits", "scale", "bias"))
    norm = norms.Norm("batch", int(splits), grouping="interleaved")
    with jax.enable_x64(True):
        layer = norms.make_norm("float64", True, norm)()
        zeros, ones = jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])
        variables = {
            "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
            "batch_stats": {"mean": zeros, "var": ones},
        }
        y, updates = layer.apply(variables, jnp.asarray(x), mutable=["batch_stats"])
    np.testing.assert_allclose(y, SPLIT[f"{case}/output_f64"], rtol=0, atol=1e-10)
    kept, count = jax.device_get(updates["batch_stats"]), x[..., 0].size // int(splits)
    np.testing.assert_allclose(kept["mean"], SPLIT[f"{case}/running_mean_after"], rtol=0, atol=1e-10)
    unbiased = 0.9 + (kept["var"] - 0.9) * count / (count - 1)
    np.testing.assert_allclose(unbiased, SPLIT[f"{case}/running_var_unbiased_after"], rtol=0, atol=1e-10)


def test_interleaved_groups_are_groups_of_neighbors_of_rows_in_another_order():
    x = normal((6, 2, 2, 3))
    order = np.arange(6).reshape(3, 2).T.ravel()  # 0 2 4 1 3 5
    made = {}
    for grouping, rows in (("interleaved", x), ("neighbors", x[order])):
        layer = norms.make_norm("float32", True, norms.Norm("batch", 2, grouping=grouping))()
        made[grouping], _ = layer.init_with_output(jax.random.key(0), rows)
    np.testing.assert_allclose(made["interleaved"][order], made["neighbors"], rtol=0, atol=1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["batch", "group"])
def test_a_norm_without_scale_and_bias_has_no_parameters(kind):
    layer = norms.make_norm("float32", True, norms.Norm(kind))(use_bias=False, use_scale=False)
    whole = norms.make_norm("float32", True, norms.Norm(kind))()
    x = normal((4, 2, 2, 32))
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert "params" not in variables
    np.testing.assert_array_equal(y, whole.init_with_output(jax.random.key(0), x)[0])
