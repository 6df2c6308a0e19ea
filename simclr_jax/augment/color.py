"""Colour operations: brightness, contrast, saturation, hue, grey and the jitter that chains them.

Every function takes float RGB images of any leading shape, by default [H, W, 3]; `channel_axis` says where the three
channels are. Nothing clips except the jitter, which clips to [0, 1] after each of its four operations.
"""

import itertools
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
    red, green, blue = _channels(image, channel_axis)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    largest_ratio = value / jnp.where(chroma > 0, chroma, _scalar(1.0, image))
    ratio = jnp.maximum(jnp.minimum(_scalar(factor, image), largest_ratio), _scalar(0.0, image))
    return value - (value - image) * ratio


def adjust_hue(image: base.Array, delta: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """HSV hue shifted by `delta` turns, modulo 1; the largest and smallest channel value of a pixel stay.

    Hue is carried multiplied by six times the chroma, which needs no division and is exact for grey pixels.

    Reference: tf.image.adjust_hue.
    """
    red, green, blue = _channels(image, channel_axis)
    top = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = top - low
    zero = _scalar(0.0, image)
    hue = jnp.where(
        top == red, green - blue, jnp.where(top == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    turn = 6 * chroma
    delta = _scalar(delta, image)
    hue = hue + (delta - jnp.floor(delta)) * turn
    # Green and blue follow the same triangle wave as red, a third and two thirds of a turn later.
    shape = [1] * image.ndim
    shape[channel_axis] = 3
    lag = jnp.asarray(np.reshape([0.0, 2.0, 4.0], shape), image.dtype)
    phase = hue - lag * chroma
    phase = phase + jnp.where(phase < 0, turn, zero) - jnp.where(phase >= turn, turn, zero)
    return low + jnp.minimum(jnp.maximum(jnp.abs(phase - 3 * chroma) - chroma, zero), chroma)


def adjust_grayscale(image: base.Array, *, channel_axis: int = -1) -> base.Array:
    """The luma 0.2989 R + 0.5870 G + 0.1140 B in all three channels.

    Reference: tf.image.rgb_to_grayscale.
    """
    parts = zip(_channels(image, channel_axis), _GREY_WEIGHTS, strict=True)
    red, green, blue = (channel * _scalar(weight, image) for channel, weight in parts)
    return jnp.broadcast_to(red + green + blue, image.shape)


def check_jitter(strength: float, brightness: str) -> None:
    """Raises InputError unless the reference accepts this jitter strength and brightness form."""
    if brightness not in BRIGHTNESS_FORMS:
        raise base.InputError(
            f"brightness must be one of {', '.join(BRIGHTNESS_FORMS)}; got {brightness!r}. Use 'multiply'."
        )
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
