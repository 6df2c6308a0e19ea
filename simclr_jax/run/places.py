"""Features of the places of pictures: what the encoder has found where, before the mean over the picture is taken.

A place is one of the last group's pixels. Its feature, without the mean over places of all pictures, is projected on
the directions in which places differ most and divided by its length: two places are compared by one short product.
"""

from typing import Any, NamedTuple

import numpy as np

from simclr_jax import base, data
from simclr_jax.augment import eval_view
from simclr_jax.run import embedding as embedding_lib
from simclr_jax.run import encoder as encoder_lib
from simclr_jax.run import feature_file, loading, thumbnails

DEPTH = 32
_SAMPLE = 256


class Places(NamedTuple):
    """values: int8 [N, g, g, d], 127 times rows of length one; zeros for a picture that cannot be read now.

    crop: side of the central square that the places cover, as a share of the picture's shorter side.
    num_features: D, of which d directions are kept. kept: share of the places' variation that these have, in [0, 1].
    """

    values: np.ndarray
    crop: float
    num_features: int
    kept: float


def make_places(features: feature_file.Embedding, *, show: bool = False) -> Places:
    """The places of all pictures, by the encoder that made the features.

    Raises:
        base.InputError: that encoder or the pictures are not there any more, or it has a single place.
    """
    encoder = loading.reload(features.meta["encoder"], fingerprint=features.meta["fingerprint"])
    grid, width = encoder.place_shape()
    if grid < 2:
        raise base.InputError(
            f"Places need an encoder that keeps several of a picture; {encoder.source} has one, of {encoder.size} "
            "pixels. Use a larger image_size."
        )
    how = encoder.preparation(canvas_size=features.meta["canvas_size"])
    source = thumbnails.open_source(features)
    numbers = {name: number for number, name in enumerate(source.ids)}
    rows = np.asarray([numbers[name] for name in features.names if name in numbers], np.int64)
    batch_size = encoder_lib.rounded(min(64, len(rows)))
    encode = encoder.encode_places(how, batch_size)
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64))]
    maps = _run(_job(source, sample, how=how, encode=encode, batch_size=batch_size), show=False).features
    basis = _basis(np.asarray(maps, np.float64).reshape(-1, width))

    def compress(images: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        found = np.asarray(encode(images, sizes), np.float32)
        return _compress(found.reshape(-1, width), basis).reshape(len(found), -1)

    job = _job(source, rows, how=how, encode=compress, batch_size=batch_size)._replace(dtype="int8")
    found = _run(job, show=show)
    at = {str(name): row for row, name in enumerate(found.names)}
    values = np.zeros((len(features.names), grid, grid, basis.axes.shape[1]), np.int8)
    for row, name in enumerate(features.names):
        if name in at:
            values[row] = found.features[at[name]].reshape(values.shape[1:])
    crop = how.crop_fraction if how.is_pillow else eval_view.center_fraction(how.size)
    return Places(values, crop, width, basis.kept)


class _Basis(NamedTuple):
    """mean float64 [D], axes float64 [D, d], and the share of the variation that lies in the axes."""

    mean: np.ndarray
    axes: np.ndarray
    kept: float


def _basis(rows: np.ndarray) -> _Basis:
    mean = rows.mean(axis=0)
    centred = rows - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred)
    depth = min(DEPTH, rows.shape[1])
    kept = min(1.0, float(variances[::-1][:depth].sum() / max(variances.sum(), 1e-12)))
    return _Basis(mean, vectors[:, ::-1][:, :depth], kept)


def _compress(rows: np.ndarray, basis: _Basis) -> np.ndarray:
    short = (rows - basis.mean) @ basis.axes
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    return np.rint(127 * short / np.maximum(lengths, 1e-9)).astype(np.int8)


def _job(
    source: data.Pictures, rows: np.ndarray, *, how: Any, encode: embedding_lib.EncodeBatch, batch_size: int
) -> embedding_lib.Job:
    """Some pictures of a source, as a job of their own."""
    chosen = source._replace(
        ids=[source.ids[row] for row in rows],
        paths=[source.paths[row] for row in rows],
        read=lambda index: source.read(int(rows[index])),
    )
    return embedding_lib.Job(chosen, how, encode, batch_size, "float32", {})


def _run(job: embedding_lib.Job, *, show: bool) -> feature_file.Rows:
    return feature_file.Rows(*map(np.concatenate, zip(*embedding_lib.embed_parts(job, None, show=show), strict=True)))
