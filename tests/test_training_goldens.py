"""Whole training steps of the package against recorded steps of the reference, and what its replicas computed together.

The views are the reference's own. The real step, method, optimizer and network run on the stored weights. The reference
reports and differentiates a weight-decay term of the loss, where the package's optimizers decay;
`decays_through_the_loss` restates which variables it covers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import base, methods, models, optim, train_step
from simclr_jax.models import layers
from tests import golden, oracles, parity
from tests.distributed import test_sharding

# Compiling a step of 18 layers takes several seconds, also of a thin one: one case stays in the fast suite.
slow = pytest.mark.slow
CASES = [
    "tiny_r18_b8",
    pytest.param("tiny_r18_v1head_b8", marks=slow),
    pytest.param("tiny_r18_b4_large_lr", marks=slow),
    pytest.param("tiny_r18_momentum_b8", marks=slow),
    pytest.param("r18_cifar_b4", marks=slow),
]
# How docs/parity.md calls them.
WORDS = {
    "tiny_r18_b8": "R18 1/16, LARS",
    "tiny_r18_v1head_b8": "R18 1/16, LARS, v1 head",
    "tiny_r18_b4_large_lr": "R18 1/16, LARS, large rate",
    "tiny_r18_momentum_b8": "R18 1/16, Keras Nesterov",
    "r18_cifar_b4": "R18, LARS",
}
# Keras keeps its learning rate in float32, hence up to 1e-7 of difference where all else agrees to 1e-12.
OPTIMIZERS = {"lars": ("lars", False), "momentum": ("sgd_keras", True)}


@functools.cache
def load_case(case: str) -> dict[str, np.ndarray]:
    return golden.load(f"train_step_{case}")


class Step(NamedTuple):
    """What one training step did: metrics and outputs, and trees by canonical name."""

    metrics: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    params_before: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    velocity: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def make_method(case: str, dtype: str) -> base.Method:
    """The case's method; its metrics also hold the projections, which the step passes on."""
    arrays = load_case(case)
    width = float(arrays["config/width_multiplier"])
    encoder = models.make_encoder("resnet18", width_multiplier=width, stem="cifar", dtype=dtype)
    method = methods.METHODS["simclr"](
        encoder,
        num_classes=int(arrays["num_classes"]),
        num_proj_layers=int(arrays["config/num_proj_layers"]),
        temperature=float(arrays["temperature"]),
        supervised_weight=float(arrays["config/online_linear_eval"]),
        dtype=dtype,
    )

    def loss(outputs, method_state):
        value, (new_state, metrics) = method.loss(outputs, method_state)
        return value, (new_state, {**metrics, "z": outputs["z"]})

    return method._replace(loss=loss)


def make_recorder() -> optax.GradientTransformation:
    """Passes the gradient on and keeps it in the optimizer's state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda gradient, state, params=None: (gradient, gradient)
    )


def golden_state(method: base.Method, tx: optax.GradientTransformation, dtype: str) -> base.TrainState:
    views = jax.ShapeDtypeStruct((2, 2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(method.init, jax.random.key(0), views)
    params, method_state = (
        jax.tree.map(jnp.asarray, oracles.golden_variables(tree, dtype=np.dtype(dtype))) for tree in shapes
    )
    return base.TrainState(jnp.zeros((), jnp.int32), params, method_state, tx.init(params))


def load_views(key, source, indices, positions):
    """The stored views as a batch: [B, S, S, 6] -> [B, 2, S, S, 3]."""
    stacked, labels = source
    views = jnp.stack(jnp.split(stacked, 2, axis=-1), axis=1)
    batch = base.Batch(
        image=jnp.zeros((len(indices), 1, 1, 3), jnp.uint8),
        size=jnp.ones((len(indices), 2), jnp.int32),
        label=labels,
        index=indices,
        position=positions,
        mask=jnp.ones(len(indices), bool),
    )
    return batch, views


@functools.cache
def run(case: str, dtype: str) -> list[Step]:
    """All recorded steps of a case, made by the package in `dtype`."""
    arrays = load_case(case)
    name, nesterov = OPTIMIZERS[str(arrays["config/optimizer"])]
    with jax.enable_x64(dtype == "float64"):
        rates = jnp.asarray(arrays["learning_rates"], dtype)
        tx = optim.make_optimizer(
            name, learning_rate=lambda step: rates[step], weight_decay=float(arrays["weight_decay"]), nesterov=nesterov
        )
        method, tx = make_method(case, dtype), optax.chain(make_recorder(), tx)
        step = jax.jit(train_step.make_train_step(method, tx, load_views, schedule=lambda step: rates[step]))
        state = golden_state(method, tx, dtype)
        source = jnp.asarray(arrays["views_channels_stacked"], dtype), jnp.asarray(arrays["labels"])
        history = []
        for _ in range(len(rates)):
            before = state.params
            state, metrics = step(state, jax.random.key(0), source, jnp.arange(len(source[1]), dtype=jnp.int32))
            trees = (state.opt_state[0], before, state.params, optax.tree.get(state.opt_state, "trace"))
            trees = (*trees, state.method_state["batch_stats"])
            named = (oracles.named_leaves(jax.device_get(tree)) for tree in trees)
            history.append(Step(jax.device_get(dict(metrics)), *named))
    return history


def decays_through_the_loss(case: str, name: str) -> bool:
    """Whether the reference's loss has wd/2 |W|^2 of this variable: add_weight_decay of its TF2 code."""
    if str(load_case(case)["config/optimizer"]) == "lars":
        return name == "supervised_head/dense/kernel"
    return not name.endswith(("/gamma", "/beta"))


