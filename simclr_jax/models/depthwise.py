"""The convolution of every channel by itself, with stride 1, in the form that is fast on the platform it runs on.

XLA's CPU backend computes such a convolution and its gradients element by element: 1.4 s forwards and 9 s for the
gradient in the kernel where the forms here take 0.04 s and 0.05 s (8 maps of 56 x 56 x 96, kernel 7 x 7, two cores).
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import layers

Array = jax.Array


@functools.partial(jax.jit, static_argnames="parts")  # traced once for all layers of a shape
def convolve(x: Array, kernel: Array, *, parts: int = 1) -> Array:
    """x [N, H, W, C] with a kernel [k, k, 1, C] of odd k and zeros around x: [N, H, W, C].

    On accelerators this and its gradient are XLA's. On a CPU the output is a sum of k k shifted products in one pass;
    so is the gradient in x, and that in the kernel is summed up row by row of the maps. `parts` is of how many equal
    runs of rows, each on a device of its own, the batch consists; it changes the order of sums only.
    """
    y: Array = _convolve(x, kernel, parts)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Array, kernel: Array, parts: int) -> Array:
    y: Array = jax.lax.platform_dependent(x, kernel, cpu=_sum_of_taps, default=_by_jax)
    return y


def _convolve_forward(x: Array, kernel: Array, parts: int) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, parts), (x, kernel)


def _convolve_backward(parts: int, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    def by_hand(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        back = _sum_of_taps(cotangent, jnp.flip(kernel, (0, 1)))
        return back, _kernel_gradient(x, cotangent, size=kernel.shape[0], parts=parts).astype(kernel.dtype)

    def by_jax(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        x_gradient, kernel_gradient = jax.vjp(_by_jax, x, kernel)[1](cotangent)
        return x_gradient, kernel_gradient

    result: tuple[Array, Array] = jax.lax.platform_dependent(*residuals, cotangent, cpu=by_hand, default=by_jax)
    return result


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _by_jax(x: Array, kernel: Array) -> Array:
    half = kernel.shape[0] // 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(half, half)] * 2, dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )


def _wide(x: Array) -> Array:
    """In the type that is summed in: at least float32."""
    return x.astype(layers.state_dtype(x.dtype.name))


def _padded(x: Array, size: int) -> Array:
    half = size // 2
    return jnp.pad(_wide(x), [(0, 0), (half, half), (half, half), (0, 0)])


def _sum_of_taps(x: Array, kernel: Array) -> Array:
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    padded, weights = _padded(x, size), _wide(kernel)[:, :, 0]
    taps = [
        padded[:, i : i + height, j : j + width] * weights[i, j]
        for i in range(size)
        for j in range(size)
        # A tap that sees nothing but the border adds nothing.
        if abs(i - size // 2) < height and abs(j - size // 2) < width
    ]
    return functools.reduce(jnp.add, taps).astype(x.dtype)


def _kernel_gradient(x: Array, cotangent: Array, *, size: int, parts: int) -> Array:
    """[k, k, 1, C]: one row of one map after the other, so that what is summed up stays in the cache."""
    (num, height, width, channels), parts = x.shape, math.gcd(parts, x.shape[0])
    given = _padded(x, size)
    given = given.reshape(parts, num // parts, *given.shape[1:])
    back = _wide(cotangent).reshape(parts, num // parts, height, width, channels)

    def add_row(step: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        image, row = step // height, step % height
        seen = jax.lax.dynamic_slice(given, (0, image, row, 0, 0), (parts, 1, size, given.shape[3], channels))[:, 0]
        line = jax.lax.dynamic_slice(back, (0, image, row, 0, 0), (parts, 1, 1, width, channels))[:, 0]
        return tuple(total + seen[:, :, j : j + width] * line for j, total in enumerate(sums))

    zeros = jnp.zeros((parts, size, width, channels), given.dtype)
    sums = jax.lax.fori_loop(0, num // parts * height, add_row, (zeros,) * size)
    return jnp.stack([jnp.sum(total, axis=(0, 2)) for total in sums], axis=1)[:, :, None]


class DepthwiseConv(nn.Module):
    """`convolve` with a kernel and a bias of its own.

    kernel_size: k, odd. dtype: of the result. kernel_init: of the kernel. num_parts: see `convolve`.
    """

    kernel_size: int
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    num_parts: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> the same shape."""
        shape, state_dtype = (self.kernel_size, self.kernel_size, 1, x.shape[-1]), layers.state_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init, shape, state_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:], state_dtype)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), parts=self.num_parts)
        return y + bias.astype(y.dtype)
