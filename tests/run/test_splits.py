"""Both splits of a run's data, whatever is labelled and whatever is there."""

import numpy as np
import pytest

from simclr_jax import data
from simclr_jax.run import splits

CONFIG = {
    "data": {"name": "digits"},
    "split": {"train": "train", "test": "test"},
    "feed": {"kind": "auto"},
    "augment": {"image_size": 8},
    "train": {"max_resident_gigabytes": None},
}


def image_set(labels, *, names=("ant", "bee"), start=0, fingerprint="a"):
    count = len(labels)
    return data.ImageSet(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        sizes=np.full((count, 2), 8, np.int32),
        labels=np.asarray(labels, np.int32),
        class_names=names,
        ids=tuple(str(start + row) for row in range(count)),
        fingerprint=fingerprint,
        skipped=(),
    )


@pytest.fixture
def load(monkeypatch):
    """Loads the two given sets in place of those that the config names."""

    def load(train_set, test_set, *, name="digits"):
        sets = {"train": train_set, "test": test_set}
        monkeypatch.setattr(data, "load_split", lambda name, split, stream_above: sets[split])
        monkeypatch.setattr(data, "has_split", lambda name, split: len(sets[split].images) > 0)
        return splits.load({**CONFIG, "data": {"name": name}})

    return load


def test_a_test_split_without_images_is_none_and_no_probe_runs(load):
    both = load(image_set([0, 1]), image_set([], fingerprint="b"))
    assert both.test_set is None
    assert splits.why_no_probe(both) == "the test split has no images"


def test_a_test_split_that_is_the_training_split_is_no_test(load):
    both = load(image_set([0, 1]), image_set([0, 1]))
    assert both.is_same and "the training images themselves" in splits.why_no_probe(both)


def test_test_images_that_were_trained_on_are_counted_where_names_tell(load):
    train_set, test_set = image_set([0, 1] * 20), image_set([0, 1] * 20, start=30, fingerprint="b")
    both = load(train_set, test_set)
    assert splits.why_no_probe(both) is None
    assert splits.cautions(both) == ["10 of 40 test images are training images too and find themselves."]
    assert splits.shared_images(both) == splits.cautions(both)  # said without labels, too
    assert splits.cautions(load(train_set, test_set, name="tfds:x")) == []


def test_digits_have_two_splits_that_share_no_image():
    both = splits.load(CONFIG)
    assert both.test_set is not None and not both.is_same and not both.num_shared
    assert splits.why_no_probe(both) is None and splits.cautions(both) == []
