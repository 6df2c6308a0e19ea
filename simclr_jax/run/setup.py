"""From a config to a run that is ready to train: its data, its input pipeline and its program."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from simclr_jax import base, data, optim, probes
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import (
    features,
    health,
    identity,
    image_text,
    input_pipeline,
    progress,
    splits,
    texts,
    training_loop,
)
from simclr_jax.run import program as program_lib


def make_run(
    config: Mapping[str, Any], *, skip_nonfinite: bool = False, tokenizer: str | None = None
) -> training_loop.Run:
    """Reads the data and hands every section of the config to the function that it documents.

    `skip_nonfinite`: see `train_step.skip_nonfinite`. `tokenizer`: what a run that goes on has kept, see `texts`.

    Raises:
        base.InputError: a value of the config is not valid, or the data cannot be read.
    """
    settings = training_loop.check_settings(config_lib.call(training_loop.LoopSettings, config, "train"))
    probe = config_lib.call(probes.make_settings, config, "probe")
    mesh = sharding.make_mesh()
    seed = _checked_seed(config)
    program_lib.check_sections(config, mesh)
    input_pipeline.check_config(config, steps_per_dispatch=settings.steps_per_dispatch)
    source, train_set, test_set = _load_splits(config, settings, listed=_read_label_list(config))
    train_set, content = texts.with_tokens(config, train_set, kept=tokenizer)
    rows = _make_feed(config, settings, train_set=train_set, mesh=mesh)
    crops = _shape_of_crops(config) if rows.is_cut else None
    program = program_lib.make_program(
        config,
        mesh,
        shape=program_lib.data_shape(train_set, is_streamed=rows.source_is_rows, crops=crops),
        steps_per_dispatch=settings.steps_per_dispatch,
        seed=seed,
        skip_nonfinite=skip_nonfinite,
    )
    encode = features.make_encode(program.encoder, **features.evaluation_settings(config))
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
        encode=encode,
        measure=health.make_measure(config, program.encoder, mesh, train_set=train_set, encode=encode),
        num_steps=program.num_steps,
        tokenizer=content,
        measure_recall=_make_measure_recall(config, mesh, train_set=train_set, tokenizer=content, encode=encode),
    )


def _shape_of_crops(config: Mapping[str, Any]) -> tuple[int, int, int]:
    views, size = config["augment"]["num_views"], config["augment"]["image_size"]
    return views, size, size


def _make_measure_recall(
    config: Mapping[str, Any], mesh: Mesh, *, train_set: data.ImageSet, tokenizer: str, encode: features.EncodeFn
) -> image_text.MeasureRecall | None:
    """The measurement on the test split of a run that reads texts; None for others and without such a split."""
    if not tokenizer or config["train"]["evaluate_every_epochs"] <= 0:
        return None
    if not config_lib.call(data.has_split, config, "data", split=config["split"]["test"]):
        progress.say("No recall while training: the test split has no images.")
        return None
    test_set = splits.load_split(config, "test", like=train_set)
    return image_text.make_measure_recall(config, mesh, test_set=test_set, tokenizer=tokenizer, encode=encode)


def _make_feed(
    config: Mapping[str, Any], settings: training_loop.LoopSettings, *, train_set: data.ImageSet, mesh: Mesh
) -> input_pipeline.Feed:
    feed = config_lib.call(input_pipeline.make_settings, config, "feed")
    shape = settings.steps_per_dispatch, settings.batch_size
    if not data.is_encoded(train_set):
        return input_pipeline.make_feed(
            train_set,
            mesh,
            seed=config["seed"],
            shape=shape,
            max_resident_gigabytes=settings.max_resident_gigabytes,
            kind=feed.kind,
        )
    input_pipeline.check_steps(settings.steps_per_dispatch)  # of feed.kind auto, which the data have just decided
    sizes = program_lib.run_length(config, num_examples=data.epoch_size(train_set))
    return input_pipeline.make_streamed_feed(
        train_set,
        mesh,
        input_pipeline.make_cuts(config),
        settings=feed.workers,
        batch_size=settings.batch_size,
        num_steps=optim.num_train_steps(**sizes),
        max_corrupt_fraction=config["data"]["max_corrupt_fraction"],
    )


def _checked_seed(config: Mapping[str, Any]) -> int:
    seed = config.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise base.InputError(f"seed must be a whole number from 0 to 2**32 - 1; got {seed}. Use 0.")
    return seed


def _load_splits(
    config: Mapping[str, Any], settings: training_loop.LoopSettings, *, listed: list[str] | None
) -> tuple[identity.Data, data.ImageSet, data.ImageSet | None]:
    """What the run keeps about its data, the images to train on, and the test split if kNN runs while training."""
    train_set = splits.load_split(config, "train")
    source = identity.describe(config["data"]["name"], train_set)
    train_set = _labelled_part(config, train_set, listed=listed)
    most = min(len(train_set.images), data.epoch_size(train_set))
    if settings.batch_size > most:
        raise base.InputError(
            f"train.batch_size must be at most the number of training images; got {settings.batch_size} and {most}. An "
            "image met twice in a batch would be its own negative."
        )
    return source, train_set, _load_test_split(config, train_set) if settings.evaluate_every_epochs > 0 else None


def _labelled_part(config: Mapping[str, Any], train_set: data.ImageSet, *, listed: list[str] | None) -> data.ImageSet:
    """The images that training with labels uses, all of the split for other methods."""
    fraction = config["split"]["label_fraction"]
    if fraction is None and listed is None and config["method"]["name"] != "supervised":
        return train_set
    if listed is not None:
        train_set = data.subset(train_set, probes.rows_by_name(train_set.ids, listed))
    rows = probes.rows_to_train(train_set.labels, class_names=train_set.class_names, fraction=fraction)
    return train_set if len(rows) == len(train_set.images) else data.subset(train_set, rows)


def _read_label_list(config: Mapping[str, Any]) -> list[str] | None:
    """The names of the images with labels, None where no file lists them."""
    path = config["split"]["label_list"]
    if path is None:
        return None
    if config["split"]["label_fraction"] is not None:
        raise base.InputError(
            "split.label_fraction and split.label_list both choose the labelled images; got both. Leave out one."
        )
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise base.InputError(
            f"split.label_list must be a text file with a file name a line; {path}: {base.one_line(reason, 80)}."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _load_test_split(config: Mapping[str, Any], train_set: data.ImageSet) -> data.ImageSet | None:
    """The test split, if kNN between the two can measure anything; None for data without labels."""
    labels, class_names = train_set.labels, train_set.class_names
    test_set = None
    split = config["split"]["test"]
    if texts.reads_texts(config):
        return None  # pairs have no labels; recall is measured in place of kNN
    if (labels >= 0).any() and config_lib.call(data.has_split, config, "data", split=split):
        test_set = splits.load_split(config, "test", like=train_set)
    why = probes.why_no_probe(labels, None if test_set is None else test_set.labels, class_names=class_names)
    if why is not None or test_set is None:
        progress.say(f"No kNN while training: {why}.")
        return None
    for line in probes.cautions(labels, test_set.labels, class_names=class_names):
        progress.say(line)
    return test_set
