"""The one entry: names, splits and settings."""

import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.data import folder, sources
from tests.data import test_streaming


@pytest.mark.parametrize("name", [name for name, row in sources.DATASETS.items() if row.load])
def test_built_in_sets_keep_the_promises_of_an_image_set(name):
    for split in sources.DATASETS[name].splits:
        loaded = data.load_split(name, split)
        count = len(loaded.ids)
        assert loaded.images.dtype == np.uint8
        assert loaded.images.shape[0] == loaded.labels.shape[0] == count
        assert loaded.sizes.shape == (count, 2)
        assert loaded.sizes.dtype == loaded.labels.dtype == np.int32
        assert set(loaded.labels) == set(range(len(loaded.class_names)))
        assert loaded.skipped == ()
        assert data.load_split(name, split, canvas_size=32).fingerprint == loaded.fingerprint


@pytest.mark.parametrize(
    "name", ["", "mnist", "digit", "digits:", "digits:x", "folder", "tfds", "Folder:x", "http://x", ":"]
)
def test_an_unknown_name_lists_the_valid_forms(name):
    with pytest.raises(
        base.InputError,
        match=r"photo-patches, digits, tfds:NAME\[/CONFIG\], folder:PATH, pairs:FILE\.csv\|\.parquet\|FOLDER"
        r"\|SHARDS\.tar, mix:SET\*WEIGHT,SET\*WEIGHT; got",
    ) as caught:
        data.load_split(name, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "valid"),
    [
        ("digits", "val", "train, test"),
        ("photo-patches", "all", "train, test"),
        ("folder:.", "val", "train, test, all"),
    ],
)
def test_an_unknown_split_lists_the_valid_ones(name, split, valid):
    with pytest.raises(base.InputError, match=f"must be one of {valid}; got '{split}'"):
        data.load_split(name, split)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"canvas_size": 4}, "canvas_size must be a whole number of pixels"),
        ({"canvas_size": 64}, "canvas_size applies to tfds and folder sets"),
        ({"max_corrupt_fraction": -0.1}, "max_corrupt_fraction must be a share from 0 to 1"),
        ({"max_corrupt_fraction": 10}, "max_corrupt_fraction must be a share from 0 to 1"),
        ({"max_corrupt_fraction": float("nan")}, "max_corrupt_fraction must be a share from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(base.InputError, match=message):
        data.load_split("digits", "train", **settings)


def test_a_cached_split_is_opened_without_reading_its_files(tmp_path, monkeypatch):
    test_streaming.write_pictures(tmp_path / "set")
    reads, fetch = [], folder._fetch
    monkeypatch.setattr(folder, "_fetch", lambda place, rules: (reads.append(place), fetch(place, rules))[1])

    def load(stream_above):
        reads.clear()
        how = {"cache_dir": tmp_path / "cache", "progress": False}
        loaded = data.load_split(f"folder:{tmp_path / 'set'}", "all", stream_above=stream_above, **how)
        return len(reads), data.is_encoded(loaded)

    side = 30 + test_streaming.COUNT - 1  # the longest, known once all files are read
    in_question = 3 * side**2 * test_streaming.COUNT
    assert load(np.inf)[0] == 2 * test_streaming.COUNT
    assert load(np.inf) == load(3 * 256**2 * test_streaming.COUNT) == (0, False)
    assert load(in_question) == (test_streaming.COUNT, False)
    assert load(in_question - 1) == (test_streaming.COUNT, True)
    assert load(-1) == (0, True)
