"""Convolutions as sums of matrix products, one for each tap of the kernel: the form that is fast on a CPU.

XLA's own convolution there collapses where the output has two rows or columns, to a hundredth of its speed, and stays
slower than the products wherever an output has few pixels and channels enough. A tap is multiplied only with pixels
that it sees: at 2x2 pixels, under a kernel of 3x3, those are 16 of 36 pairs, the others lie in the padding.

All work on so many images at once as stay in a core's cache. `parts` is of how many equal runs of rows, each on a
device of its own, the batch consists: every part has groups and sums of its own, so that no image leaves its device.
The measurements behind the constants are in benchmarks/LOG.md.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

# Of the images that are worked on at once: what a core's own cache holds.
_CACHED_BYTES = 2**20
# XLA's convolution collapses at outputs of at most so many rows or columns, ...
_COLLAPSING_LENGTH = 2
# ... and loses to products at outputs of at most so many pixels, if so many channels are summed over.
_FEW_PIXELS, _MANY_CHANNELS = 14 * 14, 64
# In a kernel's gradient: with more pixels, leaving out the border costs more, a copy of the rest for every tap, than
# it saves, ...
_FEW_PIXELS_OF_GRADIENT = 8 * 8
# ... and of images with at most so many channels and more pixels than these, a product takes a whole row of taps.
_FEW_CHANNELS, _FEWEST_PIXELS_OF_ROWS = 32, 4 * 4


class _Tap(NamedTuple):
    """Place of a tap along both axes, and the pixels of the input and of the output that it connects."""

    place: tuple[int, int]
    inputs: tuple[slice, slice]
    outputs: tuple[slice, slice]


def pays(out: Sequence[int], channels: int) -> bool:
    """Whether outputs of [N, *out, F] pixels are faster by products than by XLA's convolution on a CPU.

    channels: that are summed over: those of the input for the output, those of the output for the gradient in x.
    """
    return min(out) <= _COLLAPSING_LENGTH or (math.prod(out) <= _FEW_PIXELS and channels >= _MANY_CHANNELS)


def convolve(x: Array, kernel: Array, *, strides: int, parts: int) -> Array:
    """x [N, H, W, C] with a square kernel [k, k, C, F]: [N, ceil(H/strides), ceil(W/strides), F] of x's dtype."""
    out = _out_lengths(x, strides)
    taps = _taps(kernel.shape[0], strides, x.shape[1:3], out)

    def total(x: Array) -> Array:
        def product(tap: _Tap) -> Array:
            y = _multiply(x[:, :, *tap.inputs], kernel[tap.place], 0)
            return _spread(y, tap.outputs, out)

        return functools.reduce(jnp.add, map(product, taps)).astype(x.dtype)

    return _over_groups(total, x, parts, bytes_of_image=_bytes_of_image(x, (*out, kernel.shape[-1])))


def input_gradient(cotangent: Array, kernel: Array, *, strides: int, parts: int, lengths: Sequence[int]) -> Array:
    """The gradient [N, *lengths, C] in the input of a kernel [k, k, C, F], from that in its output [N, h, w, F]."""
    taps = _taps(kernel.shape[0], strides, lengths, cotangent.shape[1:3])

    def total(cotangent: Array) -> Array:
        def product(tap: _Tap) -> Array:
            x = _multiply(cotangent[:, :, *tap.outputs], kernel[tap.place], 1)
            return _spread(x, tap.inputs, lengths)

        return functools.reduce(jnp.add, map(product, taps)).astype(cotangent.dtype)

    return _over_groups(total, cotangent, parts, bytes_of_image=_bytes_of_image(cotangent, (*lengths, kernel.shape[2])))


def kernel_gradient(x: Array, cotangent: Array, *, size: int, strides: int, parts: int) -> Array:
    """The gradient [size, size, C, F] in the kernel, for an input [N, H, W, C] and the gradient [N, h, w, F] in y."""
    channels, features, pixels = x.shape[-1], cotangent.shape[-1], math.prod(cotangent.shape[1:3])
    taps = _taps(size, strides, x.shape[1:3], cotangent.shape[1:3])
    in_rows = channels <= _FEW_CHANNELS and pixels > _FEWEST_PIXELS_OF_ROWS
    if not in_rows and pixels <= _FEW_PIXELS_OF_GRADIENT:
        multiply = functools.partial(_products_of_seen, taps=taps)
        first, last = taps[0].place, taps[-1].place
    else:
        multiply = functools.partial(_products_of_all, size=size, strides=strides, in_rows=in_rows)
        first, last = (0, 0), (size - 1, size - 1)
    bytes_of_image = _bytes_of_image(x, (pixels, size * channels) if in_rows else cotangent.shape[1:])
    groups = [_in_groups(array, parts, bytes_of_image) for array in (x, cotangent)]
    shape = [end - start + 1 for start, end in zip(first, last, strict=True)]
    start = jnp.zeros((groups[0].shape[1], math.prod(shape) * channels, features), _wide(x.dtype))
    total, _ = jax.lax.scan(lambda total, pair: (total + multiply(*pair), None), start, tuple(groups))
    seen = jnp.sum(total, axis=0).reshape(*shape, channels, features).astype(x.dtype)
    blind = [(start, size - 1 - end) for start, end in zip(first, last, strict=True)]
    return jnp.pad(seen, (*blind, (0, 0), (0, 0)))