def decay_term(case: str, params: dict[str, np.ndarray]) -> float:
    """wd/2 |W|^2 over the variables which the reference decays through its loss."""
    squares = [np.sum(np.square(value)) for name, value in params.items() if decays_through_the_loss(case, name)]
    return float(load_case(case)["weight_decay"]) / 2 * float(sum(squares))


def reference_gradient(case: str, step: Step) -> dict[str, np.ndarray]:
    """The gradient as the reference has it: with that of the decay term."""
    weight_decay = float(load_case(case)["weight_decay"])
    return {
        name: gradient + (weight_decay * step.params_before[name] if decays_through_the_loss(case, name) else 0.0)
        for name, gradient in step.gradient.items()
    }


def norms(tree: dict[str, np.ndarray], names: np.ndarray) -> np.ndarray:
    assert set(tree) == set(names.tolist())
    return np.array([np.linalg.norm(tree[name]) for name in names.tolist()])


def compare_first_entries(case: str, key: str, value: np.ndarray, *, compare) -> None:
    """`value` begins with the stored entries, if any are stored; relative to the largest of them."""
    expected = load_case(case).get(key)
    if expected is not None:
        words = f"{WORDS[case]}: single entries, f64"
        compare(words, value.ravel()[: expected.size], expected.ravel(), limit=1e-5, of=parity.LARGEST)


def compare_losses(case: str, number: int, step: Step, *, words: str, limit: float, compare) -> None:
    """The loss and its parts of step `number`, each relative."""
    term = decay_term(case, step.params_before)
    ours = {
        "weight_decay": term,
        # The reference adds the losses of the two directions; ours is their mean.
        "contrastive": 2 * step.metrics["contrastive_loss"],
        "supervised": step.metrics["supervised_loss"],
        "total": step.metrics["loss"] + term,
    }
    for name, value in ours.items():
        expected = load_case(case)[f"step{number}/loss_{name}_f64"]
        compare(f"{WORDS[case]}: losses{words}", value, expected, limit=limit, of=parity.EACH)


@pytest.mark.parametrize("case", CASES)
def test_losses_equal_the_reference_in_float64(case, compare):
    for number, step in enumerate(run(case, "float64"), start=1):
        compare_losses(case, number, step, words=", f64", limit=1e-6, compare=compare)
        expected = load_case(case)[f"step{number}/contrast_acc_f64"]
        compare("all: contrastive accuracy, f64", step.metrics["contrastive_accuracy"], expected)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_reference_in_float64(case, compare):
    arrays = load_case(case)
    for number, step in enumerate(run(case, "float64"), start=1):
        gradient = reference_gradient(case, step)
        ours, expected = norms(gradient, arrays["trainable_names"]), arrays[f"step{number}/gradient_norms_f64"]
        compare(f"{WORDS[case]}: gradient norms, f64", ours, expected, limit=1e-5, of=parity.EACH)
        assert step.metrics["gradient_norm"] == pytest.approx(
            np.linalg.norm(norms(step.gradient, arrays["trainable_names"])), rel=1e-12
        )
        assert number > 1 or {f"step1/gradient_first16_f64/{name}" for name in gradient} <= set(arrays)
        for name in gradient:
            compare_first_entries(case, f"step{number}/gradient_first16_f64/{name}", gradient[name], compare=compare)


