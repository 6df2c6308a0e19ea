"""Losses without negatives that look at the dimensions of the projection: Barlow Twins and VICReg.

Their statistics are sums over the images of the global batch, so that spread over devices each [d, d] matrix is
reduced once and no projection is gathered.
"""

import jax
import jax.numpy as jnp

from simclr_jax.losses import inputs

Array = jax.Array


def _gram(a: Array, b: Array) -> Array:
    """[d, d]: the sum over rows of products of the columns of a and b [B, d]."""
    # Axis 0 of both is contracted as it lies: rows that are spread over devices are summed and not moved.
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def _sum_off_diagonal_squares(matrix: Array) -> Array:
    # Not the sum of all squares less that of the diagonal, which cancels.
    own = jnp.eye(matrix.shape[0], dtype=bool)
    return jnp.sum(jnp.square(jnp.where(own, 0.0, matrix)))


def barlow_twins(z: Array, *, redundancy_weight: float | Array = 0.0051) -> tuple[Array, dict[str, Array]]:
    """Barlow Twins: (loss, metrics), scalars of at least float32.

    Every dimension is standardised over the batch, view by view. C_ij is the correlation of dimension i in view 1 with
    dimension j in view 2; the loss is sum_i (C_ii - 1)^2 + weight * sum_{i != j} C_ij^2. It is a sum over the matrix,
    so it grows with d; embeddings that are all equal have C = 0 and the value d.

    Args:
        z: [B, 2, d] with B of at least 2, the projections before any normalisation. Meaningful from a few hundred rows.
        redundancy_weight: the paper's lambda.

    Returns:
        The loss, and {"invariance_loss", "redundancy_loss"}: its two sums, the second without its weight.

    Raises:
        InputError: z is not [B, 2, d] or B is 1.

    Reference: Zbontar et al. 2021 (arXiv 2103.03230), algorithm 1; BarlowTwins.forward of main.py in their code, whose
    standardisation is a BatchNorm without parameters (epsilon 1e-5, biased variance). Deliberate difference: their
    sum over processes is not differentiated through, which divides their gradient by the number of processes; this
    is the gradient of the loss of the global batch.

    Example:
        >>> z = jax.random.normal(key, (8, 2, 16))
        >>> loss, metrics = losses.barlow_twins(z)
        >>> round(float(losses.barlow_twins(jnp.ones((8, 2, 16)))[0]), 3)
        16.0
    """
    inputs.check_views(z, "barlow_twins", min_images=2)
    z = inputs.centre(inputs.wide(z))
    z = z * jax.lax.rsqrt(jnp.mean(jnp.square(z), axis=0, keepdims=True) + 1e-5)
    correlations = _gram(z[:, 0], z[:, 1]) / z.shape[0]
    invariance = jnp.sum(jnp.square(jnp.diagonal(correlations) - 1))
    redundancy = _sum_off_diagonal_squares(correlations)
    return invariance + redundancy_weight * redundancy, {
        "invariance_loss": invariance,
        "redundancy_loss": redundancy,
    }


def vicreg(
    z: Array,
    *,
    invariance_weight: float | Array = 25.0,
    variance_weight: float | Array = 25.0,
    covariance_weight: float | Array = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """VICReg: (loss, metrics), scalars of at least float32.

    The weighted sum of three terms. Invariance: the mean of (z1 - z2)^2 over images and dimensions. Variance: the mean
    over dimensions of max(0, 1 - standard deviation), averaged over both views. Covariance: the sum of the squared
    covariances of different dimensions over d, added over both views. Embeddings that are all equal have the value
    0.99 * variance_weight.

    Args:
        z: [B, 2, d] with B of at least 2, the projections; they are never normalised.
        invariance_weight: of the first term, lambda in the paper.
        variance_weight: of the second, mu.
        covariance_weight: of the third, nu.

    Returns:
        The loss, and {"invariance_loss", "variance_loss", "covariance_loss"}: the terms without their weights.

    Raises:
        InputError: z is not [B, 2, d] or B is 1.

    Reference: Bardes et al. 2022 (arXiv 2105.04906), equations 1 to 6; VICReg.forward of main_vicreg.py in their code,
    with its half in front of the variance term, which the paper's formula and some other codes do not have: they weigh
    it twice as much. Variance and covariance have B - 1; 1e-4 stands below the root.

    Example:
        >>> z = jax.random.normal(key, (8, 2, 16))
        >>> loss, metrics = losses.vicreg(z)
        >>> round(float(losses.vicreg(jnp.ones((8, 2, 16)))[0]), 3)
        24.75
    """
    inputs.check_views(z, "vicreg", min_images=2)
    z = inputs.wide(z)
    invariance = jnp.mean(jnp.square(z[:, 0] - z[:, 1]))
    z = inputs.centre(z)
    deviations = jnp.sqrt(jnp.sum(jnp.square(z), axis=0) / (z.shape[0] - 1) + 1e-4)
    variance = jnp.mean(jnp.maximum(1 - deviations, 0))
    first, second = (_sum_off_diagonal_squares(_gram(view, view) / (len(z) - 1)) for view in (z[:, 0], z[:, 1]))
    covariance = (first + second) / z.shape[2]
    loss = invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
    return loss, {"invariance_loss": invariance, "variance_loss": variance, "covariance_loss": covariance}
