"""The layers that all encoders and heads are made of: convolution, BatchNorm and pooling with the reference's rules.

Arrays are channels last, kernels are HWIO. `dtype` is the type of the activations; parameters and BatchNorm statistics
are float32 (float64 if `dtype` is float64).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax.models import convolution, fused_conv_bn

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]


def state_dtype(dtype: str) -> jnp.dtype:
    """The type of parameters, statistics and results when activations have type `dtype`: at least float32."""
    return jnp.dtype("float64" if dtype == "float64" else "float32")


def layer_norm(dtype: str, name: str, *, epsilon: float = 1e-5) -> Callable[[Array], Array]:
    """LayerNorm over the last axis in at least float32, the variance taken around the mean; its result has `dtype`.

    To be called inside a module's `__call__`, whose child it makes. The epsilon is torch's.
    """
    own = state_dtype(dtype)
    norm = nn.LayerNorm(
        epsilon=epsilon,
        dtype=own,
        param_dtype=own,
        use_fast_variance=False,
        force_float32_reductions=False,
        name=name,
    )
    # Flax's own cast of the result refuses bfloat16 where jax_numpy_dtype_promotion is strict.
    return lambda x: norm(x.astype(own)).astype(dtype)


def normalized(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """(images - mean) / std by channel for images [N, h, w, 3]; as they are where both are empty."""
    if not mean:
        return images
    shift, scale = (jnp.asarray(values, images.dtype) for values in (mean, std))
    return (images - shift) / scale


class Conv(nn.Module):
    """Convolution whose padding depends on the kernel only: (k-1)//2 before and the rest after.

    With stride 1 this is SAME; with stride 2 it is not, and Flax's SAME would shift the windows of even sizes.
    num_parts: of how many runs of rows, each on a device of its own, a batch consists; see `convolution.convolve`.
    """

    features: int
    kernel_size: int
    strides: int = 1
    dtype: str = "float32"
    use_bias: bool = False
    num_parts: int = 1

    @nn.compact
    def __call__(self, x: Array, *, only_kernel: bool = False) -> Array:
        """[N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), features] of `dtype`; or the kernel for such an x."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel: Array = self.param("kernel", nn.initializers.lecun_normal(), shape, state_dtype(self.dtype))
        if only_kernel:
            return kernel
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = convolution.convolve(x, kernel, self.strides, parts=self.num_parts)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,), state_dtype(self.dtype)).astype(y.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def moments(x: Array, parts: int = 1) -> tuple[Array, Array]:
    """Mean and (biased) variance [C] over all axes but the last of x [N, ..., C], the global batch; at least float32.

    The variance is the mean square around the mean, as in the TF1 reference. The TF2 reference and Flax take
    E[x^2] - E[x]^2, which loses digits where a channel's mean is large beside its deviation. bfloat16 has no such
    digits to lose: there the short form is used, which reads the values once.

    parts: of how many equal runs of rows, each on a device of its own, the batch consists. Each takes the mean square
        around its own mean, and the means' variance, of so few numbers, is added in the short form: what all devices
        have to tell each other fits into one sum. Without a common divisor with N it is as if it were 1.
    """
    return _moments_forward(x, parts)[0]


def _moments_forward(x: Array, parts: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    if x.dtype == jnp.bfloat16:
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.float32)
        mean = jnp.mean(wide, axis=axes)
        variance = jnp.maximum(jnp.mean(jnp.square(wide), axis=axes) - jnp.square(mean), 0.0)
        return (mean, variance), (x, mean)
    local = x.reshape(math.gcd(parts, x.shape[0]), -1, x.shape[-1])
    means = jnp.mean(local, axis=1)
    squares = jnp.mean(jnp.square(local - means[:, None]), axis=1)
    if len(means) == 1:
        return (means[0], squares[0]), (x, means[0])
    mean, square, among = jnp.mean(jnp.stack([means, squares, jnp.square(means)], axis=1), axis=0)
    return (mean, square + jnp.maximum(among - jnp.square(mean), 0.0)), (x, mean)


def _moments_backward(_: int, residuals: tuple[Array, Array], cotangents: tuple[Array, Array]) -> tuple[Array]:
    x, mean = residuals
    mean_cotangent, variance_cotangent = cotangents
    count = x.size // x.shape[-1]
    slope = (mean_cotangent + 2.0 * variance_cotangent * (x.astype(mean.dtype) - mean)) / count
    return (slope.astype(x.dtype),)


moments.defvjp(_moments_forward, _moments_backward)


class BatchNorm(nn.Module):
    """Batch normalisation with the reference's constants over the whole (global) batch, or over groups of its rows.

    Everything inside is computed in the type of the parameters, also for bfloat16 activations; the result has the type
    of the input. Variables are those of Flax's BatchNorm: scale and bias, and the moving averages mean and var.

    train: normalise by the batch's own statistics and move the averages (collection batch_stats); else by the averages.
    param_dtype: of parameters and statistics.
    use_bias, use_scale: whether there is a bias, a scale.
    scale_init: of the scale.
    num_groups: G, a divisor of N: each group of rows has statistics of its own, and the averages move by the mean of
        the groups' statistics.
    grouping: "neighbors": group g is rows [g*N/G, (g+1)*N/G). Where every device holds whole groups, normalising needs
        no communication. "interleaved": group g is every G-th row from row g on, so that groups lie across devices.
    num_parts: of how many runs of rows, each on a device of its own, the batch consists; see `moments`.
    folded: take the forms of `models.fused_conv_bn`; for bfloat16 and one group.
    momentum: share of the old moving average that is kept; the variance that goes in is the biased one.
    epsilon: added to the variance.

    Reference: batch_norm_relu in tf2/resnet.py of the SimCLR code, with global statistics. Deliberate difference: the
    form of the variance, see `moments`.
    """

    train: bool
    param_dtype: jnp.dtype
    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    num_groups: int = 1
    grouping: str = "neighbors"
    num_parts: int = 1
    folded: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, kernel: Array | None = None, *, relu: bool = False) -> Array:
        """Normalises [N, ..., C] over all axes but the last; with `relu`, takes max(., 0) of that.

        With a kernel [k, C] while training, x [N, H, W, k] times it, as `fused_conv_bn.convolve_normalized` does it.
        """
        shape, dtype = (x.shape[-1] if kernel is None else kernel.shape[-1],), self.param_dtype
        moving_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        moving_variance = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        scale = self.param("scale", self.scale_init, shape, dtype) if self.use_scale else jnp.ones(shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype) if self.use_bias else jnp.zeros(shape, dtype)
        if kernel is not None:
            parts = math.gcd(self.num_parts, x.shape[0])
            y, mean, variance = fused_conv_bn.convolve_normalized(
                x, kernel, (scale, bias), epsilon=self.epsilon, parts=parts
            )
        elif self.train:
            y, mean, variance = self._by_batch(x, (scale, bias), relu)
        else:
            return self._apply(x, (moving_mean.value, moving_variance.value), (scale, bias), relu)
        if not self.is_initializing():
            for average, value in ((moving_mean, mean), (moving_variance, variance)):
                average.value = self.momentum * average.value + (1 - self.momentum) * value
        return y

    def _by_batch(self, x: Array, affine: tuple[Array, Array], relu: bool) -> tuple[Array, Array, Array]:
        """(normalised x, mean, variance): by the statistics of x or of groups of its rows.

        With groups, the mean and variance returned are the averages over the groups.
        """
        axis = 1 if self.grouping == "interleaved" else 0  # of the groups, once the rows are two axes
        parts = self.num_parts if axis or self.num_groups == 1 else max(self.num_parts // self.num_groups, 1)
        if self.folded and relu:
            return fused_conv_bn.normalize_relu(x, affine, epsilon=self.epsilon, parts=math.gcd(parts, x.shape[0]))
        if self.num_groups == 1:
            mean, variance = moments(x, parts)
            return self._apply(x, (mean, variance), affine, relu), mean, variance
        rows = x.reshape(*((-1, self.num_groups) if axis else (self.num_groups, -1)), *x.shape[1:])
        statistics = jax.vmap(functools.partial(moments, parts=parts), in_axes=axis)(rows)
        trail = [1] * (x.ndim - 1 - axis)
        spread = tuple(m.reshape(self.num_groups, *trail, x.shape[-1]) for m in statistics)
        y = self._apply(rows, spread, affine, relu).reshape(x.shape)
        mean, variance = (jnp.mean(m, axis=0) for m in statistics)
        return y, mean, variance

    def _apply(self, x: Array, statistics: tuple[Array, ...], affine: tuple[Array, Array], relu: bool) -> Array:
        (mean, variance), (scale, bias) = statistics, affine
        y = (x.astype(self.param_dtype) - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return (nn.relu(y) if relu else y).astype(x.dtype)


def make_batch_norm(dtype: str, train: bool) -> Callable[..., BatchNorm]:
    """BatchNorm constructor for activations of `dtype`: batch statistics if `train`, else moving averages."""
    return functools.partial(BatchNorm, train=train, param_dtype=state_dtype(dtype))


def mean_pool(x: Array, strides: int) -> Array:
    """Means over 2x2 windows: [N, H, W, C] -> [N, ceil(H/strides), ceil(W/strides), C], for strides 1 or 2.

    At the bottom and right border, windows with stride 1 average over what is there, windows with stride 2 (at odd
    sizes) over zeros too: the reference pads with zeros before a VALID pooling in one case and leaves SAME to
    TensorFlow, which does not count the padding, in the other.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        border = [(0, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        # A repeated last row makes the mean over it and itself, which is that row.
        padded = jnp.pad(x, border, mode="edge") if strides == 1 else jnp.pad(x, border)
        first = jax.lax.slice_in_dim(padded, 0, size, strides, axis)
        second = jax.lax.slice_in_dim(padded, 1, size + 1, strides, axis)
        x = (first + second) * 0.5
    return x


def same_padding(shape: tuple[int, ...]) -> Padding:
    """TensorFlow's SAME for 3x3 windows with stride 2 over [N, H, W, C]: even sizes are padded at the end only."""
    height, width = ((0, 1) if size % 2 == 0 else (1, 1) for size in shape[1:3])
    return height, width


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Array, padding: Padding) -> Array:
    """Maximum over 3x3 windows with stride 2: [N, H, W, C] -> [N, Ho, Wo, C], the border being -infinity.

    Value and gradient are those of XLA's window reduction, bit for bit: among equal maxima the first of a window, row
    by row, gets the gradient. XLA's own gradient is a select-and-scatter, which GPUs refuse in deterministic mode and
    which is slow elsewhere; here the place of every maximum is kept (one byte for each output) and each input sums up
    the windows that chose it, without a scatter.
    """
    columns = functools.reduce(jnp.maximum, _taps(x, 2, padding[1], -jnp.inf))
    return functools.reduce(jnp.maximum, _taps(columns, 1, padding[0], -jnp.inf))


def _taps(x: Array, axis: int, padding: tuple[int, int], border: float) -> list[Array]:
    """What the windows along one axis see at their first, second and third place."""
    borders = [(0, 0, 0)] * x.ndim
    borders[axis] = (*padding, 0)
    padded = jax.lax.pad(x, jnp.asarray(border, x.dtype), borders)
    last = 2 * ((padded.shape[axis] - 3) // 2) + 1
    return [jax.lax.slice_in_dim(padded, tap, tap + last, stride=2, axis=axis) for tap in range(3)]


def _first_of(values: list[Array], top: Array, names: list[Array]) -> Array:
    """Per element, the name of the first value that equals `top`."""
    return jnp.where(values[0] == top, names[0], jnp.where(values[1] == top, names[1], names[2]))


def _max_pool_forward(x: Array, padding: Padding) -> tuple[Array, tuple[Array, tuple[int, ...]]]:
    columns = _taps(x, 2, padding[1], -jnp.inf)
    column_top = functools.reduce(jnp.maximum, columns)
    column = _first_of(columns, column_top, [jnp.asarray(j, jnp.uint8) for j in range(3)])
    rows = _taps(column_top, 1, padding[0], -jnp.inf)
    top = functools.reduce(jnp.maximum, rows)
    column_of_row = _taps(column, 1, padding[0], 0)
    place = _first_of(rows, top, [column_of_row[i] + jnp.asarray(3 * i, jnp.uint8) for i in range(3)])
    return top, (place, x.shape)


def _max_pool_backward(padding: Padding, residuals: tuple[Array, tuple[int, ...]], cotangent: Array) -> tuple[Array]:
    place, shape = residuals
    num, out_height, out_width, channels = cotangent.shape
    ring = [(0, 0), (1, 1), (1, 1), (0, 0)]
    cotangent = jnp.pad(cotangent, ring)
    place = jnp.pad(place, ring, constant_values=9)  # 9 is no place of a 3x3 window

    def chosen(i: int, j: int, back_i: int, back_j: int) -> Array:
        """The cotangent of the windows back_i rows and back_j columns before, where they chose place (i, j)."""
        window = (
            slice(None),
            slice(1 - back_i, out_height + 2 - back_i),
            slice(1 - back_j, out_width + 2 - back_j),
        )
        return jnp.where(place[window] == 3 * i + j, cotangent[window], 0)

    # A padded input in an even row lies in two rows of windows, at their last and first place; in an odd row in one,
    # at the middle place; columns likewise. Sums run from the first window on, as XLA's do.
    even_even = chosen(2, 2, 1, 1) + chosen(2, 0, 1, 0) + chosen(0, 2, 0, 1) + chosen(0, 0, 0, 0)
    even_odd = chosen(2, 1, 1, 0) + chosen(0, 1, 0, 0)
    odd_even = chosen(1, 2, 0, 1) + chosen(1, 0, 0, 0)
    odd_odd = chosen(1, 1, 0, 0)
    even, odd = jnp.stack([even_even, even_odd], axis=3), jnp.stack([odd_even, odd_odd], axis=3)
    padded = jnp.stack([even, odd], axis=2).reshape(num, 2 * (out_height + 1), 2 * (out_width + 1), channels)
    (top, _), (left, _) = padding
    return (padded[:, top : top + shape[1], left : left + shape[2]],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
