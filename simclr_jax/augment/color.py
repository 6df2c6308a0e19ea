"""Colour operations: brightness, contrast, saturation, hue, grey and the jitter that chains them.

Every function takes float RGB images of any leading shape, by default [H, W, 3]; `channel_axis` says where the three
channels are. Nothing clips except the jitter, which clips to [0, 1] after each of its four operations.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from simclr_jax import base

# The jitter's operations in the numbering of `ColorJitter.order`.
OPERATIONS = ("brightness", "contrast", "saturation", "hue")
BRIGHTNESS_FORMS = ("multiply", "add")

_ORDERS = np.asarray(list(itertools.permutations(range(4))), np.int32)
_GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
_HUE_LAGS = (0.0, 2.0, 4.0)


Channels = tuple[base.Array, ...]


class ColorJitter(NamedTuple):
    """What a colour jitter draws.

    order: int32 [4], the operations in the order they are applied, numbered as in OPERATIONS.
    brightness: float32, factor ("multiply") or offset ("add"); contrast, saturation: factors; hue: shift in turns.
    """

    order: base.Array
    brightness: base.Array
    contrast: base.Array
    saturation: base.Array
    hue: base.Array


def _channels(image: base.Array, axis: int) -> tuple[base.Array, base.Array, base.Array]:
    red, green, blue = (lax.slice_in_dim(image, c, c + 1, axis=axis) for c in range(3))
    return red, green, blue


def _spatial_axes(image: base.Array, channel_axis: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(image.ndim) if axis != channel_axis % image.ndim)


def _scalar(value: base.Array | float, image: base.Array) -> base.Array:
    return jnp.asarray(value, image.dtype)


def adjust_brightness(image: base.Array, factor: base.Array | float) -> base.Array:
    """`image` times `factor` (SimCLRv2's form).

    Reference: google-research/simclr data_util.random_brightness, impl "simclrv2".
    """
    return image * _scalar(factor, image)


def adjust_brightness_additive(image: base.Array, delta: base.Array | float) -> base.Array:
    """`image` plus `delta` (the form of the first SimCLR release).

    Reference: google-research/simclr data_util.random_brightness, impl "simclrv1".
    """
    return image + _scalar(delta, image)


def adjust_contrast(image: base.Array, factor: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """Distances from each channel's own mean times `factor`; `image` is one image.

    Reference: tf.image.adjust_contrast. Not torchvision's contrast, which blends with the mean grey value.
    """
    mean = image
    # One axis at a time: each step is a sum of whole rows, which vectorises and rounds less than one long sum.
    for axis in _spatial_axes(image, channel_axis):
        mean = jnp.mean(mean, axis=axis, keepdims=True)
    return (image - mean) * _scalar(factor, image) + mean


def adjust_saturation(image: base.Array, factor: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """HSV saturation times `factor` (>= 0), limited to [0, 1]; hue and value stay.

    A channel at distance d below the pixel's largest value moves to distance d * S' / S, so no HSV image is formed.
    Pixels whose three channels are <= 0 (bicubic overshoot) have no saturation and become their largest value.

    Reference: tf.image.adjust_saturation.
    """
    value, ratio = _saturation(_channels(image, channel_axis), factor)
    return value - (value - image) * ratio


def _saturation(channels: Channels, factor: base.Array | float) -> tuple[base.Array, base.Array]:
    """(largest value, what a channel's distance below it is multiplied by) of every pixel."""
    red, green, blue = channels
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    largest_ratio = value / jnp.where(chroma > 0, chroma, _scalar(1.0, red))
    return value, jnp.maximum(jnp.minimum(_scalar(factor, red), largest_ratio), _scalar(0.0, red))


def adjust_hue(image: base.Array, delta: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """HSV hue shifted by `delta` turns, modulo 1; the largest and smallest channel value of a pixel stay.

    Hue is carried multiplied by six times the chroma, which needs no division and is exact for grey pixels.

    Reference: tf.image.adjust_hue.
    """
    low, chroma, hue = _turned_hue(_channels(image, channel_axis), delta)
    shape = [1] * image.ndim
    shape[channel_axis] = 3
    return _hue_wave(low, chroma, hue, jnp.asarray(np.reshape(_HUE_LAGS, shape), image.dtype))


def _turned_hue(channels: Channels, delta: base.Array | float) -> tuple[base.Array, base.Array, base.Array]:
    """(smallest value, chroma, hue after the shift in [0, 12) chroma) of every pixel."""
    red, green, blue = channels
    top = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = top - low
    hue = jnp.where(
        top == red, green - blue, jnp.where(top == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    delta = _scalar(delta, red)
    return low, chroma, hue + (delta - jnp.floor(delta)) * (6 * chroma)


def _hue_wave(low: base.Array, chroma: base.Array, hue: base.Array, lag: base.Array) -> base.Array:
    """A channel's value: green and blue follow red's triangle wave, a third and two thirds of a turn later."""
    zero, turn = _scalar(0.0, low), 6 * chroma
    phase = hue - lag * chroma
    phase = phase + jnp.where(phase < 0, turn, zero) - jnp.where(phase >= turn, turn, zero)
    return low + jnp.minimum(jnp.maximum(jnp.abs(phase - 3 * chroma) - chroma, zero), chroma)


def adjust_grayscale(image: base.Array, *, channel_axis: int = -1) -> base.Array:
    """The luma 0.2989 R + 0.5870 G + 0.1140 B in all three channels.

    Reference: tf.image.rgb_to_grayscale.
    """
    return jnp.broadcast_to(_luma(_channels(image, channel_axis)), image.shape)


def _luma(channels: Channels) -> base.Array:
    parts = zip(channels, _GREY_WEIGHTS, strict=True)
    red, green, blue = (channel * _scalar(weight, channel) for channel, weight in parts)
    return red + green + blue


def check_jitter(strength: float, brightness: str) -> None:
    """Raises InputError unless the reference accepts this jitter strength and brightness form."""
    base.check_choice(brightness, BRIGHTNESS_FORMS, name="brightness", remedy="Use 'multiply'.")
    if not strength >= 0:
        raise base.InputError(f"strength must be at least 0; got {strength:g}. Use 1.0, or 0.5 for small images.")
    if 0.8 * strength > 1:
        raise base.InputError(
            f"strength must be at most 1.25, where contrast and saturation factors reach 0; got {strength:g}. Use 1.0."
        )


def _uniform_around_one(key: base.Array, limit: float, name: str) -> base.Array:
    if not 0 <= limit <= 1:
        raise base.InputError(f"{name} limit must be in [0, 1]; got {limit:g}. Use 0.8.")
    return jax.random.uniform(key, (), jnp.float32, 1 - limit, 1 + limit)


def _uniform_hue(key: base.Array, limit: float) -> base.Array:
    if not 0 <= limit <= 0.5:
        raise base.InputError(f"hue limit must be in [0, 0.5] turns; got {limit:g}. Use 0.2.")
    return jax.random.uniform(key, (), jnp.float32, -limit, limit)


def draw_color_jitter(key: base.Array, *, strength: float = 1.0, brightness: str = "multiply") -> ColorJitter:
    """The random part of a colour jitter: a uniformly random order and one number per operation.

    With s = `strength`: contrast and saturation ~ U[1 - 0.8 s, 1 + 0.8 s), hue ~ U[-0.2 s, 0.2 s), brightness ~
    U[max(1 - 0.8 s, 0), 1 + 0.8 s) for "multiply" or U[-0.8 s, 0.8 s) for "add".

    Raises:
        InputError: strength above 1.25 or negative, unknown brightness form.

    Reference: SimCLR, appendix A, figure "color distortion"; google-research/simclr data_util.color_jitter_rand.
    """
    check_jitter(strength, brightness)
    u = jax.random.uniform(key, (5,))
    wide, narrow = 0.8 * strength, 0.2 * strength
    around_one = (u[1:4] * 2 - 1) * wide + 1
    return ColorJitter(
        order=jnp.asarray(_ORDERS)[jnp.floor(u[0] * len(_ORDERS)).astype(jnp.int32)],
        brightness=around_one[0] if brightness == "multiply" else (u[1] * 2 - 1) * wide,
        contrast=around_one[1],
        saturation=around_one[2],
        hue=(u[4] * 2 - 1) * narrow,
    )


def adjust_color_jitter(
    image: base.Array, jitter: ColorJitter, *, brightness: str = "multiply", channel_axis: int = -1
) -> base.Array:
    """Applies the four operations in the drawn order, with a clip to [0, 1] after each; `image` is one image.

    Reference: google-research/simclr data_util.color_jitter_rand. Brightness "multiply" is its impl "simclrv2",
    "add" its impl "simclrv1".
    """
    check_jitter(0.0, brightness)
    brighten = adjust_brightness if brightness == "multiply" else adjust_brightness_additive

    def clip(x: base.Array) -> base.Array:
        return jnp.clip(x, 0.0, 1.0)

    # One branch per operation: where images are taken one by one only the drawn operation runs.
    branches = (
        lambda x: clip(brighten(x, jitter.brightness)),
        lambda x: clip(adjust_contrast(x, jitter.contrast, channel_axis=channel_axis)),
        lambda x: clip(adjust_saturation(x, jitter.saturation, channel_axis=channel_axis)),
        lambda x: clip(adjust_hue(x, jitter.hue, channel_axis=channel_axis)),
    )
    for place in range(len(branches)):
        image = lax.switch(jitter.order[place], branches, image)
    return image


def adjust_color_jitter_at_once(
    channels: Channels, jitter: ColorJitter, applied: base.Array, *, brightness: str = "multiply"
) -> Channels:
    """`adjust_color_jitter` where the bool scalar `applied`, for many images at once under `vmap`.

    Takes and returns (red, green, blue), float32 [H, W] each. Under `vmap` every branch of a switch runs, and a switch
    between whole images writes each of them to memory. Here the operations are selected pixel by pixel, and the
    contrast, the only one that needs the whole image, is computed once: the other three, in their order, run before it
    or after it.
    """
    check_jitter(0.0, brightness)
    place = jnp.argmax(jitter.order == 1).astype(jnp.int32)
    steps = jnp.arange(3, dtype=jnp.int32)
    operations = jnp.where(place <= steps, jitter.order[1:], jitter.order[:3])

    def replace(x: Channels, new: Channels, where: base.Array) -> Channels:
        return tuple(jnp.where(where, n, o) for n, o in zip(new, x, strict=True))

    def step(x: Channels, which: tuple[base.Array, base.Array]) -> tuple[Channels, None]:
        operation, active = which
        return replace(x, _select_pointwise(x, operation, jitter, brightness=brightness), active), None

    x = _in_turn(step, channels, (operations, applied & (steps < place)))
    # A barrier: what comes after the means reads the image that they were taken of, and does not make it again.
    x = lax.optimization_barrier(x)
    x = replace(x, tuple(_contrast_to_mean(c, _mean(c), jitter.contrast) for c in x), applied)
    return _in_turn(step, x, (operations, applied & (steps >= place)))


def _in_turn(step: Callable[..., tuple[Channels, None]], x: Channels, whiches: tuple[base.Array, ...]) -> Channels:
    """The three steps as a loop on a CPU, whose compiler fuses them to code that runs each of them many times over."""

    def one_by_one(x: Channels, whiches: tuple[base.Array, ...]) -> Channels:
        for k in range(3):
            x, _ = step(x, tuple(which[k] for which in whiches))
        return x

    return lax.platform_dependent(x, whiches, cpu=lambda x, w: lax.scan(step, x, w)[0], default=one_by_one)


def _select_pointwise(channels: Channels, operation: base.Array, jitter: ColorJitter, *, brightness: str) -> Channels:
    """Brightness, saturation or hue, whichever `operation` names, and a clip to [0, 1]."""
    brighten = adjust_brightness if brightness == "multiply" else adjust_brightness_additive
    value, ratio = _saturation(channels, jitter.saturation)
    low, chroma, hue = _turned_hue(channels, jitter.hue)
    results = []
    for channel, lag in zip(channels, _HUE_LAGS, strict=True):
        turned = _hue_wave(low, chroma, hue, _scalar(lag, channel))
        saturated = value - (value - channel) * ratio
        brightened = brighten(channel, jitter.brightness)
        chosen = jnp.where(operation == 0, brightened, jnp.where(operation == 2, saturated, turned))
        results.append(jnp.clip(chosen, 0.0, 1.0))
    return tuple(results)


def _mean(channel: base.Array) -> base.Array:
    # One axis at a time, as in `adjust_contrast`.
    return jnp.mean(jnp.mean(channel, axis=1), axis=0)


def _contrast_to_mean(channel: base.Array, mean: base.Array, factor: base.Array) -> base.Array:
    return jnp.clip((channel - mean) * factor + mean, 0.0, 1.0)


def adjust_grayscale_at_once(channels: Channels, applied: base.Array) -> Channels:
    """`adjust_grayscale` where the bool scalar `applied`, for (red, green, blue) as above."""
    luma = _luma(channels)
    return tuple(jnp.where(applied, luma, channel) for channel in channels)


def random_brightness(key: base.Array, image: base.Array, *, limit: float) -> tuple[base.Array, base.Array]:
    """Brightness times U[max(1 - limit, 0), 1 + limit): (image, factor)."""
    factor = jax.random.uniform(key, (), jnp.float32, max(1 - limit, 0.0), 1 + limit)
    return adjust_brightness(image, factor), factor


def random_brightness_additive(key: base.Array, image: base.Array, *, limit: float) -> tuple[base.Array, base.Array]:
    """Brightness plus U[-limit, limit): (image, offset)."""
    delta = jax.random.uniform(key, (), jnp.float32, -limit, limit)
    return adjust_brightness_additive(image, delta), delta


def random_contrast(key: base.Array, image: base.Array, *, limit: float) -> tuple[base.Array, base.Array]:
    """Contrast times U[1 - limit, 1 + limit): (image, factor). Raises InputError for a limit outside [0, 1]."""
    factor = _uniform_around_one(key, limit, "contrast")
    return adjust_contrast(image, factor), factor


def random_saturation(key: base.Array, image: base.Array, *, limit: float) -> tuple[base.Array, base.Array]:
    """Saturation times U[1 - limit, 1 + limit): (image, factor). Raises InputError for a limit outside [0, 1]."""
    factor = _uniform_around_one(key, limit, "saturation")
    return adjust_saturation(image, factor), factor


def random_hue(key: base.Array, image: base.Array, *, limit: float) -> tuple[base.Array, base.Array]:
    """Hue shifted by U[-limit, limit) turns: (image, shift). Raises InputError for a limit outside [0, 0.5]."""
    delta = _uniform_hue(key, limit)
    return adjust_hue(image, delta), delta


def random_grayscale(key: base.Array, image: base.Array, *, probability: float) -> tuple[base.Array, base.Array]:
    """Grey with `probability`: (image, whether it was made grey, bool)."""
    applied = jax.random.bernoulli(key, probability)
    return jnp.where(applied, adjust_grayscale(image), image), applied


def random_color_jitter(
    key: base.Array, image: base.Array, *, strength: float = 1.0, brightness: str = "multiply"
) -> tuple[base.Array, ColorJitter]:
    """Colour jitter with fresh draws: (image clipped to [0, 1], draws). Raises InputError as `draw_color_jitter`."""
    jitter = draw_color_jitter(key, strength=strength, brightness=brightness)
    return adjust_color_jitter(image, jitter, brightness=brightness), jitter
