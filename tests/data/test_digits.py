"""The built-in digits against scikit-learn's own arrays."""

import numpy as np
from sklearn import datasets

from simclr_jax.data import digits


def test_digits_are_the_enlarged_originals_split_without_overlap():
    train, test = digits.load_digits("train"), digits.load_digits("test")
    assert train.images.shape == (1348, 32, 32, 3)
    assert test.images.shape == (449, 32, 32, 3)
    assert sorted(map(int, train.ids + test.ids)) == list(range(1797))
    original = datasets.load_digits()
    for part in (train, test):
        rows = [int(name) for name in part.ids]
        np.testing.assert_array_equal(part.labels, original.target[rows])
        np.testing.assert_allclose(part.images[:, ::4, ::4, 0] / 255 * 16, original.images[rows], atol=0.5 / 255 * 16)
        np.testing.assert_array_equal(part.images[:, 3::4, 3::4, 2], part.images[:, ::4, ::4, 0])
    assert train.class_names == tuple("0123456789")
    assert set(train.labels) == set(range(10))
    assert (train.images.max(), train.images.min()) == (255, 0)
    assert (train.sizes == 32).all()


def test_digits_are_the_same_every_time():
    assert digits.load_digits("test").fingerprint == digits.load_digits("test").fingerprint
    assert digits.load_digits("test").fingerprint != digits.load_digits("train").fingerprint
