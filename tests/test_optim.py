"""Schedules and optimizers against the reference's recorded runs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from simclr_jax import base, optim
from tests import golden, oracles, parity

SCHEDULES = golden.load("schedule")
LARS = golden.load("lars")
LARS_NAMES = LARS["canonical_names"].tolist()
LARS_TF1 = golden.load("lars_tf1")
LARS_VARIANTS = ["wd1e-6", "wd1e-4", "wd1e-4_nesterov", "wd1e-4_popular"]
SUPERVISED_KERNEL = "supervised_head/dense/kernel"


def schedule_of(case: str) -> optax.Schedule:
    return optim.make_schedule(
        base_learning_rate=SCHEDULES[f"{case}/base_learning_rate"].item(),
        learning_rate_scaling=SCHEDULES[f"{case}/scaling"].item(),
        warmup_epochs=SCHEDULES[f"{case}/warmup_epochs"].item(),
        batch_size=SCHEDULES[f"{case}/batch_size"].item(),
        num_examples=SCHEDULES[f"{case}/num_examples"].item(),
        num_epochs=SCHEDULES[f"{case}/epochs"].item(),
        num_steps=SCHEDULES[f"{case}/train_steps_override"].item() or None,
    )


@pytest.mark.few(6)
@pytest.mark.parametrize("case", SCHEDULES["case_names"].tolist())
def test_schedule_equals_the_reference(case, compare):
    peak = float(SCHEDULES[f"{case}/peak_f64"])
    expected = SCHEDULES[f"{case}/learning_rate_f64"]
    steps = SCHEDULES[f"{case}/steps"]
    rates = jax.jit(jax.vmap(schedule_of(case)))(jnp.asarray(steps))
    assert rates.dtype == jnp.float32
    compare("schedule, f32", rates, expected, limit=1e-6, of="of the peak", scale=peak)
    first = golden.load("schedule_tf1")[f"{case}/learning_rate"]
    compare("schedule, f32", rates, first, limit=1e-6, of="of the peak", scale=peak, source="TF1")
    with jax.enable_x64(True):
        exact = jax.device_get(jax.vmap(schedule_of(case))(jnp.asarray(steps)))
    compare("schedule, f64", exact, expected, limit=1e-12, of="of the peak", scale=peak)


@pytest.mark.few(3)
@pytest.mark.parametrize("case", SCHEDULES["case_names"].tolist())
def test_schedule_equals_optax(case, compare):
    steps = SCHEDULES[f"{case}/steps"]
    peak, warmup, total = (SCHEDULES[f"{case}/{key}"].item() for key in ("peak_f64", "warmup_steps", "total_steps"))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        cosine = optax.cosine_decay_schedule(peak, total)
        theirs = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total) if warmup else cosine
        # As floats: of integer steps optax computes in float32 also under enable_x64.
        expected = jax.device_get(jax.vmap(theirs)(jnp.asarray(steps, float)))
        ours = jax.device_get(jax.vmap(schedule_of(case))(jnp.asarray(steps)))
    compare("schedule, f64", ours, expected, limit=1e-12, of="of the peak", scale=peak, source="optax")


@pytest.mark.parametrize("case", SCHEDULES["case_names"].tolist())
def test_step_counts_equal_the_reference(case, compare):
    sizes = {key: SCHEDULES[f"{case}/{key}"].item() for key in ("num_examples", "batch_size")}
    epochs, warmup_epochs = (SCHEDULES[f"{case}/{key}"].item() for key in ("epochs", "warmup_epochs"))
    warmup_steps = optim.num_warmup_steps(**sizes, warmup_epochs=warmup_epochs)
    compare("numbers of steps", warmup_steps, SCHEDULES[f"{case}/warmup_steps"])
    if not SCHEDULES[f"{case}/train_steps_override"]:
        steps = optim.num_train_steps(**sizes, num_epochs=epochs)
        compare("numbers of steps", steps, SCHEDULES[f"{case}/total_steps"])


# N, b, E, warm-up epochs, base, scaling, S, T, peak, rate(1), rate(T//2): the recipes of the papers and their code.
RECIPES = [
    (1_281_167, 4096, 100, 10, 0.3, "linear", 3127, 31_279, 4.8, 0.00153502, 2.81676),
    (1_281_167, 4096, 100, 10, 0.075, "sqrt", 3127, 31_279, 4.8, 0.00153502, 2.81676),
    (1_281_167, 4096, 1000, 10, 0.3, "linear", 3127, 312_785, 4.8, 0.00153502, 2.43808),
    (1_281_167, 4096, 800, 40, 0.1, "sqrt", 12_511, 250_228, 6.4, 0.00051155, 3.46425),
    (50_000, 512, 1000, 10, 1.0, "linear", 976, 97_657, 2.0, 0.00204918, 1.01587),
    (50_000, 1024, 1000, 10, 1.0, "linear", 488, 48_829, 4.0, 0.00819672, 2.03178),
    (1_281_167, 4096, 90, 0, 0.1, "linear", 0, 28_151, 1.6, 1.6, 0.800045),
    (50_000, 512, 100, 0, 0.1, "linear", 0, 9_766, 0.2, 0.2, 0.1),
    (12_811, 1024, 60, 0, 0.005, "sqrt", 0, 751, 0.16, 0.159999, 0.080167),
    (128_116, 1024, 30, 0, 0.005, "sqrt", 0, 3_754, 0.16, 0.16, 0.08),
    (1_281_167, 1024, 30, 0, 0.005, "sqrt", 0, 37_535, 0.16, 0.16, 0.0800033),
    (1_281_167, 4096, 400, 20, 0.1, "sqrt", 6255, 125_114, 6.4, 0.00102318, 3.46422),
]


@pytest.mark.parametrize(
    (
        "examples",
        "batch_size",
        "epochs",
        "warmup",
        "rate",
        "scaling",
        "warmup_steps",
        "steps",
        "peak",
        "one",
        "half",
    ),
    RECIPES,
)
def test_schedule_has_the_recorded_values_of_published_recipes(
    examples, batch_size, epochs, warmup, rate, scaling, warmup_steps, steps, peak, one, half
):
    sizes = {"num_examples": examples, "batch_size": batch_size}
    assert optim.num_train_steps(**sizes, num_epochs=epochs) == steps
    assert optim.num_warmup_steps(**sizes, warmup_epochs=warmup) == warmup_steps
    scale = {"base_learning_rate": rate, "learning_rate_scaling": scaling}
    assert optim.peak_learning_rate(**scale, batch_size=batch_size) == pytest.approx(peak)
    schedule = optim.make_schedule(**scale, **sizes, num_epochs=epochs, warmup_epochs=warmup)
    # The table has six digits.
    assert float(schedule(jnp.asarray(1))) == pytest.approx(one, rel=1e-5)
    assert float(schedule(jnp.asarray(steps // 2))) == pytest.approx(half, rel=1e-5)
    assert float(schedule(jnp.asarray(steps))) == pytest.approx(0, abs=1e-6 * peak)
    assert float(schedule(jnp.asarray(steps + 1000))) == pytest.approx(0, abs=1e-6 * peak)


def test_first_update_has_learning_rate_zero_under_warm_up():
    schedule = optim.make_schedule(
        base_learning_rate=1.0, batch_size=10, num_examples=100, num_epochs=2, warmup_epochs=1
    )
    assert float(schedule(jnp.asarray(0))) == 0.0


def test_scaling_none_keeps_the_base_learning_rate():
    assert optim.peak_learning_rate(base_learning_rate=0.3, batch_size=4096, learning_rate_scaling="none") == 0.3


def test_schedule_refuses_an_unknown_scaling():
    with pytest.raises(base.InputError, match="linear, sqrt, none; got 'cubic'"):
        optim.peak_learning_rate(base_learning_rate=0.3, batch_size=4096, learning_rate_scaling="cubic")


def test_schedule_refuses_a_warm_up_longer_than_the_training():
    with pytest.raises(base.InputError, match="100 warm-up steps and 51 steps"):
        optim.make_schedule(base_learning_rate=1.0, batch_size=10, num_examples=100, num_epochs=5, warmup_epochs=10)


def to_tree(values: dict[str, np.ndarray], dtype: str):
    """Nested parameters from canonical names, with Flax's leaf names."""
    tree: dict = {}
    for name, value in values.items():
        *modules, leaf = name.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[{"gamma": "scale", "beta": "bias"}.get(leaf, leaf)] = jnp.asarray(value, dtype)
    return tree


