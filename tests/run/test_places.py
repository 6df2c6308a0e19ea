"""Features of places: their mean is the representation, and short products are the cosines of long ones."""

import dataclasses

import numpy as np
import pytest

from simclr_jax import base, data
from simclr_jax.run import embedding, feature_file, loading, places


@pytest.fixture(scope="module")
def encoder(small_run):
    """The small network, at a size that leaves 2 x 2 places."""
    return dataclasses.replace(loading.load(small_run), size=16)


@pytest.fixture(scope="module")
def features(encoder):
    """Of three digits, the last of which cannot be found any more."""
    found = feature_file.take(encoder.embed("digits", split="test"), [5, 2, 9])
    return found._replace(names=(*found.names[:2], "gone"))


@pytest.mark.slow
def test_the_mean_over_places_is_the_representation(encoder):
    images = data.load_split("digits", "test").images[:6]
    how = encoder.preparation()
    stacked, sizes = embedding.stack(list(images), num_rows=6), np.full((6, 2), 32, np.int32)
    grid, width = encoder.place_shape()
    maps = np.asarray(encoder.encode_places(how, 6)(stacked, sizes)).reshape(6, grid * grid, width)
    np.testing.assert_allclose(maps.mean(axis=1), encoder(images), atol=1e-5)


def test_compressed_places_keep_the_cosines_of_places_without_their_mean():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 50)) + 4  # of 12 directions: nothing is lost
    basis = places._basis(hidden)
    assert basis.axes.shape == (50, 32) and basis.kept == pytest.approx(1)
    short = places._compress(hidden, basis).astype(np.float64)
    centred = hidden - hidden.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(short @ short.T / 127**2, unit @ unit.T, atol=0.03)  # int8 in 32 directions


@pytest.mark.slow
def test_places_of_embedded_pictures_stand_in_their_order_and_lost_ones_are_zero(encoder, features, monkeypatch):
    monkeypatch.setattr(places, "DEPTH", 4)
    found = places.make_places(features)
    grid, width = encoder.place_shape()
    assert found.values.shape == (3, grid, grid, 4) and found.values.dtype == np.int8
    assert found.num_features == width and 0 < found.kept <= 1 and found.crop == 1.0
    assert found.values[:2].any(axis=-1).all() and not found.values[2].any()
    again = places.make_places(features._replace(names=(*features.names[1::-1], "gone")))
    similar = [
        np.einsum("...d,...d", part[0].astype(int), part[1].astype(int)) for part in (found.values, again.values)
    ]
    np.testing.assert_allclose(similar[0], similar[1], atol=1)


@pytest.mark.slow
def test_an_encoder_that_has_changed_or_sees_a_single_place_is_a_mistake(features):
    with pytest.raises(base.InputError, match="have changed since"):
        places.make_places(features._replace(meta={**features.meta, "fingerprint": "0"}))
    small = {**features.meta["encoder"], "size": 1}
    with pytest.raises(base.InputError, match="has one, of 1 pixel"):
        places.make_places(features._replace(meta={**features.meta, "encoder": small}))
