"""The convolution of all layers, with its gradient in the form that is fast on the platform it runs on."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Of the images whose share of a kernel's gradient is taken at once: what a core's own cache holds.
_CACHED_BYTES = 2**20


def _plain_convolution(x: Array, kernel: Array, strides: int) -> Array:
    before = (kernel.shape[0] - 1) // 2
    return _convolution(x, kernel, strides=strides, padding=[(before, kernel.shape[0] - 1 - before)] * 2)


def _convolution(x: Array, kernel: Array, *, strides: int = 1, padding: Any, **dilation: Any) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=numbers, **dilation)


def convolve(x: Array, kernel: Array, strides: int, *, parts: int = 1) -> Array:
    """x [N, H, W, C] with a square kernel [k, k, C, F], padded as `Conv` says: [N, ceil(H/strides), ..., F].

    The gradient is that of JAX. On a CPU that in x is written as a convolution with the axes in their usual order,
    which gives the same bits: XLA's CPU backend brings other orders into its fast form only outside of loops, so that
    JAX's own gradient takes some seventy times as long in a loop over chunks or updates. That in the kernel is a sum of
    matrix products there, and a kernel of 1x1 one product altogether, the same up to the order of sums. `parts` is of
    how many equal runs of rows, each on a device of its own, the batch consists; it changes the order of sums only.
    """
    return _convolve(x, kernel, strides, parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: int, parts: int) -> Array:
    return _convolve_forward(x, kernel, strides, parts)[0]


def _convolve_forward(x: Array, kernel: Array, strides: int, parts: int) -> tuple[Array, tuple[Array, Array]]:
    del parts
    plain = functools.partial(_plain_convolution, strides=strides)
    if kernel.shape[0] > 1:
        return plain(x, kernel), (x, kernel)
    as_product = functools.partial(_product, strides=strides)
    y: Array = jax.lax.platform_dependent(x, kernel, cpu=as_product, default=plain)
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
        by_hand = functools.partial(_gradients_in_usual_order, strides=strides, parts=parts)
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


def _gradients_in_usual_order(
    x: Array, kernel: Array, cotangent: Array, *, strides: int, parts: int
) -> tuple[Array, Array]:
    size = kernel.shape[0]
    start = size - 1 - (size - 1) // 2
    # With strides the cotangent's rows lie apart, with zeros between: so many rows they span.
    spans = [(length - 1) * strides + 1 for length in cotangent.shape[1:3]]
    x_gradient = _convolution(
        cotangent,
        jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2),
        padding=[(start, length + size - 1 - start - span) for span, length in zip(spans, x.shape[1:3], strict=True)],
        lhs_dilation=(strides, strides),
    )
    return x_gradient, _kernel_gradient(x, cotangent, size=size, strides=strides, parts=parts)


def _kernel_gradient(x: Array, cotangent: Array, *, size: int, strides: int, parts: int) -> Array:
    """[size, size, C, F]: for every tap the product of the pixels under it with the cotangent.

    Image by image, or by so many images as stay in the cache: as one convolution both arrays would have to be turned,
    which takes longer than the products. Every part has sums of its own, so that devices exchange nothing but those.
    """
    parts = parts if x.shape[0] % parts == 0 else 1
    num, channels, features = x.shape[0] // parts, x.shape[-1], cotangent.shape[-1]
    dtype = jnp.dtype(jnp.float32) if x.dtype.itemsize < 4 else x.dtype
    most = max(_CACHED_BYTES // (math.prod(x.shape[1:]) * x.dtype.itemsize), 1)
    group = max(count for count in range(1, min(most, num) + 1) if num % count == 0)
    before = (size - 1) // 2
    spans = [(length - 1) * strides + 1 for length in cotangent.shape[1:3]]
    edges = [
        (before, max(span + size - 1 - before - length, 0)) for span, length in zip(spans, x.shape[1:3], strict=True)
    ]

    def add_products(total: Array, pair: tuple[Array, ...]) -> tuple[Array, None]:
        padded = jnp.pad(pair[0], ((0, 0), (0, 0), *edges, (0, 0)))
        rows = pair[1].reshape(parts, -1, features)
        products = [
            jax.lax.dot_general(
                padded[:, :, i : i + spans[0] : strides, j : j + spans[1] : strides].reshape(parts, -1, channels),
                rows,
                (((1,), (1,)), ((0,), (0,))),
                preferred_element_type=dtype,
            )
            for i in range(size)
            for j in range(size)
        ]
        return total + jnp.stack(products, axis=1), None

    groups = [
        jnp.swapaxes(array.reshape(parts, num // group, group, *array.shape[1:]), 0, 1) for array in (x, cotangent)
    ]
    total, _ = jax.lax.scan(add_products, jnp.zeros((parts, size * size, channels, features), dtype), tuple(groups))
    return jnp.sum(total, axis=0).reshape(size, size, channels, features).astype(x.dtype)


_convolve.defvjp(_convolve_forward, _convolve_backward)