@functools.cache
def lars_run(variant: str, dtype: str):
    """Parameters after every golden step, by name, made by the production optimizer."""
    rates = jnp.asarray(LARS["learning_rates"], dtype)
    weight_decay = float(LARS[f"{variant}/weight_decay"])
    popular = variant.endswith("_popular")
    tx = optim.make_optimizer(
        "lars_popular" if popular else "lars",
        learning_rate=lambda step: rates[step],
        weight_decay=weight_decay,
        nesterov=bool(LARS[f"{variant}/nesterov"]),
    )
    params = to_tree({name: LARS[f"init/{name}"] for name in LARS_NAMES}, dtype)
    state = tx.init(params)
    update = jax.jit(tx.update)
    history = []
    for step in range(len(rates)):
        gradients = to_tree({name: LARS[f"grads/{name}"][step] for name in LARS_NAMES}, dtype)
        # In the file the decay of this kernel is not the optimizer's: take it off, so that ours cancels.
        head = gradients["supervised_head"]["dense"]
        head["kernel"] -= weight_decay * params["supervised_head"]["dense"]["kernel"]
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        # Behind the learning rate the velocity has the sign of the update, the reference's that of the gradient.
        velocity = jax.tree.map(lambda leaf: leaf if popular else -leaf, optax.tree.get(state, "trace"))
        history.append(jax.device_get((params, velocity)))
    return history


