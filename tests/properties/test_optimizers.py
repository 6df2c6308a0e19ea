"""LARS, SGD and AdamW on random trees and hostile tensors, against float64 loops over each tensor."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from simclr_jax import optim
from tests import properties
from tests.properties import optim_float64 as oracle

FEW = hypothesis.settings(properties.REPEATABLE, max_examples=10)
MANY = hypothesis.settings(FEW, max_examples=100)
STEPS = 5
LARS, SGD = ("lars", "lars_popular"), ("sgd", "sgd_keras")

seeds = st.integers(0, 2**31 - 1)
decays = st.sampled_from([0.0, 1e-6, 1e-4, 0.1])

# Path -> (decayed by LARS, adapted by LARS, decayed by SGD). What the reference does with a variable of that kind.
KERNEL, HEAD_KERNEL = (True, True, True), (True, False, True)
BIAS, BATCH_NORM = (False, False, True), (False, False, False)
KINDS = {
    "encoder/stem/conv1/kernel": KERNEL,
    "encoder/stem/bn1/scale": BATCH_NORM,
    "encoder/stem/bn1/bias": BATCH_NORM,
    "encoder/block_group1/block1/proj_conv/kernel": KERNEL,
    "encoder/block_group1/block1/proj_bn/scale": BATCH_NORM,
    "encoder/block_group1/block1/proj_bn/bias": BATCH_NORM,
    "encoder/block_group3/block2/sk/squeeze_conv/kernel": KERNEL,
    "encoder/block_group3/block2/sk/squeeze_bn/bias": BATCH_NORM,
    "encoder/block_group3/block2/se/reduce/bias": BIAS,
    "projection_head/dense3/kernel": KERNEL,
    "projection_head/bn3/scale": BATCH_NORM,
    "predictor/dense1/bias": BIAS,
    "supervised_head/dense/kernel": HEAD_KERNEL,
    "supervised_head/dense/bias": BIAS,
}
SHAPES = [(3, 3, 2, 4), (7,), (1, 1), (5, 2)]


def nest(values: dict) -> dict:
    tree: dict = {}
    for name, value in values.items():
        *modules, leaf = name.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = value
    return tree


def flatten(tree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def draw_problem(seed: int) -> tuple[dict, dict, np.ndarray]:
    """(weights, gradients [STEPS, ...], rates) by name, float64 with float32 values; some tensors are all zero."""
    rng = np.random.default_rng(seed)
    weights, gradients = {}, {}
    for place, name in enumerate(KINDS):
        shape = SHAPES[place % len(SHAPES)]
        scale = 10.0 ** rng.integers(-3, 3, 2)
        weights[name] = (scale[0] * rng.normal(size=shape) * rng.choice([0, 1, 1])).astype(np.float32)
        gradients[name] = (scale[1] * rng.normal(size=(STEPS, *shape)) * rng.choice([0, 1, 1])).astype(np.float32)
    rates = np.array([0.0, *rng.uniform(0, 0.5, STEPS - 1)], np.float32)
    widen = functools.partial(jax.tree.map, lambda x: x.astype(np.float64))
    return widen(weights), widen(gradients), rates.astype(np.float64)


@functools.partial(jax.jit, static_argnames=("name", "nesterov"))
def _train(weights, gradients, rates, weight_decay, *, name, nesterov):
    """All parameters after each update, by the production optimizer."""
    make = functools.partial(optim.OPTIMIZERS[name], learning_rate=lambda step: rates[step], nesterov=nesterov)
    tx = make(weight_decay=weight_decay)

    def update(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(update, (weights, tx.init(weights)), gradients)[1]


def train(problem, weight_decay: float, *, name: str, dtype: str, nesterov: bool = False) -> dict[str, np.ndarray]:
    weights, gradients, rates = problem
    with jax.enable_x64(dtype == "float64"):
        trees = [jax.tree.map(lambda x: jnp.asarray(x, dtype), nest(tree)) for tree in (weights, gradients)]
        decay = jnp.asarray(weight_decay, dtype)
        history = _train(*trees, jnp.asarray(rates, dtype), decay, name=name, nesterov=nesterov)
        return flatten(jax.device_get(history))


def loop(problem, weight_decay: float, *, name: str, nesterov: bool = False) -> dict[str, list[np.ndarray]]:
    weights, gradients, rates = problem
    history = {}
    for path, (decayed, adapted, decayed_by_sgd) in KINDS.items():
        common = {"weight_decay": weight_decay, "momentum": 0.9}
        arguments = (weights[path], gradients[path], rates)
        if name in LARS:
            common |= {"decayed": decayed, "adapted": adapted, "nesterov": nesterov}
            history[path] = getattr(oracle, name)(*arguments, **common)
        elif name in SGD:
            history[path] = getattr(oracle, name)(*arguments, **common, decayed=decayed_by_sgd, nesterov=nesterov)
        else:
            history[path] = oracle.adamw(*arguments, **common, decayed=decayed)
    return history


def check_trajectory(seed: int, weight_decay: float, *, name: str, nesterov: bool = False) -> None:
    """1e-6 of the largest entry in float32, 1e-12 in float64, as for the golden trajectories."""
    problem = draw_problem(seed)
    expected = loop(problem, float(np.float32(weight_decay)), name=name, nesterov=nesterov)
    for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-12)):
        decay = float(np.float32(weight_decay))
        ours = train(problem, decay, name=name, dtype=dtype, nesterov=nesterov)
        assert ours.keys() == expected.keys()
        for path, history in expected.items():
            # What the weight has been through, not only where it ends: a sum of pushes cannot be rounded better.
            largest = max(np.abs(history).max(), np.abs(problem[0][path]).max())
            np.testing.assert_allclose(
                ours[path], history, rtol=0, atol=tolerance * largest, err_msg=f"{path} {dtype} {weight_decay}"
            )


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "nesterov"), [("lars", False), ("lars", True), ("sgd", True)])
@FEW
@hypothesis.given(seeds, decays)
def test_several_steps_equal_a_float64_loop(name, nesterov, seed, weight_decay):
    check_trajectory(seed, weight_decay, name=name, nesterov=nesterov)


@pytest.mark.slow
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", [*LARS, *SGD])
@MANY
# Where |g| is below 1e-19 its float32 square is 0, and the trust ratio is 1 as in the reference.
@hypothesis.given(seeds, st.one_of(st.just(0.0), st.floats(1e-8, 1)))
def test_several_steps_equal_a_float64_loop_in_many_cases(name, nesterov, seed, weight_decay):
    check_trajectory(seed, weight_decay, name=name, nesterov=nesterov)


@FEW
@hypothesis.given(seeds, decays)
def test_several_steps_of_adamw_equal_a_float64_loop(seed, weight_decay):
    problem = draw_problem(seed)
    decay = float(np.float32(weight_decay))
    expected = loop(problem, decay, name="adamw")
    for dtype, tolerance in (("float32", 5e-5), ("float64", 1e-12)):
        ours = train(problem, decay, name="adamw", dtype=dtype)
        for path, history in expected.items():
            # In float32 1 - b2 = 0.001 has a relative error of 1e-5, from the rounding of b2 = 0.999.
            largest = max(np.abs(history).max(), np.abs(problem[0][path]).max())
            np.testing.assert_allclose(ours[path], history, rtol=0, atol=tolerance * largest, err_msg=f"{path} {dtype}")


def paths_where(kind: int, value: bool) -> list[str]:
    return [path for path, kinds in KINDS.items() if kinds[kind] == value]


@FEW
@hypothesis.given(seeds, st.integers(-8, 8))
def test_adapted_kernels_ignore_the_scale_of_the_gradient(seed, power):
    """Powers of two scale without rounding. Where a weight is zero there is no trust ratio and no invariance."""
    weights, gradients, rates = draw_problem(seed)
    scaled = {name: np.ldexp(value, power) for name, value in gradients.items()}
    before, after = (train((weights, g, rates), 0.0, name="lars", dtype="float64") for g in (gradients, scaled))
    for path in paths_where(1, True):
        if weights[path].any():
            np.testing.assert_allclose(after[path], before[path], rtol=1e-12, atol=0)


@FEW
@hypothesis.given(seeds, decays, st.integers(-8, 8))
def test_lars_is_equivariant_to_the_scale_of_everything(seed, weight_decay, power):
    """Weights and gradients times c give every weight times c, whatever its kind."""
    weights, gradients, rates = draw_problem(seed)
    larger = [{name: np.ldexp(value, power) for name, value in tree.items()} for tree in (weights, gradients)]
    before = train((weights, gradients, rates), weight_decay, name="lars", dtype="float64")
    after = train((*larger, rates), weight_decay, name="lars", dtype="float64")
    for path in KINDS:
        np.testing.assert_allclose(after[path], np.ldexp(before[path], power), rtol=1e-12, atol=0)


@FEW
@hypothesis.given(seeds, decays)
def test_excluded_parameters_follow_plain_momentum(seed, weight_decay):
    """As optax.sgd with the same rate would move them (rate inside the velocity), whatever the decay."""
    problem = draw_problem(seed)
    ours = train(problem, weight_decay, name="lars", dtype="float64")
    for path in paths_where(0, False):
        velocity, weight = 0.0, problem[0][path]
        for step, (gradient, rate) in enumerate(zip(problem[1][path], problem[2], strict=True)):
            velocity = 0.9 * velocity + rate * gradient
            weight = weight - velocity
            np.testing.assert_allclose(ours[path][step], weight, rtol=1e-12, atol=1e-12 * np.abs(weight).max())


@FEW
@hypothesis.given(seeds)
def test_an_adapted_step_has_the_length_of_a_thousandth_of_the_weight(seed):
    weights, gradients, _ = draw_problem(seed)
    ours = train((weights, gradients, np.full(STEPS, 0.25)), 0.0, name="lars", dtype="float64")
    for path in paths_where(1, True):
        length = oracle.norm(ours[path][0] - weights[path])
        if oracle.norm(weights[path]) and oracle.norm(gradients[path][0]):
            assert length == pytest.approx(0.25e-3 * oracle.norm(weights[path]), rel=1e-9)


MODULES = st.sampled_from(["conv1", "conv3", "proj_conv", "dense2", "sk", "block2", "subnet1", "kernels", "biased"])
NORMS = st.sampled_from(["bn", "bn1", "bn27", "proj_bn", "squeeze_bn", "expand_bn3"])
ROOTS = st.sampled_from(["encoder", "projection_head", "predictor", "supervised_head"])


@pytest.mark.slow
@hypothesis.settings(FEW, max_examples=25)
@hypothesis.given(ROOTS, st.lists(MODULES, min_size=1, max_size=4), NORMS)
def test_masks_follow_the_names_in_any_tree(root, modules, norm):
    """BatchNorm, biases and the supervised head are excluded; the head's kernel is decayed all the same."""
    prefix = "/".join([root, *modules])
    expected = {
        f"{prefix}/kernel": (True, root != "supervised_head", True),
        f"{prefix}/bias": BIAS,
        f"{prefix}/{norm}/scale": BATCH_NORM,
        f"{prefix}/{norm}/bias": BATCH_NORM,
    }
    params = nest({name: jnp.ones(2) for name in expected})
    for name in (*LARS, *SGD):
        tx = optim.make_optimizer(name, learning_rate=1.0, weight_decay=0.5, momentum=0.0)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        moved = {path: bool(update.any()) for path, update in flatten(updates).items()}
        assert moved == {path: kinds[0 if name in LARS else 2] for path, kinds in expected.items()}, name
    # A gradient a thousand times the weight: adapted kernels move by a thousandth of it, the others by all of it.
    for name in LARS:
        tx = optim.make_optimizer(name, learning_rate=1.0, weight_decay=0.0, momentum=0.0)
        updates, _ = tx.update(jax.tree.map(lambda x: 1000 * x, params), tx.init(params), params)
        adapted = {path: bool(np.abs(update).max() < 1) for path, update in flatten(updates).items()}
        assert adapted == {path: kinds[1] for path, kinds in expected.items()}, name