@pytest.mark.parametrize("case", CASES)
def test_parameters_after_the_update_equal_the_reference_in_float64(case, compare):
    arrays = load_case(case)
    history, names = run(case, "float64"), arrays["trainable_names"]
    start = history[0].params_before
    for number, step in enumerate(history, start=1):
        change = {name: step.params[name] - start[name] for name in start}
        kinds = {"param_norms_after": step.params, "momentum_norms_after": step.velocity}
        for kind, tree in {**kinds, "param_change_norms_from_start": change}.items():
            expected = arrays.get(f"step{number}/{kind}_f64")
            if expected is not None:  # Keras' velocities are not recorded
                words = f"{WORDS[case]}: parameter norms, f64"
                compare(words, norms(tree, names), expected, limit=1e-5, of=parity.EACH)
        for name in start:
            compare_first_entries(case, f"step{number}/after_first16_f64/{name}", step.params[name], compare=compare)


@pytest.mark.parametrize("case", CASES)
def test_batch_norm_statistics_after_the_update_equal_the_reference_in_float64(case, compare):
    arrays = load_case(case)
    for number, step in enumerate(run(case, "float64"), start=1):
        if f"step{number}/statistics_sums_after_f64" in arrays:
            names = arrays["statistics_names"].tolist()
            assert set(names) == set(step.statistics)
            sums, sizes = ([f(step.statistics[name]).sum() for name in names] for f in (np.asarray, np.abs))
            # Entries of a mean cancel; the reference's own are off by 1.5e-8, as its decay is a float32.
            tolerance = {"limit": 1e-6, "of": "of sum of sizes", "scale": sizes}
            expected = arrays[f"step{number}/statistics_sums_after_f64"]
            compare(f"{WORDS[case]}: statistics, f64", sums, expected, **tolerance)
        for name, value in step.statistics.items():
            compare_first_entries(case, f"step{number}/after_first16_f64/{name}", value, compare=compare)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_projections_of_the_first_step_equal_the_reference_in_float64(case, compare):
    # Rows of the file: view 1 of all images, then view 2.
    z = run(case, "float64")[0].metrics["z"].swapaxes(0, 1)
    expected = load_case(case)["step1/projection_output_f64"]
    compare(f"{WORDS[case]}: projections of step 1, f64", z.reshape(expected.shape), expected, limit=1e-6)


@pytest.mark.slow
def test_whole_gradients_and_the_whole_last_state_equal_the_reference_in_float64(compare):
    full = golden.load_full("train_step_tiny_r18_b8")
    history = run("tiny_r18_b8", "float64")
    gradient = reference_gradient("tiny_r18_b8", history[0])
    state = {**history[-1].params, **history[-1].statistics}
    for folder, tree in (("step1/gradient_f64/", gradient), ("step3/after_f64/", state)):
        assert {name.removeprefix(folder) for name in full if name.startswith(folder)} == set(tree)
        for name, value in tree.items():
            compare(f"all entries of {folder}", value, full[folder + name], limit=1e-5, of=parity.LARGEST)


@pytest.mark.slow
def test_a_learning_rate_of_zero_moves_the_statistics_and_no_parameter():
    first = run("tiny_r18_v1head_b8", "float64")[0]
    for name, value in first.params.items():
        np.testing.assert_array_equal(value, first.params_before[name])
    for name, value in first.statistics.items():
        assert not np.array_equal(value, oracles.golden_value(name, value.shape))


@pytest.mark.slow
@pytest.mark.parametrize("case", WORDS)
def test_the_first_loss_equals_the_reference_in_float32(case, compare):
    # Thin networks are noisier: BatchNorm divides by the variance of few values.
    limit = 5e-4 if case.startswith("tiny") else 1e-4
    compare_losses(case, 1, run(case, "float32")[0], words=" of step 1, f32", limit=limit, compare=compare)


@pytest.mark.slow
def test_three_steps_of_the_full_width_network_equal_the_reference_in_float32(compare):
    case, words = "r18_cifar_b4", "R18, LARS"
    arrays, history = load_case(case), run(case, "float32")
    names = arrays["trainable_names"]
    expected = arrays["step1/gradient_norms_f64"]
    ours = norms(reference_gradient(case, history[0]), names)
    compare(f"{words}: gradient norms, f32", ours, expected, limit=2e-2, of=parity.EACH)
    whole = (np.linalg.norm(x) for x in (ours, expected))
    compare(f"{words}: whole gradient norm, f32", *whole, limit=2e-3, of=parity.EACH)
    for number, step in enumerate(history, start=1):
        compare_losses(case, number, step, words=" of 3 steps, f32", limit=1e-3, compare=compare)
    expected = arrays["step3/param_norms_after_f64"]
    compare(f"{words}: parameter norms, f32", norms(history[-1].params, names), expected, limit=1e-3, of=parity.EACH)