@pytest.mark.few(2)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_lars_equals_the_reference(variant, dtype, tolerance, compare):
    with jax.enable_x64(dtype == "float64"):
        history = lars_run(variant, dtype)
    for step, (params, velocity) in enumerate(history):
        leaves, slots = oracles.named_leaves(params), oracles.named_leaves(velocity)
        assert set(leaves) == set(LARS_NAMES)
        for name in LARS_NAMES:
            for ours, kind in ((leaves[name], "params"), (slots[name], "momentum")):
                expected, words = LARS[f"{variant}/{kind}_f64/{name}"][step], words_of(variant, dtype)
                compare(words, ours, expected, limit=tolerance, of=parity.LARGEST)


def words_of(variant: str, dtype: str) -> str:
    """How docs/parity.md calls a golden run: "LARS, decay 1e-4, nesterov, f64"."""
    return f"LARS, {variant.replace('_', ', ').replace('wd1e', 'decay 1e')}, {dtype.replace('loat', '')}"


@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_lars_equals_the_first_reference_code(variant, compare):
    for step, (params, _) in enumerate(lars_run(variant, "float32")):
        for name, ours in oracles.named_leaves(params).items():
            expected, words = LARS_TF1[f"{variant}/params/{name}"][step], words_of(variant, "float32")
            compare(words, ours, expected, limit=1e-6, of=parity.LARGEST, source="TF1")


def test_the_golden_run_has_tensors_of_norm_zero():
    # What the trust ratio does with them is part of the comparisons above.
    kernels = [name for name in LARS_NAMES if name.endswith("kernel")]
    assert any(not LARS[f"init/{name}"].any() for name in kernels)
    assert any(not LARS[f"grads/{name}"].any() for name in kernels)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_the_global_norm_is_that_of_all_numbers_together(dtype):
    random = np.random.default_rng(0)
    shapes = [(), (3,), (7, 5), (3, 3, 4, 8), (1, 1, 2, 1)]
    tree = {str(i): jnp.asarray(random.normal(size=shape), dtype) for i, shape in enumerate(shapes)}
    expected = math.sqrt(math.fsum(float(x) ** 2 for leaf in tree.values() for x in np.ravel(np.asarray(leaf, float))))
    norm = jax.jit(optim.global_norm)(tree)
    assert norm.dtype == jnp.float32
    assert float(norm) == pytest.approx(expected, rel=2e-6)  # float32 sums of some 400 terms


def test_lars_excludes_what_the_reference_excludes():
    params = to_tree({name: LARS[f"init/{name}"] for name in LARS_NAMES}, "float32")
    decays = oracles.named_leaves(optim.weight_mask(params))
    adapts = oracles.named_leaves(optim.adapted_mask(params))
    excluded = dict(zip(LARS_NAMES, LARS["excluded_from_decay_and_adaptation"].astype(bool), strict=True))
    assert adapts == {name: not value for name, value in excluded.items()}
    # The reference decays the supervised kernel through the loss.
    assert decays == {name: name == SUPERVISED_KERNEL or not value for name, value in excluded.items()}


W = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def after_three_steps(
    path: tuple[str, str], *, name: str = "lars", weight_decay: float = 1e-4, nesterov: bool = False
) -> np.ndarray:
    tx = optim.make_optimizer(name, learning_rate=0.5, weight_decay=weight_decay, nesterov=nesterov)
    module, leaf = path
    params = {module: {leaf: jnp.asarray(W, jnp.float32)}}
    state = tx.init(params)
    for t in range(3):
        gradient = jnp.asarray(np.cos(np.arange(6) + t).reshape(2, 3), jnp.float32)
        updates, state = tx.update({module: {leaf: gradient}}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params[module][leaf]).ravel()


EXCLUDED_ROW = (-1.5602138, 0.3582262, 2.1311936, 2.22057, 0.6361229, -1.0734751)


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (("conv1", "kernel"), {}, (0.0990708, 0.2000821, 0.3010179, 0.4010178, 0.500082, 0.5990707)),
        (("conv1", "kernel"), {"nesterov": True}, (0.0988459, 0.2003071, 0.3014859, 0.4012985, 0.4999172, 0.598612)),
        (("conv1", "kernel"), {"name": "lars_popular"}, (0.099347, 0.199976, 0.3006271, 0.4007016, 0.500131, 0.59944)),
        (("conv1", "kernel"), {"weight_decay": 0.1}, (0.0990437, 0.2000383, 0.300969, 0.4009659, 0.5000175, 0.5989814)),
        (("bn1", "scale"), {}, EXCLUDED_ROW),
        (("bn1", "bias"), {}, EXCLUDED_ROW),
        (("supervised_head", "bias"), {}, EXCLUDED_ROW),
        (("supervised_head", "kernel"), {"weight_decay": 0.0}, EXCLUDED_ROW),
        (("supervised_head", "kernel"), {"weight_decay": 0.0, "name": "lars_popular"}, EXCLUDED_ROW),
        (("bn1", "scale"), {"name": "lars_popular"}, EXCLUDED_ROW),
    ],
)
def test_lars_equals_recorded_steps(path, options, expected):
    # Recorded to seven decimals.
    np.testing.assert_allclose(after_three_steps(path, **options), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("module", "adapted"), [("conv1", True), ("supervised_head", False)])
def test_lars_decays_kernels_and_adapts_all_but_the_supervised_one(module, adapted, nesterov):
    weight, velocity = W, np.zeros_like(W)
    for t in range(3):
        weight, velocity = oracles.lars_step(
            weight,
            np.cos(np.arange(6) + t).reshape(2, 3),
            velocity,
            learning_rate=0.5,
            weight_decay=0.1,
            adapted=adapted,
            nesterov=nesterov,
        )
    ours = after_three_steps((module, "kernel"), weight_decay=0.1, nesterov=nesterov)
    np.testing.assert_allclose(ours, weight.ravel(), rtol=0, atol=1e-6 * np.abs(weight).max())


DECAY = golden.load("weight_decay_term")


def decayed_in_the_loss(case: str, name: str) -> bool:
    """The variables of the reference's weight-decay term: add_weight_decay of its second code base."""
    if case.startswith("lars"):
        return name == SUPERVISED_KERNEL
    return not name.endswith(("/gamma", "/beta"))


def decay_by_zero_gradients(optimizer: str, weight_decay: float):
    """(weights, their products with the first update at learning rate 1), by name, for a gradient of zero."""
    shapes = [tuple(int(n) for n in s.split(",")) for s in DECAY["variables/shapes"]]
    names = DECAY["variables/canonical_names"].tolist()
    weights = {
        n: oracles.golden_value(n, s) for n, s in zip(names, shapes, strict=True) if not n.endswith(("/mean", "/var"))
    }
    params = to_tree(weights, "float64")
    tx = optim.make_optimizer(optimizer, learning_rate=1.0, weight_decay=weight_decay, momentum=0.0)
    step = jax.jit(lambda params: tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params))
    updates = oracles.named_leaves(jax.device_get(step(params)[0]))
    return weights, {name: float(np.sum(updates[name] * weights[name])) for name in weights}


