"""Features that need no training: raw pixels and colour histograms. A representation has to beat these to be of use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Rows of one slice when images are turned to float: bounds memory on large sets.
_SLICE = 4096
_MAX_SIDE = 32


def small_images(images: np.ndarray) -> np.ndarray:
    """What `pixel_features` and `near_duplicates` keep of images: float32 [N, h, w, 3] in [-0.5, 0.5], 32x32 at most.

    Batch by batch this takes 12 kB an image of any size, where the crops of a large set would not fit.

    Args:
        images: uint8 [N, H, W, 3]. With a side above 32 px they are reduced to 32x32 by area averaging.

    Example:
        >>> probes.small_images(np.zeros((2, 64, 64, 3), np.uint8)).shape
        (2, 32, 32, 3)
    """
    height, width = images.shape[1:3]
    shrink = max(height, width) > _MAX_SIDE
    small = images.astype(np.float32) / np.float32(255.0) - np.float32(0.5)
    if shrink:
        small = np.einsum("ih,nhwc->niwc", _averaging_matrix(height, _MAX_SIDE), small, optimize=True)
        small = np.einsum("jw,niwc->nijc", _averaging_matrix(width, _MAX_SIDE), small, optimize=True)
        # Equal channels stay equal to the bit, by which grey images are told.
        small = np.where(_grey(images)[:, None, None, None], small[..., :1], small)
    return small


def pixel_features(images: np.ndarray) -> np.ndarray:
    """The pixels as features: float32 [N, h*w*3] in [-0.5, 0.5], or [N, h*w] if every image is grey.

    Images with a side above 32 px are reduced to 32x32 by area averaging. Mid-grey is 0, so that the cosine between
    two images is not ruled by their common brightness.

    Args:
        images: uint8 [N, H, W, 3], evaluation views (no padding), or what `small_images` kept of them.

    Example:
        >>> probes.pixel_features(np.zeros((2, 4, 4, 3), np.uint8)).shape
        (2, 16)
    """
    if images.dtype == np.uint8:
        parts = [small_images(images[start : start + _SLICE]) for start in range(0, len(images), _SLICE)]
        images = np.concatenate(parts) if parts else images.astype(np.float32)
    if _is_grey(images):
        images = images[..., :1]
    return images.reshape(len(images), int(np.prod(images.shape[1:])))


def histogram_features(images: np.ndarray, *, bins: int = 32) -> np.ndarray:
    """How often each brightness occurs: float32 [N, bins] if every image is grey, else [N, 3 * bins].

    One histogram per channel, normalised to sum 1 over the row, then the square root, so that the cosine of two rows
    is the Bhattacharyya coefficient of their histograms (the Hellinger kernel).

    Args:
        images: uint8 [N, H, W, 3], evaluation views (no padding).
        bins: equal bins over 0..255, in [1, 256].

    Example:
        >>> probes.histogram_features(np.zeros((2, 4, 4, 3), np.uint8)).shape
        (2, 32)
    """
    images = images[..., :1] if _is_grey(images) else images
    channels = images.shape[-1]
    features = np.empty((len(images), channels * bins), np.float32)
    for start in range(0, len(images), _SLICE):
        part = images[start : start + _SLICE]
        cells = part.reshape(len(part), -1, channels).astype(np.int64) * bins // 256
        cells += np.arange(channels) * bins + np.arange(len(part))[:, None, None] * (channels * bins)
        counts = np.bincount(cells.ravel(), minlength=len(part) * channels * bins).reshape(len(part), -1)
        features[start : start + _SLICE] = np.sqrt(counts / cells[0].size)
    return features


def reduce_by_pca(
    train_features: np.ndarray, test_features: np.ndarray, *, num_components: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays projected on the leading principal components of the training rows: float32 [N, p], [M, p].

    p = min(num_components, N, D). Fitted on at most 10,000 evenly spaced training rows, without labels; found by
    subspace iteration from a fixed start, which is exact for the leading components and approximate for the last few.

    Reference: Halko, Martinsson, Tropp 2011, algorithm 4.4, with 8 iterations and 20 extra directions.

    Example:
        >>> train, test = probes.reduce_by_pca(np.eye(6), np.eye(6), num_components=2)
        >>> train.shape, test.shape
        ((6, 2), (6, 2))
    """
    mean = train_features.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample = train_features[:: -(-len(train_features) // 10_000)] - mean
    width = min(num_components + 20, *sample.shape)
    start = np.random.Philox(key=np.array([0, 0], np.uint64)).random_raw(sample.shape[1] * width)
    start = (start.reshape(-1, width) / 2.0**64 - 0.5).astype(np.float32)
    components = np.asarray(_principal_directions(jnp.asarray(sample), jnp.asarray(start)))[:, :num_components]
    return (train_features - mean) @ components, (test_features - mean) @ components


@jax.jit
def _principal_directions(sample: jax.Array, start: jax.Array) -> jax.Array:
    """Orthonormal columns [D, p] that span the leading directions of the rows of `sample`, largest variance first."""
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def iterate(_: int, basis: jax.Array) -> jax.Array:
        return jnp.linalg.qr(matmul(sample.T, matmul(sample, basis)))[0]

    basis = jax.lax.fori_loop(0, 8, iterate, start)
    # Within the subspace found, the components proper: eigenvectors of its covariance, ascending.
    projected = matmul(sample, basis)
    return matmul(basis, jnp.linalg.eigh(matmul(projected.T, projected))[1][:, ::-1])


def _is_grey(images: np.ndarray) -> bool:
    return all(_grey(images[start : start + _SLICE]).all() for start in range(0, len(images), _SLICE))


def _grey(images: np.ndarray) -> np.ndarray:
    """bool [N]: whether an image has three equal channels."""
    return (images[..., :1] == images).all(axis=(1, 2, 3))


def _averaging_matrix(size: int, out_size: int) -> np.ndarray:
    """float32 [out_size, size], rows sum to 1: output pixel i is the mean over [i, i + 1) * size / out_size."""
    edges = np.arange(out_size + 1) * (size / out_size)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)[None]
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return (np.clip(overlap, 0, None) * (out_size / size)).astype(np.float32)
