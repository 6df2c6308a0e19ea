"""Optimizers and schedules of the codes of other methods than SimCLR, against recorded updates and rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import base, optim
from tests import golden

OPTIMIZERS, SCHEDULES = golden.load("family/optimizers"), golden.load("family/schedules")
VARIANTS = {
    "sgd_all_decayed": ("sgd", {"decayed": "all"}),
    "lars_byol_mocov3_vicreg": ("lars", {"rate_place": "outside"}),
    "lars_barlow_bias_factor_0.024": ("lars", {"rate_place": "outside", "vector_rate_factor": 0.024}),
    "larc_swav": ("larc", {}),
    "lars_simclr_tf_lr_inside": ("lars", {}),
}


def tree(folder: str, number: int | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The recorded arrays below a folder; of update `number`, where there are several."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in OPTIMIZERS.items():
        if name.startswith(f"{folder}/"):
            module, leaf = name.removeprefix(f"{folder}/").split("/")
            found.setdefault(module, {})[leaf] = value if number is None else value[number]
    return found


@pytest.mark.few(3)
@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_are_the_recorded_ones(variant):
    name, options = VARIANTS[variant]
    with jax.enable_x64(True):
        rates = jnp.asarray(OPTIMIZERS["learning_rates"])
        numbers = {key: float(OPTIMIZERS[key]) for key in ("weight_decay", "momentum")}
        tx = optim.make_optimizer(name, learning_rate=lambda step: rates[step], **numbers, **options)
        params = jax.tree.map(jnp.asarray, tree("init"))
        state = tx.init(params)
        for number in range(len(rates)):
            updates, state = tx.update(jax.tree.map(jnp.asarray, tree("grads", number)), state, params)
            params = optax.apply_updates(params, updates)
            jax.tree.map(
                lambda ours, expected: np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12),
                params,
                tree(variant, number),
            )


def test_the_place_of_the_rate_matters_while_it_changes():
    """What the recordings of both forms of LARS differ by."""
    variants = ("lars_simclr_tf_lr_inside", "lars_byol_mocov3_vicreg")
    inside, outside = (tree(name, -1)["dense"]["kernel"] for name in variants)
    moved = np.abs(outside - tree("init")["dense"]["kernel"]).max()
    assert np.abs(inside - outside).max() > 0.02 * moved


def test_the_rate_of_one_module_may_stay_that_of_the_first_update():
    params = {"encoder": {"kernel": jnp.ones((2, 2))}, "predictor": {"kernel": jnp.ones((2, 2))}}
    tx = optim.make_optimizer(
        "sgd",
        learning_rate=lambda step: 0.5 / (1.0 + step.astype(jnp.float32)),
        weight_decay=0.0,
        momentum=0.0,
        constant_rate_for="predictor",
    )
    state, moved = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append([float(updates[name]["kernel"][0, 0]) for name in params])
    np.testing.assert_allclose(moved, [[-0.5, -0.5], [-0.25, -0.5], [-0.5 / 3, -0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgd", {"rate_place": "outside"}, "rate_place is a setting of the optimizer lars; got sgd"),
        ("adamw", {"vector_rate_factor": 0.5}, "vector_rate_factor is a setting of the optimizer lars"),
        ("lars", {"rate_place": "between"}, "rate_place must be one of inside, outside"),
        ("lars", {"decayed": "none"}, "decayed must be one of usual, all"),
        ("larc", {"vector_rate_factor": -1.0}, "vector_rate_factor must be at least 0"),
        ("sgd", {"b2": 0.98}, "b2 is a setting of the optimizer adamw; got sgd"),
        ("lars", {"eps": 1e-6}, "eps is a setting of the optimizer adamw; got lars"),
        ("adamw", {"b2": 1.0}, "b2 must be"),
        ("adamw", {"eps": 0.0}, "eps must be above 0; got 0.0"),
    ],
)
def test_settings_that_an_optimizer_does_not_have_are_refused(name, options, message):
    with pytest.raises(base.InputError, match=message):
        optim.make_optimizer(name, learning_rate=0.1, weight_decay=0.0, **options)


@pytest.mark.parametrize(("b2", "eps"), [(0.999, 1e-8), (0.98, 1e-6), (0.5, 0.1)])
def test_adamw_has_the_b2_and_the_epsilon_that_are_asked_for(b2, eps):
    """Two updates of one weight, written out in float64."""
    gradients, weight, mean, square = (0.3, -0.1), 0.5, 0.0, 0.0
    tx = optim.make_optimizer("adamw", learning_rate=0.01, weight_decay=0.2, b2=b2, eps=eps)
    params = {"dense": {"kernel": jnp.full((1, 1), weight)}}
    state = tx.init(params)
    for number, gradient in enumerate(gradients, start=1):
        updates, state = tx.update({"dense": {"kernel": jnp.full((1, 1), gradient)}}, state, params)
        params = optax.apply_updates(params, updates)
        mean, square = 0.9 * mean + 0.1 * gradient, b2 * square + (1 - b2) * gradient**2
        step = mean / (1 - 0.9**number) / ((square / (1 - b2**number)) ** 0.5 + eps)
        weight -= 0.01 * (step + 0.2 * weight)
    # float32: the bias corrections 1 - b2^n cancel up to three digits.
    np.testing.assert_allclose(params["dense"]["kernel"], weight, rtol=2e-6)


def test_a_module_that_is_not_there_is_refused():
    tx = optim.make_optimizer("sgd", learning_rate=0.1, weight_decay=0.0, constant_rate_for="head")
    with pytest.raises(base.InputError, match="must be a module of the method: encoder; got head"):
        tx.init({"encoder": {"kernel": jnp.ones((2, 2))}})


STEPS, EPOCHS = int(SCHEDULES["settings/steps_per_epoch"]), int(SCHEDULES["settings/epochs"])
LINEAR = {"learning_rate_scaling": "linear"}
PLAIN = {"learning_rate_scaling": "none"}
OURS = {
    "byol/lr": {"base_learning_rate": 0.3, "warmup_epochs": 10.0, **LINEAR},
    "barlow/weights": {"base_learning_rate": 0.2, "warmup_epochs": 10.0, "final_fraction": 0.001, **LINEAR},
    "vicreg/lr": {"base_learning_rate": 0.2, "warmup_epochs": 10.0, "final_fraction": 0.001, **LINEAR},
    "moco_v1/lr": {
        "base_learning_rate": 0.03,
        "decay": "drops",
        "drop_epochs": tuple(float(epoch) for epoch in SCHEDULES["moco_v1/drops"]),
        **PLAIN,
    },
    "moco_v2/lr": {"base_learning_rate": 0.03, "decay": "cosine_by_epoch", **PLAIN},
    "simsiam/lr": {"base_learning_rate": 0.05, "decay": "cosine_by_epoch", **LINEAR},
    "moco_v3/lr": {"base_learning_rate": float(SCHEDULES["moco_v3/lr"].max() / 2), "warmup_epochs": 10.0, **LINEAR},
    "swav/lr": {
        "base_learning_rate": 4.8,
        "warmup_epochs": 10.0,
        "warmup_start": 0.3,
        "warmup_end": "last",
        "final_fraction": 0.001,
        **PLAIN,
    },
    "supcon/lr": {
        "base_learning_rate": 0.5,
        "warmup_epochs": 10.0,
        "warmup_start": 0.01,
        "decay": "cosine_by_epoch_from_1",
        "final_fraction": 0.1**3,
        **PLAIN,
    },
}


@functools.cache
def schedule(name: str):
    return optim.make_schedule(
        **OURS[name],
        batch_size=int(SCHEDULES["settings/batch_size"]),
        num_examples=STEPS * int(SCHEDULES["settings/batch_size"]),
        num_epochs=float(EPOCHS),
        num_steps=STEPS * EPOCHS,
    )


@pytest.mark.parametrize("name", OURS)
def test_rates_are_those_of_the_training_script(name):
    with jax.enable_x64(True):
        ours = jax.vmap(schedule(name))(jnp.arange(STEPS * EPOCHS))
    expected = SCHEDULES[name]
    # BYOL's script computes its warm-up in float32.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=(1e-7 if name == "byol/lr" else 1e-10) * expected.max())


def test_biases_of_barlow_twins_have_their_share_of_the_rate():
    np.testing.assert_allclose(SCHEDULES["barlow/biases"], 0.024 * SCHEDULES["barlow/weights"], rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "linear"}, "decay must be one of cosine"),
        ({"decay": "drops"}, 'belong to decay="drops"'),
        ({"drop_epochs": (5.0,)}, 'belong to decay="drops"'),
        ({"final_fraction": 1.5}, "final_fraction must be at least 0 and below 1"),
        ({"warmup_start": -0.1}, "warmup_start must be at least 0"),
        ({"warmup_end": "soon"}, "warmup_end must be one of after, last"),
    ],
)
def test_mistakes_in_a_schedule_are_refused(options, message):
    with pytest.raises(base.InputError, match=message):
        optim.make_schedule(base_learning_rate=0.1, batch_size=8, num_examples=80, num_epochs=10.0, **options)