@pytest.mark.parametrize("case", DECAY["case_names"].tolist())
def test_weight_decay_term_is_over_the_variables_listed_here(case):
    shapes = [tuple(int(n) for n in s.split(",")) for s in DECAY["variables/shapes"]]
    names = DECAY["variables/canonical_names"].tolist()
    term = 0.0
    for name, shape in zip(names, shapes, strict=True):
        if not name.endswith(("/mean", "/var")) and decayed_in_the_loss(case, name):
            term += float(DECAY[f"{case}/weight_decay"]) / 2 * float(np.sum(oracles.golden_value(name, shape) ** 2))
    assert term == pytest.approx(float(DECAY[f"{case}/value_f64"]), rel=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_keras"])
@pytest.mark.parametrize("case", [c for c in DECAY["case_names"].tolist() if c.startswith("momentum")])
def test_sgd_decays_what_the_reference_decays(case, optimizer, compare):
    with jax.enable_x64(True):
        _, products = decay_by_zero_gradients(optimizer, float(DECAY[f"{case}/weight_decay"]))
    # The update is minus the gradient wd*W of the reference's term wd/2 |W|^2.
    term = -sum(products.values()) / 2
    compare("decay term, SGD, f64", term, DECAY[f"{case}/value_f64"], limit=1e-9, of=parity.EACH)
    assert all((product != 0) == decayed_in_the_loss(case, name) for name, product in products.items())


@pytest.mark.parametrize(("case", "optimizer"), [("lars_wd1e-06", "lars"), ("lars_wd0.0001", "lars_popular")])
def test_lars_decays_the_supervised_kernel_as_the_term_of_the_loss_does(case, optimizer, compare):
    with jax.enable_x64(True):
        _, products = decay_by_zero_gradients(optimizer, float(DECAY[f"{case}/weight_decay"]))
    term = -products[SUPERVISED_KERNEL] / 2
    compare("decay term, LARS, f64", term, DECAY[f"{case}/value_f64"], limit=1e-9, of=parity.EACH)
    # Every other kernel is decayed in the optimizer; neither code touches BatchNorm parameters and biases.
    assert all((product != 0) == name.endswith("kernel") for name, product in products.items())


@pytest.mark.parametrize(
    ("optimizer", "expected"), [("sgd", (0.7144116, 1.7034769)), ("sgd_keras", (0.5907959, 1.584727))]
)
def test_the_learning_rate_is_outside_the_velocity_of_sgd_and_inside_that_of_keras(optimizer, expected):
    rates = jnp.asarray([0.1, 0.05, 0.01])
    tx = optim.make_optimizer(optimizer, learning_rate=lambda step: rates[step], weight_decay=0.0, nesterov=True)
    tree = {"dense": {"kernel": jnp.asarray([1.0, 2.0])}}
    state = tx.init(tree)
    for t in range(3):
        gradient = jnp.asarray([np.cos(t), np.sin(t + 1)], jnp.float32)
        updates, state = tx.update({"dense": {"kernel": gradient}}, state, tree)
        tree = optax.apply_updates(tree, updates)
    # Recorded from the reference's first and second code base.
    np.testing.assert_allclose(tree["dense"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_keras_is_the_update_written_out(nesterov):
    rates = np.array([0.1, 0.5, 0.02])
    tx = optim.make_optimizer(
        "sgd_keras",
        learning_rate=lambda step: jnp.asarray(rates, jnp.float32)[step],
        weight_decay=0.1,
        nesterov=nesterov,
    )
    weight, velocity = W.copy(), np.zeros_like(W)
    params = {"conv1": {"kernel": jnp.asarray(W, jnp.float32)}}
    state = tx.init(params)
    for t, rate in enumerate(rates):
        gradient = np.cos(np.arange(6) + t).reshape(2, 3)
        updates, state = tx.update({"conv1": {"kernel": jnp.asarray(gradient, jnp.float32)}}, state, params)
        params = optax.apply_updates(params, updates)
        step = rate * (gradient + 0.1 * weight)
        velocity = 0.9 * velocity - step
        weight = weight + (0.9 * velocity - step if nesterov else velocity)
    # float32 against float64, three steps.
    np.testing.assert_allclose(params["conv1"]["kernel"], weight, rtol=0, atol=1e-6)


def test_adamw_decays_kernels_only():
    tx = optim.make_optimizer("adamw", learning_rate=0.1, weight_decay=0.5)
    ones = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "bn1": {"scale": jnp.ones(2)}}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, ones), tx.init(ones), ones)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.05, rtol=1e-6)
    assert not updates["dense"]["bias"].any() and not updates["bn1"]["scale"].any()


