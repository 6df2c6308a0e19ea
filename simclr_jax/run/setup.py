"""From a config to a run that is ready to train: its data, its input pipeline and its program."""

from collections.abc import Mapping
from typing import Any

from simclr_jax import base, data, probes
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, identity, input_pipeline, progress, training_loop
from simclr_jax.run import program as program_lib


def make_run(config: Mapping[str, Any]) -> training_loop.Run:
    """Reads the data and hands every section of the config to the function that it documents.

    Raises:
        base.InputError: a value of the config is not valid, or the data cannot be read.
    """
    settings = training_loop.check_settings(config_lib.call(training_loop.LoopSettings, config, "train"))
    probe = config_lib.call(probes.make_settings, config, "probe")
    mesh = sharding.make_mesh()
    seed = _checked_seed(config)
    program_lib.check_sections(config, mesh)
    source, train_set, test_set = _load_splits(config, settings)
    shape, budget = (settings.steps_per_dispatch, settings.batch_size), settings.max_resident_gigabytes
    rows = input_pipeline.make_feed(train_set, mesh, seed=seed, shape=shape, max_resident_gigabytes=budget)
    program = program_lib.make_program(
        config,
        mesh,
        shape=program_lib.data_shape(train_set, is_streamed=rows.source_is_rows),
        steps_per_dispatch=settings.steps_per_dispatch,
        seed=seed,
    )
    return training_loop.Run(
        config=config,
        mesh=mesh,
        source=source,
        train_set=train_set,
        test_set=test_set,
        feed=rows,
        probe=probe,
        init=program.init,
        placement=program.placement,
        settings=settings,
        train_steps=program.train_steps,
        encode=features.make_encode(program.encoder, **features.evaluation_settings(config)),
        num_steps=program.num_steps,
    )


def _checked_seed(config: Mapping[str, Any]) -> int:
    seed = config.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise base.InputError(f"seed must be a whole number from 0 to 2**32 - 1; got {seed}. Use 0.")
    return seed


def _load_splits(
    config: Mapping[str, Any], settings: training_loop.LoopSettings
) -> tuple[identity.Data, data.ImageSet, data.ImageSet | None]:
    """What the run keeps about its data, the images to train on, and the test split if kNN runs while training."""
    train_set = config_lib.call(data.load_split, config, "data", split=config["split"]["train"])
    source = identity.describe(config["data"]["name"], train_set)
    fraction = config["split"]["label_fraction"]
    if fraction is not None or config["method"]["name"] == "supervised":
        rows = probes.rows_to_train(train_set.labels, class_names=train_set.class_names, fraction=fraction)
        train_set = train_set if len(rows) == len(train_set.images) else data.subset(train_set, rows)
    if settings.batch_size > len(train_set.images):
        raise base.InputError(
            f"train.batch_size must be at most the number of training images; got {settings.batch_size} and "
            f"{len(train_set.images)}. An image met twice in a batch would be its own negative."
        )
    return source, train_set, _load_test_split(config, train_set) if settings.evaluate_every_epochs > 0 else None


def _load_test_split(config: Mapping[str, Any], train_set: data.ImageSet) -> data.ImageSet | None:
    """The test split, if kNN between the two can measure anything; None for data without labels."""
    labels, class_names = train_set.labels, train_set.class_names
    test_set = None
    split = config["split"]["test"]
    if (labels >= 0).any() and config_lib.call(data.has_split, config, "data", split=split):
        test_set = config_lib.call(data.load_split, config, "data", split=split)
    why = probes.why_no_probe(labels, None if test_set is None else test_set.labels, class_names=class_names)
    if why is not None or test_set is None:
        progress.say(f"No kNN while training: {why}.")
        return None
    for line in probes.cautions(labels, test_set.labels, class_names=class_names):
        progress.say(line)
    return test_set
