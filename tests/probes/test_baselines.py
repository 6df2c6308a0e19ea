"""Pixel and histogram features, PCA."""

import numpy as np
import pytest
from sklearn import decomposition

from simclr_jax import probes


def _images(count=6, side=8, seed=0, grey=False):
    channels = 1 if grey else 3
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)
    return np.repeat(images, 3, axis=-1) if grey else images


def test_pixel_features_are_the_pixels_around_mid_grey():
    images = _images()
    expected = images.reshape(6, -1).astype(np.float64) / 255 - 0.5
    np.testing.assert_allclose(probes.pixel_features(images), expected, atol=1e-6)


def test_pixel_features_keep_one_channel_of_grey_images():
    images = _images(grey=True)
    features = probes.pixel_features(images)
    assert features.shape == (6, 64)
    assert features.dtype == np.float32


@pytest.mark.parametrize("side", [64, 80, 100])
def test_pixel_features_average_the_area_of_large_images(side):
    images = _images(count=2, side=side)
    features = probes.pixel_features(images).reshape(2, 32, 32, 3)
    # Loops over output pixels: an input pixel counts by the part of it that lies in the output pixel.
    ratio = side / 32
    for row, column in ((0, 0), (5, 17), (31, 31)):
        total = np.zeros(3)
        for y in range(side):
            for x in range(side):
                high = max(0.0, min(y + 1, (row + 1) * ratio) - max(y, row * ratio))
                wide = max(0.0, min(x + 1, (column + 1) * ratio) - max(x, column * ratio))
                total += high * wide * images[1, y, x]
        np.testing.assert_allclose(features[1, row, column], total / ratio**2 / 255 - 0.5, atol=2e-6)


@pytest.mark.parametrize("grey", [True, False])
def test_histogram_features_are_roots_of_numpys_histograms(grey):
    images = _images(grey=grey)
    features = probes.histogram_features(images, bins=10)
    channels = 1 if grey else 3
    assert features.shape == (6, 10 * channels)
    edges = np.linspace(0, 256, 11)
    for image, feature in zip(images, features, strict=True):
        counts = np.concatenate([np.histogram(image[..., c], edges)[0] for c in range(channels)])
        np.testing.assert_allclose(feature, np.sqrt(counts / counts.sum()), atol=1e-6)


def test_histogram_features_have_length_one():
    np.testing.assert_allclose(np.linalg.norm(probes.histogram_features(_images()), axis=1), 1.0, atol=1e-6)


def test_pca_finds_the_variances_of_scikit_learn():
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(400, 200)) @ (rng.normal(size=(200, 200)) * np.logspace(0, -2, 200))).astype(np.float32)
    train, test = probes.reduce_by_pca(data[:300], data[300:], num_components=20)
    reference = decomposition.PCA(20, svd_solver="full").fit(data[:300].astype(np.float64))
    # Components are found up to their sign; the last few approximately.
    np.testing.assert_allclose(train.var(axis=0, ddof=1), reference.explained_variance_, rtol=1e-3)
    np.testing.assert_allclose(np.abs(test[:, :5]), np.abs(reference.transform(data[300:])[:, :5]), rtol=0, atol=2e-2)


def test_pca_never_has_more_components_than_rows_or_columns():
    data = np.random.default_rng(0).normal(size=(7, 30)).astype(np.float32)
    assert probes.reduce_by_pca(data, data[:2])[1].shape == (2, 7)