@pytest.mark.few(2)
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_learning_rate_zero_leaves_the_parameters_alone(name):
    tx = optim.make_optimizer(name, learning_rate=lambda step: jnp.asarray(0.0), weight_decay=0.1)
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    updates, _ = tx.update(params, tx.init(params), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


class _Foreign(nn.Module):
    """A network with Flax's default names and fields that say nothing."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.GroupNorm(4, name="second")(x)
        x = x.mean(axis=1)
        x = nn.MultiHeadDotProductAttention(2)(x, x)
        x = x + self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        x = nn.LayerNorm(use_scale=False)(x)
        return nn.Dense(3, name="bn")(x)


def test_masks_are_right_for_networks_with_other_names():
    params = _Foreign().init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
    weights, norms = (
        oracles.named_leaves(optim.weight_mask(params)),
        oracles.named_leaves(optim.normalization_mask(params)),
    )
    kernels = {name for name in weights if name.endswith("kernel")}
    # Learned positions are no weights: vision transformers leave them and the class token undecayed.
    assert {name for name, value in weights.items() if value} == kernels and len(kernels) == 6
    expected = {"BatchNorm_0/scale", "BatchNorm_0/bias", "second/scale", "second/bias", "LayerNorm_0/bias"}
    assert {name for name, value in norms.items() if value} == expected
    # What is not a normalisation's is decayed by SGD, biases included; LARS takes the weights alone.
    for make, decayed in ((optim.make_sgd, set(norms) - expected), (optim.make_lars, kernels)):
        ones = jax.tree.map(jnp.ones_like, params)
        tx = make(1.0, weight_decay=0.5, momentum=0.0)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, ones), tx.init(ones), ones)
        assert {name for name, leaf in oracles.named_leaves(updates).items() if np.any(leaf)} == decayed


def test_masks_can_be_given_as_in_optax():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for mask in ({"a": True, "b": False}, lambda tree: {"a": True, "b": False}):
        for make in (optim.make_lars, optim.make_lars_popular, optim.make_sgd, optim.make_sgd_keras, optim.make_adamw):
            tx = make(0.5, weight_decay=0.1, momentum=0.0, decay_mask=mask)
            updates, _ = tx.update(zeros, tx.init(params), params)
            assert updates["a"].any() and not updates["b"].any()
    ours = optim.make_lars(0.5, weight_decay=0.1, decay_mask={"a": True, "b": False}, adapt_mask=mask)
    theirs = optax.lars(
        0.5, 0.1, weight_decay_mask={"a": True, "b": False}, trust_ratio_mask=mask, trust_coefficient=0.001
    )
    gradients = {"a": jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])}
    mine, other = (tx.update(gradients, tx.init(params), params)[0] for tx in (ours, theirs))
    for name in params:
        np.testing.assert_allclose(mine[name], other[name], rtol=1e-6)


def test_make_optimizer_refuses_an_unknown_name():
    with pytest.raises(base.InputError, match="lars, larc, lars_popular, sgd, sgd_keras, adamw; got 'lamb'"):
        optim.make_optimizer("lamb", learning_rate=0.1, weight_decay=0.0)


@pytest.mark.slow
def test_restarts_leave_the_first_period_and_begin_warm_up_and_cosine_anew():
    """Against NumPy in float64, period by period; the first is that of the run which ended there, bit for bit."""
    how = {"base_learning_rate": 0.3, "batch_size": 10, "num_examples": 100, "warmup_epochs": 0.5}
    schedule = optim.make_schedule(**how, num_epochs=6.0, restart_epochs=(2.0, 5.0))
    rates = np.asarray([float(schedule(jnp.asarray(step))) for step in range(61)])
    expected, peak, warmup = [], 0.3 * 10 / 256, 5
    for length in (21, 30, 10):  # floor(100 * epochs / 10) + 1 updates lie before an epoch's end
        for step in range(length):
            cosine = 0.5 * (1 + np.cos(np.pi * (step - warmup) / (length - warmup)))
            expected.append(peak * (step / warmup if step < warmup else cosine))
    np.testing.assert_allclose(rates, expected, rtol=2e-6, atol=1e-9)
    first = optim.make_schedule(**how, num_epochs=2.0)
    assert all(float(first(jnp.asarray(step))) == rates[step] for step in range(21))


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [(0.0,), (-1.0,), (6.0,), (7.0,), (3.0, 2.0), (2.0, 2.0), ("2",), (True,)])
def test_restarts_that_do_not_rise_within_the_training_are_refused(epochs):
    with pytest.raises(base.InputError, match=r"schedule\.restart_epochs must rise"):
        optim.make_schedule(
            base_learning_rate=0.3, batch_size=10, num_examples=100, num_epochs=6.0, restart_epochs=epochs
        )
