"""Losses of methods without negatives that predict one view's target from the other view: BYOL and SimSiam.

Inputs are outputs of the GLOBAL batch, images on axis 0 and the two views on axis 1; computation is in float32 (float64
stays float64). Targets are constants: no gradient reaches them.
"""

import jax
import jax.numpy as jnp

from simclr_jax.losses import inputs

Array = jax.Array


def projection_spread(z: Array) -> Array:
    """How far unit vectors are spread: the mean over d of their standard deviations over images, times sqrt(d).

    1 for directions that are all equally likely, 0 where all images have one embedding: what tells a collapse in
    methods whose loss does not.

    Args:
        z: [B, V, d], before normalisation.

    Reference: SimSiam section 4.1, whose figure shows it without sqrt(d). Deliberate difference: the deviations are
    those of every view by itself.

    Example:
        >>> float(losses.projection_spread(jnp.ones((4, 2, 8))))
        0.0
    """
    u = jax.lax.stop_gradient(inputs.unit_rows(z))
    deviations = jnp.sqrt(jnp.mean(jnp.square(inputs.centre(u)), axis=0))
    return jnp.mean(deviations) * z.shape[-1] ** 0.5


def _crossed_cosines(predictions: Array, targets: Array) -> Array:
    """[B, 2]: cosines of the prediction of view 1 with the target of view 2, and the other way round."""
    targets = jax.lax.stop_gradient(inputs.unit_rows(targets))
    return jnp.sum(inputs.unit_rows(predictions) * targets[:, ::-1], axis=-1)


def byol(predictions: Array, targets: Array) -> tuple[Array, dict[str, Array]]:
    """BYOL's loss: (loss, metrics), scalars of at least float32.

    The mean over images of |u(p1) - u(z2)|^2 + |u(p2) - u(z1)|^2, u = unit vectors: from 0 to 8. Embeddings that are
    all equal give 0, so the loss does not tell a collapse; "projection_spread" does.

    Args:
        predictions: [B, 2, d], of the online network for views 1 and 2.
        targets: [B, 2, d], projections of the target network.

    Returns:
        The loss, and {"projection_spread": of the targets, see `projection_spread`}.

    Raises:
        InputError: the arrays are not [B, 2, d].

    Reference: Grill et al. 2020 (arXiv 2006.07733), equation 2 and its symmetric form; regression_loss in
    byol/utils/helpers.py of deepmind-research. A prediction of exact zeros counts 1, with a finite gradient.

    Example:
        >>> z = jax.random.normal(key, (4, 2, 8))
        >>> float(losses.byol(z[:, ::-1], z)[0]) < 1e-5
        True
    """
    inputs.check_pair(predictions, targets, "byol")
    u, v = inputs.unit_rows(predictions), jax.lax.stop_gradient(inputs.unit_rows(targets))
    distances = jnp.sum(jnp.square(u - v[:, ::-1]), axis=-1)
    return jnp.mean(jnp.sum(distances, axis=1)), {"projection_spread": projection_spread(targets)}


def simsiam(predictions: Array, projections: Array) -> tuple[Array, dict[str, Array]]:
    """SimSiam's loss: (loss, metrics), scalars of at least float32.

    Minus the mean over images and directions of the cosine of a view's prediction with the other view's projection,
    which is held constant: from -1 to 1. Embeddings that are all equal give -1, as perfect ones do;
    "projection_spread" tells them apart.

    Args:
        predictions: [B, 2, d]. projections: [B, 2, d], of the same network and views.

    Returns:
        The loss, and {"projection_spread": of the projections, see `projection_spread`}.

    Raises:
        InputError: the arrays are not [B, 2, d].

    Reference: Chen and He 2020 (arXiv 2011.10566), equations 1 to 4; main_simsiam.py of facebookresearch/simsiam.

    Example:
        >>> z = jax.random.normal(key, (4, 2, 8))
        >>> round(float(losses.simsiam(z[:, ::-1], z)[0]), 3)
        -1.0
    """
    inputs.check_pair(predictions, projections, "simsiam")
    cosines = _crossed_cosines(predictions, projections)
    return -jnp.mean(cosines), {"projection_spread": projection_spread(projections)}
