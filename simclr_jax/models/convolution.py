"""The convolution of all layers, with its gradient in the form that is fast on the platform it runs on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.models import taps

Array = jax.Array


def _plain_convolution(x: Array, kernel: Array, strides: int) -> Array:
    before = (kernel.shape[0] - 1) // 2
    return _convolution(x, kernel, strides=strides, padding=[(before, kernel.shape[0] - 1 - before)] * 2)


def _convolution(x: Array, kernel: Array, *, strides: int = 1, padding: Any, **dilation: Any) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=numbers, **dilation)


def convolve(x: Array, kernel: Array, strides: int, *, parts: int = 1) -> Array:
    """x [N, H, W, C] with a square kernel [k, k, C, F], padded as `Conv` says: [N, ceil(H/strides), ..., F].

    On accelerators this and its gradient are XLA's. On a CPU the form is chosen by the shapes, the same up to the order
    of sums: a kernel of 1x1 is one matrix product, a gradient in a kernel is a sum of them, and so are outputs of few
    pixels and their gradients in x (`taps`). What remains are convolutions with the axes in their usual order, with
    the bits of JAX: XLA's CPU backend brings other orders into its fast form only outside of loops, so that JAX's own
    gradient takes some seventy times as long in a loop over chunks or updates. `parts` is of how many equal runs of
    rows, each on a device of its own, the batch consists; it changes the order of sums only.
    """
    return _convolve(x, kernel, strides, parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: int, parts: int) -> Array:
    return _convolve_forward(x, kernel, strides, parts)[0]


def _convolve_forward(x: Array, kernel: Array, strides: int, parts: int) -> tuple[Array, tuple[Array, Array]]:
    plain = functools.partial(_plain_convolution, strides=strides)
    out = [-(-length // strides) for length in x.shape[1:3]]
    if kernel.shape[0] == 1:
        by_hand = functools.partial(_product, strides=strides)
    elif taps.pays(out, x.shape[-1]):
        by_hand = functools.partial(taps.convolve, strides=strides, parts=parts)
    else:
        return plain(x, kernel), (x, kernel)
    y: Array = jax.lax.platform_dependent(x, kernel, cpu=by_hand, default=plain)
    return y, (x, kernel)


def _product(x: Array, kernel: Array, *, strides: int) -> Array:
    return jax.lax.dot_general(x[:, ::strides, ::strides], kernel[0, 0], (((3,), (0,)), ((), ())))


def _convolve_backward(
    strides: int, parts: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    def by_jax(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        _, pull_back = jax.vjp(lambda x, kernel: _plain_convolution(x, kernel, strides), x, kernel)
        x_gradient, kernel_gradient = pull_back(cotangent)
        return x_gradient, kernel_gradient

    if residuals[1].shape[0] == 1:
        by_hand = functools.partial(_gradients_of_product, strides=strides)
    else:
        by_hand = functools.partial(_gradients_of_taps, strides=strides, parts=parts)
    result: tuple[Array, Array] = jax.lax.platform_dependent(*residuals, cotangent, cpu=by_hand, default=by_jax)
    return result


def _gradients_of_product(x: Array, kernel: Array, cotangent: Array, *, strides: int) -> tuple[Array, Array]:
    x_gradient = jax.lax.dot_general(cotangent, kernel[0, 0], (((3,), (1,)), ((), ())))
    if strides > 1:
        rest = [length - (out - 1) * strides - 1 for length, out in zip(x.shape, cotangent.shape, strict=True)]
        apart = [(0, 0, 0), (0, rest[1], strides - 1), (0, rest[2], strides - 1), (0, 0, 0)]
        x_gradient = jax.lax.pad(x_gradient, jnp.zeros((), x.dtype), apart)
    rows = x[:, ::strides, ::strides].reshape(-1, x.shape[-1])
    pair = (rows, cotangent.reshape(-1, cotangent.shape[-1]))
    # The one with fewer columns goes first, which is up to twice as fast.
    swap = pair[0].shape[1] > pair[1].shape[1]
    products = jax.lax.dot_general(*(pair[::-1] if swap else pair), (((0,), (0,)), ((), ())))
    return x_gradient, (products.T if swap else products)[None, None]


def _gradients_of_taps(x: Array, kernel: Array, cotangent: Array, *, strides: int, parts: int) -> tuple[Array, Array]:
    size = kernel.shape[0]
    if taps.pays(cotangent.shape[1:3], cotangent.shape[-1]):
        x_gradient = taps.input_gradient(cotangent, kernel, strides=strides, parts=parts, lengths=x.shape[1:3])
    else:
        x_gradient = _input_gradient_in_usual_order(cotangent, kernel, strides=strides, lengths=x.shape[1:3])
    return x_gradient, taps.kernel_gradient(x, cotangent, size=size, strides=strides, parts=parts)


def _input_gradient_in_usual_order(cotangent: Array, kernel: Array, *, strides: int, lengths: tuple[int, ...]) -> Array:
    size = kernel.shape[0]
    start = size - 1 - (size - 1) // 2
    # With strides the cotangent's rows lie apart, with zeros between: so many rows they span.
    spans = [(length - 1) * strides + 1 for length in cotangent.shape[1:3]]
    return _convolution(
        cotangent,
        jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2),
        padding=[(start, length + size - 1 - start - span) for span, length in zip(spans, lengths, strict=True)],
        lhs_dilation=(strides, strides),
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)