def _products_of_seen(x: Array, cotangent: Array, *, taps: list[_Tap]) -> Array:
    """[parts, len(taps)*C, F]: x [parts, n, H, W, C] under every tap, where it sees x, times the cotangent there."""
    pairs = [(x[:, :, *tap.inputs], cotangent[:, :, *tap.outputs]) for tap in taps]
    return jnp.concatenate([_contract_rows(*pair) for pair in pairs], axis=1)


def _products_of_all(x: Array, cotangent: Array, *, size: int, strides: int, in_rows: bool) -> Array:
    """[parts, size*size*C, F]: x, padded, under every tap, or row of taps, times the whole cotangent."""
    before = (size - 1) // 2
    spans = [(length - 1) * strides + 1 for length in cotangent.shape[2:4]]
    edges = [
        (before, max(span + size - 1 - before - length, 0)) for span, length in zip(spans, x.shape[2:4], strict=True)
    ]
    padded = jnp.pad(x, ((0, 0), (0, 0), *edges, (0, 0)))

    def under(i: int, j: int) -> Array:
        return padded[:, :, i : i + spans[0] : strides, j : j + spans[1] : strides]

    rows = [[under(i, j) for j in range(size)] for i in range(size)]
    factors = [jnp.concatenate(row, axis=-1) for row in rows] if in_rows else itertools.chain(*rows)
    return jnp.concatenate([_contract_rows(factor, cotangent) for factor in factors], axis=1)


def _out_lengths(x: Array, strides: int) -> list[int]:
    return [-(-length // strides) for length in x.shape[1:3]]


def _taps(size: int, strides: int, lengths: Sequence[int], out: Sequence[int]) -> list[_Tap]:
    """All taps that see a pixel, row by row: a rectangle of the kernel."""
    rows, columns = (_taps_of_axis(size, strides, *pair) for pair in zip(lengths, out, strict=True))
    return [
        _Tap((i, j), (inputs, more_inputs), (outputs, more_outputs))
        for i, inputs, outputs in rows
        for j, more_inputs, more_outputs in columns
    ]


def _taps_of_axis(size: int, strides: int, length: int, out: int) -> list[tuple[int, slice, slice]]:
    """(place, its inputs, its outputs): output o sees input o*strides + place - (size-1)//2, if there is one."""
    found = []
    for place in range(size):
        shift = place - (size - 1) // 2
        first, last = max(-(shift // strides), 0), min((length - 1 - shift) // strides, out - 1)
        if first <= last:
            inputs = slice(first * strides + shift, last * strides + shift + 1, strides)
            found.append((place, inputs, slice(first, last + 1, 1)))
    return found


def _multiply(x: Array, kernel: Array, axis: int) -> Array:
    """The last axis of x with `axis` of a tap [C, F]."""
    numbers = (((x.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(x, kernel, numbers, preferred_element_type=_wide(x.dtype))


def _contract_rows(x: Array, y: Array) -> Array:
    """[parts, C, F]: [parts, n, h, w, C] with [parts, n, h, w, F] over all pixels."""
    x, y = (array.reshape(array.shape[0], -1, array.shape[-1]) for array in (x, y))
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((0,), (0,))), preferred_element_type=_wide(x.dtype))


def _spread(x: Array, places: Sequence[slice], lengths: Sequence[int]) -> Array:
    """x [parts, n, h, w, C] at `places` of [parts, n, *lengths, C], among zeros."""
    edges = [(place.start, length - place.stop, place.step - 1) for place, length in zip(places, lengths, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), *edges, (0, 0, 0)))


def _wide(dtype: jnp.dtype) -> jnp.dtype:
    """The type of sums, at least float32, so that bfloat16 is rounded once."""
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def _bytes_of_image(x: Array, other: Sequence[int]) -> int:
    """Of an image of x or of an array [N, *other], whichever is larger."""
    return max(math.prod(x.shape[1:]), math.prod(other)) * x.dtype.itemsize


def _over_groups(fn: Callable[[Array], Array], x: Array, parts: int, *, bytes_of_image: int) -> Array:
    """fn, which works image by image on [parts, n, ...], over all of x [N, ...]."""
    if not isinstance(x.shape[0], int):  # an exported program for any number of images
        return fn(x[None])[0]
    groups = _in_groups(x, parts, bytes_of_image)
    _, y = jax.lax.scan(lambda carry, group: (carry, fn(group)), None, groups)
    y = jnp.swapaxes(y, 0, 1).reshape(y.shape[1], -1, *y.shape[3:])
    return y[:, : x.shape[0] // y.shape[0]].reshape(x.shape[0], *y.shape[2:])


def _in_groups(x: Array, parts: int, bytes_of_image: int) -> Array:
    """[groups, parts, n, ...] of x [N, ...], every part filled up with zeros where n does not divide it."""
    parts = parts if x.shape[0] % parts == 0 else 1
    num = x.shape[0] // parts
    most = min(max(_CACHED_BYTES // bytes_of_image, 1), num)
    size = max(count for count in range(1, most + 1) if num % count == 0)
    if 2 * size <= most < num:
        size = math.ceil(num / math.ceil(num / most))
    x = x.reshape(parts, num, *x.shape[1:])
    if num % size:
        x = jnp.pad(x, ((0, 0), (0, size - num % size), *[(0, 0)] * (x.ndim - 2)))
    return jnp.swapaxes(x.reshape(parts, -1, size, *x.shape[2:]), 0, 1)
