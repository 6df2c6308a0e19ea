"""Convolutions as products over taps against float64 loops, and which rows they read on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import convolution, taps
from tests.devices import run_on_devices

N, C, F = 6, 4, 5
# (kernel, strides, size of the input): outputs of 1x1 to 7x7, some longer than wide; inputs smaller than the kernel.
SHAPES = [
    (3, 1, (1, 1)),
    (3, 1, (2, 2)),
    (3, 1, (3, 3)),
    (3, 1, (4, 1)),
    (3, 2, (1, 1)),
    (3, 2, (2, 3)),
    (3, 2, (4, 4)),
    (3, 2, (7, 8)),
    (7, 2, (3, 4)),
    (7, 2, (13, 14)),
    (2, 3, (5, 2)),
    (1, 2, (3, 4)),
]
# (images that fit into the cache, parts): at once, one by one, and in groups of two that do not divide a part of three.
GROUPINGS = {"at once": (N, 1), "one by one": (1, 1), "parts": (N, 2), "parts filled up": (2, 2)}
# Every shape in one grouping at least, every grouping with some shapes.
CASES = [
    pytest.param(*shape, name, marks=[] if row % len(GROUPINGS) == column else [pytest.mark.slow])
    for row, shape in enumerate(SHAPES)
    for column, name in enumerate(GROUPINGS)
]


def by_loops(x, kernel, cotangent, strides):
    """(y, gradient in x, gradient in the kernel), tap by tap of every pixel of the output."""
    size, height, width = kernel.shape[0], *x.shape[1:3]
    y, x_gradient, kernel_gradient = np.zeros_like(cotangent), np.zeros_like(x), np.zeros_like(kernel)
    for row, column, i, j in np.ndindex(*cotangent.shape[1:3], size, size):
        a, b = row * strides + i - (size - 1) // 2, column * strides + j - (size - 1) // 2
        if 0 <= a < height and 0 <= b < width:
            y[:, row, column] += x[:, a, b] @ kernel[i, j]
            x_gradient[:, a, b] += cotangent[:, row, column] @ kernel[i, j].T
            kernel_gradient[i, j] += x[:, a, b].T @ cotangent[:, row, column]
    return y, x_gradient, kernel_gradient


def draw(kernel_size, strides, lengths):
    rng = np.random.default_rng(0)
    out = [-(-length // strides) for length in lengths]
    shapes = (N, *lengths, C), (kernel_size, kernel_size, C, F), (N, *out, F)
    return tuple(rng.normal(size=shape) for shape in shapes)


def check(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        # Float32 sums of at most 6*7*7*5 terms, in any order.
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(np.abs(b).max(), 1))


@pytest.mark.few(6)
@pytest.mark.parametrize(("kernel_size", "strides", "lengths", "grouping"), CASES)
def test_products_over_taps_equal_float64_loops(kernel_size, strides, lengths, grouping, monkeypatch):
    arrays = draw(kernel_size, strides, lengths)
    images, parts = GROUPINGS[grouping]
    bytes_of_image = 4 * max(arrays[0][0].size, arrays[2][0].size)
    monkeypatch.setattr(taps, "_CACHED_BYTES", images * bytes_of_image)

    @jax.jit
    def run(x, kernel, cotangent):
        form = {"strides": strides, "parts": parts}
        return (
            taps.convolve(x, kernel, **form),
            taps.input_gradient(cotangent, kernel, lengths=x.shape[1:3], **form),
            taps.kernel_gradient(x, cotangent, size=kernel_size, **form),
        )

    check(run(*(jnp.asarray(array, jnp.float32) for array in arrays)), by_loops(*arrays, strides))


@pytest.mark.few(4)
@pytest.mark.parametrize("form", ["seen", "all", "in rows"])
@pytest.mark.parametrize(("kernel_size", "strides", "lengths"), [(3, 1, (2, 2)), (3, 2, (7, 8)), (7, 2, (3, 4))])
def test_every_form_of_a_kernels_gradient_equals_float64_loops(kernel_size, strides, lengths, form, monkeypatch):
    monkeypatch.setattr(taps, "_FEW_PIXELS_OF_GRADIENT", 10**6 if form == "seen" else 0)
    monkeypatch.setattr(taps, "_FEW_CHANNELS", 10**6 if form == "in rows" else 0)
    monkeypatch.setattr(taps, "_FEWEST_PIXELS_OF_ROWS", 0)
    x, kernel, cotangent = draw(kernel_size, strides, lengths)
    run = jax.jit(functools.partial(taps.kernel_gradient, size=kernel_size, strides=strides, parts=2))
    ours = run(jnp.asarray(x, jnp.float32), jnp.asarray(cotangent, jnp.float32))
    check([ours], by_loops(x, kernel, cotangent, strides)[2:])


@pytest.mark.few(1)
@pytest.mark.parametrize(("strides", "lengths"), [(1, (2, 2)), (2, (3, 4))])
def test_a_loop_over_convolutions_of_few_pixels_holds_products_alone_and_their_values(strides, lengths):
    arrays = draw(3, strides, lengths)
    x, kernel, cotangent = (jnp.asarray(array, jnp.float32) for array in arrays)

    @jax.jit
    def run(xs, kernel, cotangents):
        def body(_, pair):
            y, pull_back = jax.vjp(lambda x, kernel: convolution.convolve(x, kernel, strides), pair[0], kernel)
            return None, (y, *pull_back(pair[1]))

        return jax.lax.scan(body, None, (xs, cotangents))[1]

    stacked = jnp.stack([x, 2 * x]), kernel, jnp.stack([cotangent, cotangent])
    assert " convolution(" not in run.lower(*stacked).compile().as_text()
    check([result[0] for result in run(*stacked)], by_loops(*arrays, strides))
    check([result[1] for result in run(*stacked)], by_loops(2 * arrays[0], *arrays[1:], strides))


@pytest.mark.parametrize("pixels", [2, 4])
def test_sums_of_bfloat16_are_rounded_once(pixels):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((4, pixels, pixels, 16), (3, 3, 16, 16)))
    wide = x.astype(jnp.float32), kernel.astype(jnp.float32)
    for fn in (
        lambda x, kernel: taps.convolve(x, kernel, strides=1, parts=1),
        lambda x, kernel: taps.input_gradient(x, kernel, strides=1, parts=1, lengths=(pixels, pixels)),
    ):
        ours = jax.jit(fn)(x, kernel)
        assert ours.dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, and float32's rounding of the sums.
        np.testing.assert_allclose(ours.astype(jnp.float32), jax.jit(fn)(*wide), rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize(
    ("out", "channels", "expected"),
    [
        ((1, 1), 4, True),
        ((2, 2), 4, True),
        ((9, 2), 4, True),
        ((3, 3), 32, False),
        ((3, 3), 64, True),
        ((14, 14), 64, True),
        ((15, 15), 512, False),
    ],
)
def test_products_are_taken_where_they_were_faster(out, channels, expected):
    assert taps.pays(out, channels) == expected


def test_other_platforms_get_the_convolutions_of_jax():
    x, kernel = jax.ShapeDtypeStruct((4, 2, 2, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
    loss = jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolution.convolve(x, kernel, 1))), (0, 1)))
    text = loss.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 3 and "dot_general" not in text


# Two groups of images on each device, so that a group across devices would have to gather them.
_MOVED = """
import re
import jax, jax.numpy as jnp
from simclr_jax.distributed import sharding
from simclr_jax.models import convolution, taps

taps._CACHED_BYTES = 2**10
mesh = sharding.make_mesh()
x = jax.ShapeDtypeStruct((8, 2, 2, 64), jnp.float32, sharding=sharding.rows(mesh))
kernel = jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32, sharding=sharding.replicated(mesh))

def loss(kernel, x):
    return jnp.sum(jnp.sin(convolution.convolve(convolution.convolve(x, kernel, 1, parts=2), kernel, 2, parts=2)))

text = jax.jit(jax.grad(loss, (0, 1))).lower(kernel, x).compile().as_text()
print(len(re.findall(r" all-reduce(?:-start)?\\(", text)), "while(" in text,
      re.findall(r" (?:all-gather|all-to-all|collective-permute)(?:-start)?\\(", text))
"""


def test_no_image_moves_between_devices():
    all_reduces, loops, moved = run_on_devices(2, _MOVED).split(maxsplit=2)
    assert 1 <= int(all_reduces) <= 2 and loops == "True" and moved.strip() == "[]"
