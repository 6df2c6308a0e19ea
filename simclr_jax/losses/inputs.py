"""What all losses do with their inputs: the type they compute in, unit vectors, exact products, checks.

Every loss takes arrays of the GLOBAL batch with images on axis 0 and views on axis 1, and computes in float32 (float64
stays float64).
"""

import jax
import jax.numpy as jnp

from simclr_jax import base

Array = jax.Array


def wide(x: Array) -> Array:
    """`x` in at least float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def l2_normalize(x: Array) -> Array:
    """x / max(|x|, 1e-6) along the last axis. A zero vector stays zero and has a finite gradient.

    Reference: tf.math.l2_normalize with its epsilon 1e-12, under the root.

    Example:
        >>> losses.l2_normalize(jnp.asarray([3.0, 4.0])).round(3).tolist()
        [0.6000000238418579, 0.800000011920929]
    """
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def unit_rows(x: Array) -> Array:
    """`x` divided by its norm along the last axis, in at least float32."""
    return l2_normalize(wide(x))


def products(a: Array, b: Array) -> Array:
    """[N, M]: the dot products of the rows of a [N, d] and b [M, d]."""
    # Full precision: one bfloat16 or TF32 pass would put an error of about 1e-3 / temperature on every logit.
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def centre(x: Array) -> Array:
    """`x` less its mean over axis 0, also where the mean is large beside what differs: equal rows give exact zeros.

    The first mean is rounded at the size of x; what it leaves behind is taken off by a second one. The gradient is that
    of the first subtraction, which has the projection already.
    """
    x = x - jnp.mean(x, axis=0, keepdims=True)
    return x - jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))


def check_views(z: Array, name: str, *, num_views: int = 2, min_images: int = 1) -> None:
    """Raises InputError unless z is [B, num_views, d] with at least `min_images` images; `name` is the loss."""
    if z.ndim != 3 or z.shape[1] != num_views:
        remedy = "Stack the views on axis 1: jnp.stack([z1, z2], axis=1)."
        if z.ndim == 3 and z.shape[0] == num_views:
            remedy = "Put the views on axis 1: jnp.swapaxes(z, 0, 1)."
        elif z.ndim == 2:
            remedy = (
                "For projections of view 1 and view 2: jnp.stack([z1, z2], axis=1); for all rows of view 1 above those "
                "of view 2: jnp.swapaxes(z.reshape(2, -1, d), 0, 1)."
            )
        raise base.InputError(
            f"{name} compares {num_views} views, z must have shape [B, {num_views}, d]; got {list(z.shape)}. {remedy}"
        )
    if z.shape[0] < min_images:
        raise base.InputError(f"{name} needs at least {min_images} images; got {z.shape[0]}. Use a larger batch.")


def check_pair(a: Array, b: Array, name: str) -> None:
    """Raises InputError unless a and b are [B, 2, d] of one shape; `name` is the loss."""
    if a.ndim != 3 or a.shape[1] != 2 or a.shape != b.shape:
        raise base.InputError(
            f"{name} compares two views, it needs two arrays [B, 2, d]; got {list(a.shape)} and {list(b.shape)}. "
            "Stack the views on axis 1: jnp.stack([view1, view2], axis=1)."
        )


def check_positive(name: str, value: float | Array, remedy: str) -> None:
    """Raises InputError unless `value` is above 0; an array is not looked at."""
    if not isinstance(value, Array) and not value > 0:
        raise base.InputError(f"{name} must be above 0; got {value}. {remedy}")


def check_rows(a: Array, b: Array, name: str) -> None:
    """Raises InputError unless a [N, d] and b [M, d] are rows of one width; `name` is the loss."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise base.InputError(
            f"{name} compares rows of one width, [N, d] and [M, d]; got {list(a.shape)} and {list(b.shape)}. "
            "Use the outputs of one network, or of two with the same proj_out_dim."
        )
