"""The projection head against the reference's activations, and the selector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.models import heads
from tests import golden, oracles, parity

PREFIX = "projection_head/"


def shapes_of(head: heads.ProjectionHead, dim: int):
    h = jax.ShapeDtypeStruct((2, dim), jnp.dtype(head.dtype))
    return jax.eval_shape(lambda key, h: head.init(key, h, train=False), jax.random.key(0), h)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def run(case: str, dtype: str):
    """Activations in eval mode, and activations and statistics in train mode."""
    h = golden.load("projection_head")[f"{case}/input"].astype(dtype)
    head = heads.ProjectionHead(int(case[6]), 128, dtype)
    variables = oracles.golden_variables(shapes_of(head, h.shape[1]), prefix=PREFIX, dtype=np.dtype(dtype))

    @jax.jit
    def both(variables, h):
        return head.apply(variables, h, train=False), head.apply(variables, h, train=True, mutable=["batch_stats"])

    evaluated, (trained, state) = jax.device_get(both(variables, jnp.asarray(h)))
    return evaluated, trained, oracles.named_leaves(dict(state), prefix=PREFIX)


CASES = ["layers2_in64_out128", "layers3_in64_out128", "layers3_in512_out128"]


@pytest.mark.parametrize("case", CASES)
def test_head_equals_the_reference_in_float64(case, compare):
    expected = golden.load("projection_head")
    with jax.enable_x64(True):
        evaluated, trained, statistics = run(case, "float64")
    for mode, activations in (("eval", evaluated), ("train", trained)):
        compare(f"heads, {mode}, f64", activations[-1], expected[f"{case}/{mode}/output_f64"], limit=1e-9)
        for selector in range(1, len(activations)):
            key = f"{case}/{mode}/selector{selector}_f64"
            if key in expected:
                compare(f"heads, {mode}, f64", heads.select(activations, selector), expected[key], limit=1e-9)
    for name, value in statistics.items():
        key = f"{case}/train/updated_statistics_f64/{name}"
        if key in expected:
            # 1 - decay is float32 in the reference.
            compare("heads, statistics, f64", value, expected[key], limit=1e-7)
    assert "in512" in case or any(f"updated_statistics_f64/{name}" in key for name in statistics for key in expected)


@pytest.mark.parametrize("case", CASES)
def test_head_equals_the_reference_in_float32(case, compare):
    expected = golden.load("projection_head")
    evaluated, trained, _ = run(case, "float32")
    output = expected[f"{case}/eval/output_f64"]
    compare("heads, eval, f32", evaluated[-1], output, limit=1e-5, of=parity.LARGEST)
    compare("heads, train, f32", trained[-1], expected[f"{case}/train/output_f64"], limit=1e-4)


@pytest.mark.parametrize("case", ["layers2_in64_out128", "layers3_in64_out128"])
def test_head_has_the_variables_of_the_reference(case):
    expected = golden.load("projection_head")
    leaves = oracles.named_leaves(shapes_of(heads.ProjectionHead(int(case[6]), 128), 64), prefix=PREFIX)
    names = expected[f"{case}/variables/canonical_names"].tolist()
    shapes = [tuple(int(n) for n in s.split(",")) for s in expected[f"{case}/variables/shapes"]]
    assert {name: leaf.shape for name, leaf in leaves.items()} == dict(zip(names, shapes, strict=True))


def test_hidden_layers_may_have_a_width_of_their_own():
    shapes = shapes_of(heads.ProjectionHead(3, 5, width=7), 4)["params"]
    assert [shapes[f"dense{layer}"]["kernel"].shape for layer in (1, 2, 3)] == [(4, 7), (7, 7), (7, 5)]
    with pytest.raises(base.InputError, match="proj_hidden_dim must be at least 1; got 0"):
        heads.ProjectionHead(2, 5, width=0)


@pytest.mark.parametrize(
    ("dim", "two_layers", "three_layers"),
    [
        (512, 328_832, 592_000),
        (2048, 4_460_672, 8_659_072),
        (4096, 17_309_824, 34_095_232),
        (6144, 38_547_584, 76_308_608),
    ],
)
def test_head_has_the_published_number_of_parameters(dim, two_layers, three_layers):
    assert count(shapes_of(heads.ProjectionHead(2), dim)["params"]) == two_layers
    assert count(shapes_of(heads.ProjectionHead(3), dim)["params"]) == three_layers


def test_head_without_layers_is_the_identity_and_has_no_variables():
    head = heads.ProjectionHead(0)
    h = jnp.asarray(np.random.default_rng(0).random((3, 5), np.float32))
    assert jax.tree.leaves(head.init(jax.random.key(0), h, train=False)) == []
    (output,) = head.apply({}, h, train=True)
    np.testing.assert_array_equal(output, h)


def test_head_with_one_layer_is_linear_up_to_the_batch_norm():
    head = heads.ProjectionHead(1, 4)
    h = jnp.asarray(np.random.default_rng(0).random((6, 5), np.float32))
    variables = head.init(jax.random.key(0), h, train=False)
    assert set(variables["params"]) == {"dense1", "bn1"}
    assert set(variables["params"]["bn1"]) == {"scale"}
    activations = head.apply(variables, h, train=False)
    kernel = np.asarray(variables["params"]["dense1"]["kernel"], np.float64)
    # Fresh moving statistics are mean 0 and variance 1.
    np.testing.assert_allclose(activations[1], np.asarray(h) @ kernel / np.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-7)


def test_head_starts_from_a_normal_of_deviation_one_hundredth():
    head = heads.ProjectionHead(2, 128)
    params = jax.jit(lambda key: head.init(key, jnp.zeros((2, 300)), train=False))(jax.random.key(1))["params"]
    # 90 000 draws: the deviation is known to 0.25 %.
    assert float(jnp.std(params["dense1"]["kernel"])) == pytest.approx(0.01, rel=0.01)


def test_bfloat16_head_returns_float32():
    head = heads.ProjectionHead(3, 16, "bfloat16")
    h = jnp.asarray(np.random.default_rng(0).random((6, 8), np.float32))
    variables = jax.eval_shape(lambda key: head.init(key, h, train=False), jax.random.key(0))
    apply = functools.partial(head.apply, train=True, mutable=["batch_stats"])
    activations, state = jax.eval_shape(apply, variables, h)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, activations, state))} == {jnp.dtype("float32")}


def test_select_counts_from_the_representation():
    activations = tuple(jnp.full((1,), float(i)) for i in range(4))
    assert [float(heads.select(activations, s)[0]) for s in (0, 1, 3, -1)] == [0, 1, 3, 3]


@pytest.mark.parametrize("selector", [4, -5])
def test_select_refuses_a_layer_the_head_does_not_have(selector):
    with pytest.raises(base.InputError, match=f"-4 to 3 .* got {selector}"):
        heads.select([jnp.zeros(1)] * 4, selector)


@pytest.mark.parametrize("num_layers", [-1, 5])
def test_head_refuses_an_impossible_number_of_layers(num_layers):
    with pytest.raises(base.InputError, match=f"0 to 4; got {num_layers}"):
        heads.ProjectionHead(num_layers)


def test_head_refuses_an_output_without_dimensions():
    with pytest.raises(base.InputError, match="at least 1; got 0"):
        heads.ProjectionHead(2, 0)


def mlp_shapes(mlp: heads.MLP, width: int = 5):
    return jax.eval_shape(lambda x: mlp.init(jax.random.key(0), x, train=True), jnp.ones((4, width)))["params"]


def test_an_mlp_has_the_biases_and_norms_that_are_asked_for():
    made = mlp_shapes(heads.make_mlp((None, 3), bias=True, out_norm="plain"))
    assert jax.tree.map(lambda leaf: leaf.shape, made) == {
        "dense1": {"kernel": (5, 5), "bias": (5,)},
        "bn1": {"scale": (5,), "bias": (5,)},
        "dense2": {"kernel": (5, 3)},
    }
    assert set(mlp_shapes(heads.make_mlp((7, 3), norm="none", out_bias=True, out_norm="affine"))) == {
        *("dense1", "dense2", "bn2")
    }


@pytest.mark.slow
def test_an_mlp_is_its_layers_one_after_the_other():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    mlp = heads.make_mlp((7, 3), bias=True, out_norm="plain")
    y, variables = mlp.init_with_output(jax.random.key(0), x, train=True)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    def normalized(z):
        return (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5)

    hidden = np.asarray(x, np.float64) @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    hidden = np.maximum(normalized(hidden) * params["bn1"]["scale"] + params["bn1"]["bias"], 0)
    np.testing.assert_allclose(y, normalized(hidden @ params["dense2"]["kernel"]), rtol=1e-4, atol=1e-4)
    # Torch's start: uniform in +-1 / sqrt(fan_in).
    assert np.abs(params["dense1"]["kernel"]).max() <= 5**-0.5 and np.std(params["dense1"]["kernel"]) > 0.15


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [((), {}, "at least one layer"), ((0,), {}, "at least one layer"), ((3,), {"norm": "layer"}, "must be one of")],
)
def test_an_mlp_that_cannot_be_is_refused(widths, options, message):
    with pytest.raises(base.InputError, match=message):
        heads.make_mlp(widths, **options)
