"""Features kept beside a run's results: the same ones come back, of this step and these data, or none."""

import json

import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.run import feature_store


def split(rows: int, fingerprint: str) -> data.ImageSet:
    images, sizes = np.zeros((rows, 2, 2, 3), np.uint8), np.full((rows, 2), 2, np.int32)
    return data.ImageSet(images, sizes, np.zeros(rows, np.int32), (), ("x",) * rows, fingerprint, ())


TRAIN, TEST = split(4, "a"), split(3, "b")
H = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


def test_what_is_kept_comes_back_for_its_step_and_data_alone(tmp_path):
    assert feature_store.load(tmp_path, step=7, train_set=TRAIN, test_set=TEST) is None
    assert feature_store.save(tmp_path, step=7, train=(H[:4], TRAIN), test=(H[4:], TEST))
    kept = feature_store.load(tmp_path, step=7, train_set=TRAIN, test_set=TEST)
    assert kept.step == 7
    np.testing.assert_array_equal(np.concatenate([kept.train_h, kept.test_h]), H)
    assert feature_store.load(tmp_path, step=8, train_set=TRAIN, test_set=TEST) is None
    assert feature_store.load(tmp_path, step=7, train_set=TRAIN, test_set=split(3, "c")) is None
    assert feature_store.save(tmp_path, step=9, train=(2 * H[:4], TRAIN), test=(H[4:], TEST))
    assert feature_store.load(tmp_path, step=7, train_set=TRAIN, test_set=TEST) is None
    np.testing.assert_array_equal(
        feature_store.load(tmp_path, step=9, train_set=TRAIN, test_set=TEST).train_h[0], 2 * H[0]
    )


@pytest.mark.parametrize("broken", ["meta.json", "train.npy"])
def test_damaged_features_are_taken_for_none(tmp_path, broken):
    feature_store.save(tmp_path, step=7, train=(H[:4], TRAIN), test=(H[4:], TEST))
    (tmp_path / "features" / broken).write_bytes(b"{")
    assert feature_store.load(tmp_path, step=7, train_set=TRAIN, test_set=TEST) is None


def test_too_many_are_not_kept_and_a_failed_write_leaves_the_old(tmp_path, monkeypatch):
    feature_store.save(tmp_path, step=7, train=(H[:4], TRAIN), test=(H[4:], TEST))
    monkeypatch.setattr(feature_store, "MAX_BYTES", 100)
    assert not feature_store.save(tmp_path, step=9, train=(H[:4], TRAIN), test=(H[4:], TEST))
    monkeypatch.undo()

    def full(*args, **how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(base.InputError, match="No space left"):
        feature_store.save(tmp_path, step=9, train=(H[:4], TRAIN), test=(H[4:], TEST))
    assert json.loads((tmp_path / "features" / "meta.json").read_text())["step"] == 7
