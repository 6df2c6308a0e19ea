"""Forms of BatchNorm, of a 1x1 convolution with it, and of ReLU that keep and move less memory on a GPU.

Training a ResNet on an accelerator is bound by memory traffic, and most of it is the wide outputs of 1x1 convolutions:
written, read for their statistics, read to be normalised, and read twice more with their gradients. But a convolution
of 1x1 is linear in each pixel, y = a W, so that all the statistics of y follow from the mean and the covariance of its
narrow input: mean(y) = mean(a) W and var(y) = diag(W' cov(a) W). The normalised output is then one convolution with
scaled weights, and the gradients of both need only the products of the input with the cotangent.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class _Saved(NamedTuple):
    """What the backward pass needs: the input, the parameters, and statistics of the input and of y.

    means [p, k] and covariances [p, k, k]: of the input, of every part. mean [k]: of the whole batch. y_mean [c].
    deviation [c]: 1 / sqrt(var(y) + epsilon).
    """

    a: Array
    kernel: Array
    scale: Array
    means: Array
    covariances: Array
    mean: Array
    y_mean: Array
    deviation: Array


def convolve_normalized(
    a: Array, kernel: Array, affine: tuple[Array, Array], *, epsilon: float, parts: int = 1
) -> tuple[Array, Array, Array]:
    """(scale (y - mean) / sqrt(variance + epsilon) + bias, mean, variance) of y = a kernel.

    Args:
        a: [N, H, W, k], any floating type; the result has it too.
        kernel: [k, c] of at least float32, as are the statistics.
        affine: (scale, bias), [c] each.
        epsilon: added to the variance.
        parts: of how many equal runs of rows, each on a device of its own, the batch consists (a divisor of N): devices
            then exchange statistics of c numbers, not matrices.

    Returns:
        The result [N, H, W, c], and the mean and biased variance [c] of y over the batch, which have no gradient.

    Equal to the two operations up to rounding. In bfloat16 y itself is never rounded, but the scaled weights and the
    shift are; the statistics are those of y before any rounding.

    Reference: conv2d_fixed_padding and batch_norm_relu in tf2/resnet.py of the SimCLR code; the algebra is our own.
    """
    y, mean, variance = _fold(a, kernel, affine, epsilon, parts)
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fold(
    a: Array, kernel: Array, affine: tuple[Array, Array], epsilon: float, parts: int
) -> tuple[Array, Array, Array]:
    return _forward(a, kernel, affine, epsilon, parts)[0]


def _forward(
    a: Array, kernel: Array, affine: tuple[Array, Array], epsilon: float, parts: int
) -> tuple[tuple[Array, Array, Array], _Saved]:
    scale, bias = affine
    rows = a.reshape(parts, -1, a.shape[-1])
    means = jnp.mean(rows.astype(kernel.dtype), axis=1)
    covariances = _products(rows, rows, kernel.dtype) / rows.shape[1] - means[:, :, None] * means[:, None]
    y_means = _multiply(means, kernel)
    inside = jnp.sum(kernel * _multiply(covariances, kernel), axis=1)
    # One sum over the devices. The variance among the parts' means, of so few numbers, is taken in its short form.
    joined = jnp.mean(jnp.concatenate([means, y_means, inside, jnp.square(y_means)], axis=1), axis=0)
    ends = (a.shape[-1], a.shape[-1] + len(scale), a.shape[-1] + 2 * len(scale))
    mean, y_mean, variance, square = jnp.split(joined, ends)
    variance = jnp.maximum(variance, 0.0) + (jnp.maximum(square - jnp.square(y_mean), 0.0) if parts > 1 else 0.0)
    deviation = jax.lax.rsqrt(variance + epsilon)
    slope = scale * deviation
    y = _convolve(a, kernel * slope, bias - y_mean * slope)
    return (y, y_mean, variance), _Saved(a, kernel, scale, means, covariances, mean, y_mean, deviation)


def _backward(
    epsilon: float, parts: int, saved: _Saved, cotangents: tuple[Array, Array, Array]
) -> tuple[Array, Array, tuple[Array, Array]]:
    a, kernel, d = saved.a, saved.kernel, cotangents[0]
    d_rows = d.reshape(parts, -1, d.shape[-1])
    count = parts * d_rows.shape[1]
    products = _products(a.reshape(parts, -1, a.shape[-1]), d_rows, kernel.dtype)
    totals = jnp.sum(d_rows.astype(kernel.dtype), axis=1)
    bias_gradient, along = jnp.sum(jnp.stack([totals, jnp.sum(kernel * products, axis=1)], axis=1), axis=0)
    # Of the normalised y, which is (a - mean) kernel deviation.
    scale_gradient = saved.deviation * (along - saved.y_mean * bias_gradient)
    slope, along = saved.scale * saved.deviation, saved.deviation * scale_gradient
    # Every part's share; nothing waits for their sum, which the optimizer alone needs.
    apart = (_multiply(saved.means, kernel) - saved.y_mean) * along + bias_gradient
    taken = _multiply(saved.covariances, kernel) * along + saved.means[:, :, None] * apart[:, None]
    kernel_gradient = slope * jnp.sum(products - taken / parts, axis=0)
    scaled = kernel * slope
    back = _multiply(scaled * (along / count), kernel.T)
    shift = _multiply(saved.mean, back) - _multiply(scaled, bias_gradient / count)
    a_gradient = _convolve(d, scaled.T) + _convolve(a, -back, shift)
    return a_gradient, kernel_gradient, (scale_gradient, bias_gradient)


_fold.defvjp(_forward, _backward)


def _products(x: Array, y: Array, dtype: jnp.dtype) -> Array:
    """[parts, k, c] of `dtype`: sums over the rows of x [parts, n, k] times y [parts, n, c]."""
    return jnp.einsum("pnk,pnc->pkc", x, y, preferred_element_type=dtype, precision=jax.lax.Precision.HIGHEST)


def _multiply(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _convolve(x: Array, kernel: Array, shift: Array | None = None) -> Array:
    """x [N, H, W, i] times kernel [i, o], plus `shift` [o], in the type of x; GPUs do all of it in one kernel."""
    numbers = ("NHWC", "HWIO", "NHWC")
    kernel = kernel.astype(x.dtype)[None, None]
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
    return y if shift is None else y + shift.astype(x.dtype)


def normalize_relu(
    x: Array, affine: tuple[Array, Array], *, epsilon: float, parts: int = 1
) -> tuple[Array, Array, Array]:
    """(max(scale (x - mean) / sqrt(variance + epsilon) + bias, 0), mean, variance) of x [N, ..., C].

    The backward pass keeps nothing but x, and finds where the result is positive anew in both its passes over the
    cotangent. JAX's own gradient is the same, but XLA writes the cotangent where it counts in the first pass.
    `affine` (scale and bias) and `parts` are those of `convolve_normalized`.
    """
    y, mean, variance = _normalize_relu(x, affine, epsilon, parts)
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _normalize_relu(x: Array, affine: tuple[Array, Array], epsilon: float, parts: int) -> tuple[Array, Array, Array]:
    return _normalize_relu_forward(x, affine, epsilon, parts)[0]


def _normalize_relu_forward(
    x: Array, affine: tuple[Array, Array], epsilon: float, parts: int
) -> tuple[tuple[Array, Array, Array], tuple[Any, ...]]:
    scale, bias = affine
    wide = x.astype(scale.dtype)
    count = x.size // x.shape[-1]
    total, squares = _sums(wide, jnp.square(wide), parts)
    mean, square = total / count, squares / count
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    deviation = jax.lax.rsqrt(variance + epsilon)
    y = jnp.maximum((wide - mean) * (deviation * scale) + bias, 0.0).astype(x.dtype)
    return (y, mean, variance), (x, affine, mean, deviation)


def _normalize_relu_backward(
    epsilon: float, parts: int, saved: tuple[Any, ...], cotangents: tuple[Array, Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    x, (scale, bias), mean, deviation = saved
    count, slope = x.size // x.shape[-1], deviation * scale

    def counted(x: Array, cotangent: Array, is_positive: Array) -> tuple[Array, Array]:
        return x.astype(mean.dtype) - mean, jnp.where(is_positive, cotangent.astype(mean.dtype), 0.0)

    # XLA would write what both passes need to memory. It is cheaper made anew, which the barriers, and the condition in
    # two forms, bring about.
    x, cotangent = jax.lax.optimization_barrier((x, cotangents[0]))
    centred, d = counted(x, cotangent, x.astype(mean.dtype) * slope > mean * slope - bias)
    total, along = _sums(d, d * centred, parts)
    x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    centred, d = counted(x, cotangent, (x.astype(mean.dtype) - mean) * slope + bias > 0)
    x_gradient = slope * (d - total / count - centred * (jnp.square(deviation) * along / count))
    return x_gradient.astype(x.dtype), (deviation * along, total)


_normalize_relu.defvjp(_normalize_relu_forward, _normalize_relu_backward)


@jax.custom_vjp
def relu(x: Array) -> Array:
    """max(x, 0), whose gradient asks the result, not x, where x was positive: x need not be kept."""
    return jnp.maximum(x, 0)


def _relu_backward(y: Array, cotangent: Array) -> tuple[Array]:
    # Without the barrier XLA sees that y > 0 is x > 0, and keeps x as well.
    return (jnp.where(jax.lax.optimization_barrier(y) > 0, cotangent, 0),)


relu.defvjp(lambda x: (relu(x),) * 2, _relu_backward)


def _sums(x: Array, y: Array, parts: int) -> tuple[Array, Array]:
    """The sums [C] of both over all axes but the last, in one pass, and in one exchange between devices."""
    zero, shape = jnp.zeros((), x.dtype), (parts, -1, x.shape[-1])
    x, y = jax.lax.reduce(
        (x.reshape(shape), y.reshape(shape)), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,)
    )
    if parts == 1:  # to stack them would be a kernel of its own
        return x[0], y[0]
    x, y = jnp.sum(jnp.stack((x, y), axis=1), axis=0)
    return x, y