REPLICAS = {2: golden.load("replicas_2"), 4: golden.load("replicas_4")}
SYNC_BN = [(r, c) for r, arrays in REPLICAS.items() for c in arrays["case_names"].tolist() if "sync_bn" in c]


def batch_norm(arrays: dict[str, np.ndarray], case: str, *, dtype: str, put=jnp.asarray) -> tuple[np.ndarray, ...]:
    """(outputs, input gradients, mean, variance) of the package's BatchNorm on the batch of all replicas.

    `put` places the rows.
    """
    names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    values = {ours: jnp.asarray(arrays[f"{case}/{theirs}"], dtype) for ours, theirs in names.items()}
    stored = (arrays[f"{case}/{name}_per_replica"].astype(dtype) for name in ("input", "cotangent"))
    rows, cotangent = (put(x.reshape(-1, *x.shape[2:])) for x in stored)
    norm = layers.make_batch_norm(dtype, train=True)()

    @jax.jit
    def run(rows, cotangent):
        def apply(rows):
            params, statistics = ({k: values[k] for k in pair} for pair in (("scale", "bias"), ("mean", "var")))
            return norm.apply({"params": params, "batch_stats": statistics}, rows, mutable=["batch_stats"])

        outputs, pullback, updates = jax.vjp(apply, rows, has_aux=True)
        return outputs, pullback(cotangent)[0], updates["batch_stats"]

    outputs, gradient, statistics = jax.device_get(run(rows, cotangent))
    return outputs, gradient, statistics["mean"], statistics["var"]


def batch_norm_pairs(arrays: dict[str, np.ndarray], case: str, results: tuple[np.ndarray, ...]) -> list[tuple]:
    """(ours, reference's) of every result; the README's tolerance is 1e-5."""
    names = ("output_per_replica", "input_gradient_per_replica", "updated_moving_mean", "updated_moving_variance")
    stored = [arrays[f"{case}/{name}"] for name in names]
    return [(ours.reshape(expected.shape), expected) for ours, expected in zip(results, stored, strict=True)]


@pytest.mark.few(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("num_replicas", "case"), SYNC_BN)
def test_batch_norm_of_the_global_batch_equals_the_replicas_of_the_reference(num_replicas, case, dtype, compare):
    arrays, words = REPLICAS[num_replicas], f"BatchNorm, global batch, {dtype.replace('loat', '')}"
    with jax.enable_x64(dtype == "float64"):
        results = batch_norm(arrays, case, dtype=dtype)
    for ours, expected in batch_norm_pairs(arrays, case, results):
        compare(words, ours, expected, limit=1e-5, source="TF2, 2 and 4 replicas")
    if dtype == "float64":
        exact = arrays[f"{case}/output_f64"]
        compare("BatchNorm, global batch, recorded in f64", results[0].reshape(exact.shape), exact, limit=1e-10)


_ON_DEVICES = """
    import jax
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    from simclr_jax import losses
    from simclr_jax.distributed import sharding
    from tests import golden, test_training_goldens as goldens
    import jax.numpy as jnp, numpy as np

    mesh = sharding.make_mesh()
    arrays = goldens.REPLICAS[jax.device_count()]
    put = lambda rows: sharding.put_rows(mesh, rows)
    for case in arrays["case_names"].tolist():
        if case.startswith("sync_bn"):
            results = goldens.batch_norm(arrays, case, dtype="float32", put=put)
            for ours, expected in goldens.batch_norm_pairs(arrays, case, results):
                np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
            continue
        hidden = arrays[f"{case}/hidden_per_replica"]
        z = np.concatenate([h.reshape(2, -1, h.shape[-1]).swapaxes(0, 1) for h in hidden])
        value = lambda z: 2 * losses.nt_xent(z, temperature=float(arrays[f"{case}/temperature"]))[0]
        loss, gradient = jax.jit(jax.value_and_grad(value))(put(z))
        assert len(gradient.sharding.device_set) == jax.device_count()
        np.testing.assert_allclose(loss, arrays[f"{case}/loss_per_replica"].mean(), rtol=1e-5)
        expected = np.concatenate([
            h.reshape(2, -1, h.shape[-1]).swapaxes(0, 1)
            for h in arrays[f"{case}/gradient_of_local_loss_over_replicas"]])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    print(len(arrays["case_names"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, 4])
def test_rows_spread_over_devices_give_what_the_replicas_of_the_reference_gave(num_devices):
    assert int(test_sharding.run_on_devices(num_devices, _ON_DEVICES)) == 4
