"""Both splits of a run's data for evaluate and report: either may be unlabelled, the test split absent."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from simclr_jax import data, probes
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import input_pipeline


class Splits(NamedTuple):
    """train_set: at least one image. test_set: None if the data hold no image in that split.

    is_same: the test split is the training split, so that every test image would find itself.
    num_shared: test images that are training images too.
    """

    train_set: data.ImageSet
    test_set: data.ImageSet | None
    is_same: bool
    num_shared: int


def load_split(config: Mapping[str, Any], which: str, *, like: data.ImageSet | None = None) -> data.ImageSet:
    """The split `config["split"][which]`, decoded, or encoded where the config's section `feed` streams it.

    `like` is the training split, whose way the others take whatever their own size.

    Raises:
        base.InputError: data that are missing or cannot be read; see `data.load_split`.
    """
    way_of_train = math.inf if like is None or not data.is_encoded(like) else -1.0
    above = way_of_train
    if like is None:
        above = input_pipeline.stream_above(config, device_bytes=sharding.device_memory_bytes())
    return config_lib.call(data.load_split, config, "data", split=config["split"][which], stream_above=above)


def load(config: Mapping[str, Any]) -> Splits:
    """Both splits that the config's sections `data` and `split` name.

    Raises:
        base.InputError: data that are missing or cannot be read; see `data.load_split`.
    """
    train_set = load_split(config, "train")
    if not config_lib.call(data.has_split, config, "data", split=config["split"]["test"]):
        return Splits(train_set, None, is_same=False, num_shared=0)
    test_set = load_split(config, "test", like=train_set)
    is_same = test_set.fingerprint == train_set.fingerprint
    names_tell = data.ids_tell_images(config["data"]["name"])
    num_shared = len(set(train_set.ids) & set(test_set.ids)) if names_tell else 0
    return Splits(train_set, test_set, is_same, num_shared)


def why_no_probe(splits: Splits) -> str | None:
    """Why no probe can measure anything on these splits, as a clause; None where one can: `probes.why_no_probe`."""
    train_set, test_set = splits.train_set, splits.test_set
    test_labels = None if test_set is None else test_set.labels
    reason = probes.why_no_probe(train_set.labels, test_labels, class_names=train_set.class_names)
    return "the test split holds the training images themselves" if splits.is_same and reason is None else reason


def cautions(splits: Splits) -> list[str]:
    """Sentences to show beside scores on these splits; see `probes.cautions`. A test split is there and labelled."""
    train_set, test_set = splits.train_set, splits.test_set
    assert test_set is not None
    said = probes.cautions(train_set.labels, test_set.labels, class_names=train_set.class_names)
    return [*said, *shared_images(splits)]


def shared_images(splits: Splits) -> list[str]:
    """A sentence on test images that are training images, where the split is not the same anyway."""
    if splits.test_set is None or splits.is_same or not splits.num_shared:
        return []
    total = len(splits.test_set.ids)
    return [f"{splits.num_shared} of {total} test images are training images too and find themselves."]
