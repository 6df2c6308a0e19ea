"""Every command-line flag of the reference, with its default value, against what stands for it here.

A row of the table says where the counterpart is: `CONFIG:section.key` (of a shipped config) or
`module.function(argument)` (the argument's default). A flag whose value differs states ours and why; a flag without a
counterpart states why it has none. A flag that is in the reference and not in the table, or the other way round, fails.
"""

import ast
import importlib
import inspect
import re
from typing import Any, NamedTuple

import pytest

from simclr_jax.run import config as config_lib
from tests import golden


class Equal(NamedTuple):
    """Our values at these places are the flag's default."""

    places: tuple[str, ...]


class Translated(NamedTuple):
    """Our value at these places says the flag's default in another way."""

    theirs: Any
    ours: Any
    places: tuple[str, ...]


class Different(NamedTuple):
    """Our value at this place deliberately differs from the flag's default."""

    place: str
    ours: Any
    reason: str


class Nothing(NamedTuple):
    """No key or argument of ours stands for the flag."""

    reason: str


RELEASES = {name: golden.load(f"default_flags_{name}") for name in ("tf1", "tf2")}
DEFAULTS = {
    release: {
        str(name): ast.literal_eval(str(value))
        for name, value in zip(flags["names"], flags["defaults_repr"], strict=True)
    }
    for release, flags in RELEASES.items()
}

BOTH: dict[str, tuple[Equal | Translated | Different | Nothing, ...]] = {
    "batch_norm_decay": (Equal(("models.layers.BatchNorm(momentum)",)),),
    "cache_dataset": (Nothing("decoded images are always cached: data.cache_dir says where"),),
    "checkpoint": (Equal(("default:init.workdir",)),),
    "checkpoint_epochs": (Different("default:train.checkpoint_every_steps", 500, "counted in updates, not epochs"),),
    "checkpoint_steps": (Different("default:train.checkpoint_every_steps", 500, "0 there means once per epoch"),),
    "color_jitter_strength": (
        Equal(("augment.make_simclr_views(color_jitter_strength)", "imagenet_resnet50:augment.color_jitter_strength")),
        Different(
            "default:augment.color_jitter_strength", 0.5, "the default config has images of 32 pixels: the CIFAR value"
        ),
    ),
    "dataset": (
        Translated("imagenet2012", "tfds:imagenet2012", ("imagenet_resnet50:data.name", "imagenet_v2:data.name")),
        Different("default:data.name", "photo-patches", "the default config runs on what is installed"),
    ),
    "eval_batch_size": (Different("default:probe.batch_size", 512, "has no influence on the features"),),
    "eval_name": (Nothing("results are files of the run's folder"),),
    "eval_split": (
        Equal(("imagenet_resnet50:split.test",)),
        Different("default:split.test", "test", "the name of that split in most data sets"),
    ),
    "fine_tune_after_block": (Nothing("either the head alone is trained or the whole network"),),
    "ft_proj_selector": (
        Equal(("default:method.ft_proj_selector", "methods.supervised.make_supervised(ft_proj_selector)")),
        Different("finetune:method.ft_proj_selector", 1, "fine-tuning with few labels in the second paper"),
    ),
    "global_bn": (Nothing("always so: BatchNorm sees the global batch on any number of devices"),),
    "hidden_norm": (Equal(("losses.nt_xent(normalize)",)),),
    "image_size": (
        Equal(("imagenet_resnet50:augment.image_size", "imagenet_v2:augment.image_size")),
        Different("default:augment.image_size", 32, "the default config has small images"),
    ),
    "keep_checkpoint_max": (Different("default:train.keep_checkpoints", 3, "and the best by kNN beside them"),),
    "keep_hub_module_max": (Nothing("there are no hub modules"),),
    "learning_rate": (Equal(("default:schedule.base_learning_rate", "imagenet_resnet50:schedule.base_learning_rate")),),
    "learning_rate_scaling": (
        Equal(("default:schedule.learning_rate_scaling", "optim.make_schedule(learning_rate_scaling)")),
    ),
    "mode": (Nothing("train and evaluate are verbs"),),
    "momentum": (Equal(("default:optimizer.momentum", "optim.make_optimizer(momentum)", "optim.make_lars(momentum)")),),
    "num_proj_layers": (
        Equal(
            (
                "default:method.num_proj_layers",
                "methods.simclr.make_simclr(num_proj_layers)",
                "imagenet_v2:method.num_proj_layers",
            )
        ),
        Different("imagenet_resnet50:method.num_proj_layers", 2, "the first paper's head"),
    ),
    "optimizer": (Equal(("default:optimizer.name", "optim.make_optimizer(name)")),),
    "proj_head_mode": (Nothing("method.num_proj_layers says it: 0 is none, 1 is linear, more is nonlinear"),),
    "proj_out_dim": (Equal(("default:method.proj_out_dim", "models.heads.ProjectionHead(out_dim)")),),
    "resnet_depth": (
        Translated(50, "resnet50", ("imagenet_resnet50:encoder.name", "imagenet_v2:encoder.name")),
        Different("default:encoder.name", "resnet18", "the default config is for small images"),
    ),
    "se_ratio": (Equal(("default:encoder.se_ratio", "models.make_encoder(se_ratio)")),),
    "sk_ratio": (Equal(("default:encoder.sk_ratio", "models.make_encoder(sk_ratio)")),),
    "temperature": (Equal(("default:method.temperature", "methods.simclr.make_simclr(temperature)")),),
    "train_batch_size": (
        Equal(("default:train.batch_size", "cifar10:train.batch_size")),
        Different("imagenet_resnet50:train.batch_size", 4096, "the papers' batch"),
    ),
    "train_epochs": (Equal(("default:train.num_epochs", "imagenet_resnet50:train.num_epochs")),),
    "train_mode": (Translated("pretrain", "simclr", ("default:method.name",)),),
    "train_split": (Equal(("default:split.train", "imagenet_resnet50:split.train")),),
    "train_steps": (Translated(0, None, ("optim.make_schedule(num_steps)",)),),
    "use_blur": (
        Translated(True, 0.5, ("default:augment.blur_probability", "augment.make_simclr_views(blur_probability)")),
        Different("cifar10:augment.blur_probability", 0.0, "the CIFAR recipe gives --use_blur=False"),
    ),
    "use_tpu": (Nothing("JAX takes the accelerator it finds"),),
    "warmup_epochs": (
        Equal(("default:schedule.warmup_epochs", "imagenet_resnet50:schedule.warmup_epochs")),
        Different("imagenet_v2:schedule.warmup_epochs", 40.0, "5 % of 800 epochs in the second paper"),
        Different("optim.make_schedule(warmup_epochs)", 0.0, "a schedule without warm-up is the simpler default"),
    ),
    "width_multiplier": (Equal(("default:encoder.width_multiplier", "models.make_encoder(width_multiplier)")),),
    "zero_init_logits_layer": (
        Nothing("a classifier that is fine-tuned always starts at zero, as in the README's recipes"),
    ),
}
TABLE = {
    "tf1": {
        **BOTH,
        "train_summary_steps": (Different("default:train.log_every_steps", 50, "a line of numbers is cheap"),),
        "variable_schema": (Nothing("the reference's default is not a valid regular expression; see checkpoint"),),
        "weight_decay": (
            Equal(
                (
                    "default:optimizer.weight_decay",
                    "imagenet_v2:optimizer.weight_decay",
                    "cifar10:optimizer.weight_decay",
                )
            ),
            Different("imagenet_resnet50:optimizer.weight_decay", 1e-6, "the first paper's value"),
        ),
    },
    "tf2": {
        **BOTH,
        "eval_steps": (Nothing("an evaluation always reads its whole split"),),
        "lineareval_while_pretraining": (
            Different("default:method.supervised_weight", 0.0, "kNN watches the training; 1.0 is the reference's loss"),
        ),
        "weight_decay": (
            Equal(("imagenet_resnet50:optimizer.weight_decay", "cifar10_resnet50:optimizer.weight_decay")),
            Different("default:optimizer.weight_decay", 1e-4, "TF1's default, and the README's recipes give it"),
        ),
    },
}

