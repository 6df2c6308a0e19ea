"""NT-Xent with the positive taken out of the denominator: DCL, and DCLW which weighs the positives."""

import jax
import jax.numpy as jnp

from simclr_jax.losses import classification, contrastive, inputs

Array = jax.Array


def dcl(z: Array, *, temperature: float | Array = 0.1) -> tuple[Array, dict[str, Array]]:
    """Decoupled contrastive learning: (loss, metrics), scalars of at least float32.

    Every projection is an anchor. Its value is -s(positive) / T + log of the sum of exp(s / T) over the 2(B-1) views of
    the OTHER images: unlike in `nt_xent` the positive is not in the sum, and neither its probability nor its gradient
    is damped where it is easy. The loss is the mean over the 2B anchors. It can be negative; embeddings that are all
    equal give ln(2B-2).

    Args:
        z: [B, 2, d] with B of at least 2, the projections of the global batch before normalisation.
        temperature: the logits are cosines divided by it; above 0. The paper uses 0.1.

    Returns:
        The loss, and {"contrastive_accuracy", "contrastive_entropy"} as of `nt_xent`.

    Raises:
        InputError: z is not [B, 2, d], B is 1 (no negatives), or temperature is not above 0.

    Reference: Yeh et al. 2022 (arXiv 2110.06848), equation 6; loss/dcl.py of their code. Deliberate differences: the
    mean of both directions where the code's caller adds them; the row's own entries are left out exactly, where the
    code multiplies their exponentials by 1e-45 and so keeps them at low temperatures.

    Example:
        >>> round(float(losses.dcl(jnp.ones((8, 2, 16)))[0]), 3)
        2.639
    """
    return _decoupled(z, "dcl", temperature=temperature, sigma=None)


def dclw(z: Array, *, temperature: float | Array = 0.1, sigma: float | Array = 0.5) -> tuple[Array, dict[str, Array]]:
    """`dcl` with the positive of anchor i times w_i = 2 - B softmax_i(s_i / sigma): hard positives weigh more.

    The softmax runs over the batch's positives of one direction, so that the weights have mean 1; they are constants of
    the gradient.

    Args:
        z: as of `dcl`.
        temperature: as of `dcl`.
        sigma: the temperature of the weights, above 0.

    Returns:
        As `dcl`.

    Raises:
        InputError: as of `dcl`, or sigma is not above 0.

    Reference: Yeh et al. 2022 (arXiv 2110.06848), equation 7; loss/dcl.py of their code. Deliberate differences: as of
    `dcl`; their code differentiates through the weights.

    Example:
        >>> round(float(losses.dclw(jnp.ones((8, 2, 16)))[0]), 3)
        2.639
    """
    inputs.check_positive("sigma of dclw", sigma, "The paper uses 0.5.")
    return _decoupled(z, "dclw", temperature=temperature, sigma=sigma)


def _decoupled(
    z: Array, name: str, *, temperature: float | Array, sigma: float | Array | None
) -> tuple[Array, dict[str, Array]]:
    inputs.check_views(z, name, min_images=2)
    inputs.check_positive(f"temperature of {name}", temperature, "The paper uses 0.1.")
    z = inputs.unit_rows(z)
    views = (z[:, 0], z[:, 1])
    positives = jnp.sum(views[0] * views[1], axis=-1)
    weights = None if sigma is None else _positive_weights(positives, sigma)
    cross = [inputs.products(*pair) for pair in (views, views[::-1])]
    values = [
        _values(across, inputs.products(view, view), positives, temperature=temperature)
        for across, view in zip(cross, views, strict=True)
    ]
    loss = (jnp.mean(values[0]) + jnp.mean(values[1])) / 2
    if weights is not None:
        loss += jnp.mean((1 - weights) * positives / temperature)
    return loss, contrastive.contrastive_metrics(cross[0], temperature)


def _positive_weights(positives: Array, sigma: float | Array) -> Array:
    positives = jax.lax.stop_gradient(positives)
    shares = jax.nn.softmax(classification.below_top(positives, sigma))
    return 2 - positives.shape[0] * shares


def _values(cross: Array, within: Array, positives: Array, *, temperature: float | Array) -> Array:
    """[B]: of the anchors of one view, for similarities [B, B] to the other and to the same view."""
    own = jnp.eye(cross.shape[0], dtype=bool)
    cross, within = (jnp.where(own, -jnp.inf, s) for s in (cross, within))
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(cross, axis=1), jnp.max(within, axis=1)))
    sums = [jnp.exp((s - top[:, None]) / temperature).sum(axis=1) for s in (cross, within)]
    # Differences of similarities first: a quotient would be rounded at the size of the largest logit.
    return jnp.log(sums[0] + sums[1]) + (top - positives) / temperature
