"""Every shipped config says what it is, has the default's keys, and builds into a training step."""

import copy
import functools
import importlib

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import augment, base, methods, models, optim, train_step
from simclr_jax.data import resident
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import program as program_lib
from simclr_jax.run import shipped_configs, training_loop
from simclr_jax.run import texts as texts_lib
from tests.methods import settings as method_settings

NAMES = list(shipped_configs.configs())
# Images in the training split, by data set; the others stand for any small set.
NUM_EXAMPLES = {"tfds:cifar10": 50_000, "tfds:imagenet2012": 1_281_167}


@functools.cache
def read(spec):
    return config_lib.load_file(spec).to_dict()


def load(spec):
    return copy.deepcopy(read(spec))  # some tests change theirs


def keys_of(settings):
    return {(section, key) for section, values in settings.items() if isinstance(values, dict) for key in values}


def sizes_of(settings):
    return {
        "num_examples": NUM_EXAMPLES.get(settings["data"]["name"], 2000),
        "batch_size": settings["train"]["batch_size"],
        "num_epochs": settings["train"]["num_epochs"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_it_reproduces_how_to_run_it_and_what_to_expect(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    assert f"--config={name}" in text.partition("Command:")[2]
    assert "Source:" in text or "Reproduces no" in text
    assert "Expected:" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_keys_of_the_default(name):
    mine, default = load(name), load("default")
    assert mine.keys() == default.keys()
    assert {key for key in keys_of(mine) ^ keys_of(default) if key[0] != "method"} == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_plain_values_of_the_default_type(name):
    mine, default = load(name), load("default")
    for section, key in keys_of(mine) & keys_of(default):
        value, reference = mine[section][key], default[section][key]
        assert value is None or isinstance(value, int | float | str | tuple)
        # One number for all views or operations in the default may be one for each.
        each = isinstance(reference, float) and isinstance(value, tuple) and {type(x) for x in value} == {float}
        assert reference is None or type(value) is type(reference) or each, f"{section}.{key}"


def build(name):
    """(settings, method, optimizer, schedule, views) of a config; every section is the arguments of one function."""
    settings = load(name)
    if settings["method"]["name"] == "distill":
        settings["teacher"] |= method_settings.TEACHER
    config_lib.call(training_loop.LoopSettings, settings, "train")
    schedule = config_lib.call(optim.make_schedule, settings, "schedule", **sizes_of(settings))
    tx = config_lib.call(optim.make_optimizer, settings, "optimizer", learning_rate=schedule)
    encoder = config_lib.call(models.make_encoder, settings, "encoder")
    method = program_lib.make_method(encoder, settings, sharding.make_mesh(1), num_classes=10, num_steps=100)
    make_views = config_lib.call(augment.make_simclr_views, settings, "augment")
    return settings, method, tx, schedule, make_views


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_arguments_of_what_it_builds(name):
    settings, method, *_ = build(name)
    assert settings["method"]["name"] in methods.METHODS and all(map(callable, method[:4]))


@pytest.mark.parametrize(
    "name", [name if name == "cifar10" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_config_builds_a_training_step(name):
    """By shapes alone: nothing is computed and no data are read."""
    settings, method, tx, schedule, make_views = build(name)
    step = train_step.make_train_step(
        method, tx, train_step.make_load_views(resident.gather_batch, make_views), schedule=schedule
    )

    canvas = settings["data"]["canvas_size"] or 48
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    texts = shape((7, 5, settings["text"]["length"])) if texts_lib.reads_texts(settings) else None
    images = jax.ShapeDtypeStruct((7, canvas, canvas, 3), jnp.uint8)
    source = resident.SplitArrays(images, shape((7, 2)), shape((7,)), texts)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = source.images.update(shape=(8, canvas, canvas, 3))  # the groups of BatchNorm in MoCo
    views = jax.eval_shape(make_views, key, images, shape((8, 2)), shape((8,)))
    shapes = augment.views_shape(augment.make_recipe(**settings["augment"]), batch_size=8)
    assert jax.tree.map(lambda x: x.shape, views) == shapes
    assert {x.dtype for x in jax.tree.leaves(views)} == {jnp.dtype("float32")}
    state = jax.eval_shape(lambda k: train_step.init_state(method, tx, k, views_shape=shapes), key)
    after, metrics = jax.eval_shape(step, state, key, source, shape((8,)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"loss", "gradient_norm", "learning_rate"} <= metrics.keys()
    assert len(metrics) > 3, "the method's own"
    assert all(metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize(
    ("spec", "warmup_steps", "num_steps", "peak"),
    [
        ("cifar10", 976, 97_657, 2.0),
        ("cifar10_resnet50", 488, 48_829, 4.0),
        ("imagenet_resnet50:epochs=100", 3127, 31_279, 4.8),
        ("imagenet_resnet50:epochs=1000", 3127, 312_785, 4.8),
        ("imagenet_v2", 12_511, 250_228, 6.4),
    ],
)
def test_published_recipes_have_the_published_steps_and_rates(spec, warmup_steps, num_steps, peak):
    """The numbers are those of the reference's own arithmetic; 250,228 is in the name of a released checkpoint."""
    settings = load(spec)
    sizes = sizes_of(settings)
    schedule = config_lib.call(optim.make_schedule, settings, "schedule", **sizes)
    assert optim.num_train_steps(**sizes) == num_steps
    # float32 keeps seven digits of the rate and of the step number.
    assert float(schedule(jnp.asarray(0))) == 0.0
    assert float(schedule(jnp.asarray(1))) == pytest.approx(peak / warmup_steps, rel=1e-6)
    assert float(schedule(jnp.asarray(warmup_steps))) == pytest.approx(peak, rel=1e-6)
    assert float(schedule(jnp.asarray(num_steps))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "first", "peak_step", "peak", "last"),
    [
        ("imagenet_barlow_twins", 0.0, 6256, 1.6, 0.0016),
        ("imagenet_vicreg", 0.0, 6256, 1.6, 0.0016),
        # The warm-up ends with its last update.
        ("imagenet_swav", 0.3, 3127 - 1, 4.8, 0.0048),
        ("cifar10_sup_con", 0.01, None, 0.5, 0.0005),
        ("cifar10_barlow_twins", 0.06, 0, 0.06, 0.0),
        ("cifar10_dcl", 0.06, 0, 0.06, 0.0),
    ],
)
def test_recipes_of_other_methods_have_the_rates_of_their_codes(name, first, peak_step, peak, last):
    settings = load(name)
    sizes = sizes_of(settings)
    schedule = config_lib.call(optim.make_schedule, settings, "schedule", **sizes)
    rate = jax.jit(schedule)
    assert float(rate(jnp.asarray(0))) == pytest.approx(first, rel=1e-6)
    if peak_step is not None:
        assert float(rate(jnp.asarray(peak_step))) == pytest.approx(peak, rel=1e-6)
    # Schedules by epoch end an epoch before the cosine does.
    slack = 3e-5 if settings["schedule"]["decay"] != "cosine" else 1e-7
    assert float(rate(jnp.asarray(optim.num_train_steps(**sizes)))) == pytest.approx(last, rel=1e-5, abs=slack)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_resnet50", "imagenet_resnet50", "imagenet_v2"])
def test_the_number_of_epochs_is_an_argument(name):
    settings = load(f"{name}:epochs=20")
    assert settings["train"]["num_epochs"] == 20.0
    assert 0 < settings["train"]["evaluate_every_epochs"] <= 20
    assert settings["schedule"]["warmup_epochs"] < 20
    assert {**load(name), "train": 0, "schedule": 0} == {**settings, "train": 0, "schedule": 0}


def test_the_published_hyperparameters_are_those_of_the_papers():
    v1, v2, cifar = load("imagenet_resnet50"), load("imagenet_v2"), load("cifar10")
    for settings in (v1, v2):
        assert settings["train"]["batch_size"] == 4096
        assert settings["method"]["temperature"] == 0.1
        assert (settings["augment"]["image_size"], settings["augment"]["color_jitter_strength"]) == (224, 1.0)
        assert settings["augment"]["blur_probability"] == 0.5
    assert (v1["method"]["num_proj_layers"], v1["optimizer"]["weight_decay"]) == (2, 1e-6)
    assert v1["augment"]["brightness"] == "add"
    assert (v2["method"]["num_proj_layers"], v2["optimizer"]["weight_decay"]) == (3, 1e-4)
    assert v2["augment"]["brightness"] == "multiply"
    assert v2["schedule"]["warmup_epochs"] == pytest.approx(40.0)
    assert (cifar["train"]["batch_size"], cifar["method"]["temperature"]) == (512, 0.5)
    assert (cifar["augment"]["color_jitter_strength"], cifar["augment"]["blur_probability"]) == (0.5, 0.0)
    assert cifar["encoder"]["stem"] == "cifar"


def test_the_recipe_of_clip_has_the_numbers_of_its_tables():
    """Radford et al. 2021, tables 18 and 20."""
    clip = load("clip_vit_b32")
    assert (clip["train"]["batch_size"], clip["train"]["num_epochs"], clip["schedule"]["base_learning_rate"]) == (
        32768,
        32.0,
        5e-4,
    )
    adam = {key: clip["optimizer"][key] for key in ("name", "momentum", "b2", "eps", "weight_decay")}
    assert adam == {"name": "adamw", "momentum": 0.9, "b2": 0.98, "eps": 1e-6, "weight_decay": 0.2}


def test_the_recipe_of_a_transformer_is_moco_v3s():
    """CONFIG.md, vits.py and main_moco.py of facebookresearch/moco-v3; torch's AdamW decays every parameter given."""
    settings = load("imagenet_moco_v3_vit")
    schedule = config_lib.call(optim.make_schedule, settings, "schedule", **sizes_of(settings))
    assert float(schedule(jnp.asarray(40 * 1_281_167 // 4096 + 1))) == pytest.approx(1.5e-4 * 16, rel=1e-3)
    assert (settings["optimizer"]["name"], settings["optimizer"]["weight_decay"]) == ("adamw", 0.1)
    assert settings["optimizer"]["decayed"] == "all" and settings["optimizer"]["momentum"] == 0.9
    assert (settings["train"]["num_epochs"], settings["schedule"]["warmup_epochs"]) == (300.0, 40.0)
    method, encoder = settings["method"], settings["encoder"]
    assert (method["num_proj_layers"], method["pred_out_norm"], method["temperature"]) == (3, "plain", 0.2)
    assert (encoder["num_heads"], encoder["positions"], encoder["freeze_patches"]) == (12, "sincos", True)
    assert settings["augment"]["crop_min_scale"] == 0.08
    small = load("cifar10_moco_v3_vit")
    assert small["encoder"]["patch_size"] * small["encoder"]["position_grid"] == small["augment"]["image_size"]


@pytest.mark.parametrize(
    ("spec", "fraction", "epochs", "selector"),
    [
        ("finetune:/r,labels=1", 0.01, 60.0, 1),
        ("finetune:/r,labels=10", 0.1, 30.0, 1),
        ("finetune:/r,labels=100", None, 30.0, 0),
        ("finetune:/r", None, 30.0, 1),
    ],
)
def test_fine_tuning_has_the_epochs_and_the_layer_of_its_share_of_the_labels(spec, fraction, epochs, selector):
    settings = load(spec)
    assert settings["init"]["workdir"] == "/r" and settings["split"]["label_fraction"] == fraction
    assert (settings["train"]["num_epochs"], settings["method"]["ft_proj_selector"]) == (epochs, selector)
    # At the published batch: the steps of the released checkpoints, and their peak rate.
    num_examples = {0.01: 12_811, 0.1: 128_116, None: 1_281_167}[fraction]
    sizes = {"num_examples": num_examples, "batch_size": 1024, "num_epochs": epochs}
    schedule = config_lib.call(optim.make_schedule, settings, "schedule", **sizes)
    assert optim.num_train_steps(**sizes) == {0.01: 751, 0.1: 3_754, None: 37_535}[fraction]
    assert float(schedule(0)) == pytest.approx(0.16)


@pytest.mark.parametrize("percent", ["0", "-1", "nan", "101", "inf"])
def test_a_share_of_the_labels_is_more_than_none_and_at_most_all(percent):
    with pytest.raises(base.InputError, match=f",labels=N with N above 0 and at most 100; got '{percent}'"):
        config_lib.load_file(f"finetune:/r,labels={percent}")


def test_linear_evaluation_has_the_published_steps_and_rates():
    """90 epochs of ImageNet at batch 4096: 28,151 steps from 1.6, as the reference's own arithmetic gives."""
    settings = load("linear_eval:/a,b,epochs=90")
    assert settings["init"]["workdir"] == "/a,b"
    settings["train"]["batch_size"] = 4096
    sizes = {"num_examples": 1_281_167, "batch_size": 4096, "num_epochs": settings["train"]["num_epochs"]}
    schedule = config_lib.call(optim.make_schedule, settings, "schedule", **sizes)
    assert optim.num_train_steps(**sizes) == 28_151
    assert float(schedule(jnp.asarray(0))) == pytest.approx(1.6, rel=1e-6)
    assert float(schedule(jnp.asarray(14_071))) == pytest.approx(0.8, rel=1e-3)
    assert settings["encoder"]["norm"] == "frozen" and settings["optimizer"]["nesterov"]
    assert settings["optimizer"]["weight_decay"] == 0 == settings["method"]["ft_proj_selector"]
    assert load("linear_eval:/r,epochs=100")["train"]["num_epochs"] == 100
    with pytest.raises(Exception, match="epochs=N with N above 0 and at most 100000; got 'x'"):
        load("linear_eval:/r,epochs=x")