ROWS = [(release, flag, row) for release, table in TABLE.items() for flag, rows in table.items() for row in rows]


def ours_at(place: str) -> Any:
    """The value at `CONFIG:section.key` or the default at `module.function(argument)`."""
    if ":" in place:
        name, _, path = place.partition(":")
        value: Any = config_lib.load_file(name).to_dict()
        for part in path.split("."):
            value = value[part]
        return value
    match = re.fullmatch(r"([\w.]+)\.(\w+)\((\w+)\)", place)
    assert match, place
    module, function, argument = match.groups()
    return (
        inspect.signature(getattr(importlib.import_module(f"simclr_jax.{module}"), function))
        .parameters[argument]
        .default
    )


def rows_of(kind: type) -> list:
    return [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in ROWS if isinstance(row[2], kind)]


@pytest.mark.parametrize("release", TABLE)
def test_every_flag_of_the_reference_is_accounted_for(release):
    assert TABLE[release].keys() == DEFAULTS[release].keys()
    assert all(TABLE[release].values())


@pytest.mark.parametrize(("release", "flag", "row"), rows_of(Equal))
def test_a_default_equals_that_of_the_reference(release, flag, row):
    for place in row.places:
        assert ours_at(place) == DEFAULTS[release][flag], place


@pytest.mark.few(5)
@pytest.mark.parametrize(("release", "flag", "row"), rows_of(Translated))
def test_a_default_says_what_that_of_the_reference_says(release, flag, row):
    assert DEFAULTS[release][flag] == row.theirs
    for place in row.places:
        assert ours_at(place) == row.ours, place


@pytest.mark.parametrize(("release", "flag", "row"), rows_of(Different))
def test_a_deliberate_difference_is_still_one(release, flag, row):
    assert ours_at(row.place) == row.ours != DEFAULTS[release][flag]
    assert row.reason


def test_the_two_releases_differ_in_the_weight_decay_only():
    shared = DEFAULTS["tf1"].keys() & DEFAULTS["tf2"].keys()
    assert {name for name in shared if DEFAULTS["tf1"][name] != DEFAULTS["tf2"][name]} == {"weight_decay"}
    assert DEFAULTS["tf1"]["weight_decay"] == 1e-4 and DEFAULTS["tf2"]["weight_decay"] == 1e-6
