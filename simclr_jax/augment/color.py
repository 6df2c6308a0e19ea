"""Colour operations: brightness, contrast, saturation, hue and grey. `color_jitter` chains them.

Every function takes float images of any leading shape, by default [H, W, 3]; `channel_axis` says where the channels
are. Nothing clips. Brightness and contrast treat every channel alike, however many there are. Saturation, hue and grey
are of red, green and blue: an image of any other number of channels (1 = grey) has none of them and stays as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from simclr_jax import base
from simclr_jax.augment import pixels

_GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
HUE_LAGS = (0.0, 2.0, 4.0)


Channels = tuple[base.Array, ...]


def _channels(image: base.Array, axis: int) -> tuple[base.Array, base.Array, base.Array]:
    red, green, blue = (lax.slice_in_dim(image, c, c + 1, axis=axis) for c in range(3))
    return red, green, blue


def _has_color(image: base.Array, axis: int) -> bool:
    return image.shape[axis] == 3


def _spatial_axes(image: base.Array, channel_axis: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(image.ndim) if axis != channel_axis % image.ndim)


def scalar(value: base.Array | float, image: base.Array) -> base.Array:
    """`value` in the type of `image`."""
    return jnp.asarray(value, image.dtype)


def adjust_brightness(image: base.Array, factor: base.Array | float) -> base.Array:
    """`image` times `factor` (SimCLRv2's form).

    Reference: google-research/simclr data_util.random_brightness, impl "simclrv2".

    Example:
        >>> float(augment.adjust_brightness(image, 1.5)[0, 0, 0])
        0.75
    """
    image = pixels.as_float(image)
    return image * scalar(factor, image)


def adjust_brightness_additive(image: base.Array, delta: base.Array | float) -> base.Array:
    """`image` plus `delta` (the form of the first SimCLR release).

    Reference: google-research/simclr data_util.random_brightness, impl "simclrv1".

    Example:
        >>> float(augment.adjust_brightness_additive(image, 0.25)[0, 0, 0])
        0.75
    """
    image = pixels.as_float(image)
    return image + scalar(delta, image)


def adjust_contrast(image: base.Array, factor: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """Distances from each channel's own mean times `factor`; `image` is one image.

    Reference: tf.image.adjust_contrast. Not torchvision's contrast, which blends with the mean grey value.

    Example:
        >>> augment.adjust_contrast(image, 0.8).shape
        (8, 10, 3)
    """
    mean = image = pixels.as_float(image)
    # One axis at a time: each step is a sum of whole rows, which vectorises and rounds less than one long sum.
    for axis in _spatial_axes(image, channel_axis):
        mean = jnp.mean(mean, axis=axis, keepdims=True)
    return (image - mean) * scalar(factor, image) + mean


def adjust_saturation(image: base.Array, factor: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """HSV saturation times `factor` (>= 0), limited to [0, 1]; hue and value stay.

    A channel at distance d below the pixel's largest value moves to distance d * S' / S, so no HSV image is formed.
    Pixels whose three channels are <= 0 (bicubic overshoot) have no saturation and become their largest value.

    Reference: tf.image.adjust_saturation.

    Example:
        >>> augment.adjust_saturation(jnp.asarray([[[0.5, 0.25, 0.25]]]), 0.0).tolist()
        [[[0.5, 0.5, 0.5]]]
    """
    image = pixels.as_float(image)
    if not _has_color(image, channel_axis):
        return image
    value, ratio = saturation_ratio(_channels(image, channel_axis), factor)
    return value - (value - image) * ratio


def saturation_ratio(channels: Channels, factor: base.Array | float) -> tuple[base.Array, base.Array]:
    """(largest value, what a channel's distance below it is multiplied by) of every pixel."""
    red, green, blue = channels
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    largest_ratio = value / jnp.where(chroma > 0, chroma, scalar(1.0, red))
    return value, jnp.maximum(jnp.minimum(scalar(factor, red), largest_ratio), scalar(0.0, red))


def adjust_hue(image: base.Array, delta: base.Array | float, *, channel_axis: int = -1) -> base.Array:
    """HSV hue shifted by `delta` turns, modulo 1; the largest and smallest channel value of a pixel stay.

    Hue is carried multiplied by six times the chroma, which needs no division and is exact for grey pixels.

    Reference: tf.image.adjust_hue.

    Example:
        >>> augment.adjust_hue(jnp.asarray([[[1.0, 0.0, 0.0]]]), 0.5).tolist()
        [[[0.0, 1.0, 1.0]]]
    """
    image = pixels.as_float(image)
    if not _has_color(image, channel_axis):
        return image
    low, chroma, hue = turned_hue(_channels(image, channel_axis), delta)
    shape = [1] * image.ndim
    shape[channel_axis] = 3
    return hue_wave(low, chroma, hue, lag=jnp.asarray(np.reshape(HUE_LAGS, shape), image.dtype))


def turned_hue(channels: Channels, delta: base.Array | float) -> tuple[base.Array, base.Array, base.Array]:
    """(smallest value, chroma, hue after the shift in [0, 12) chroma) of every pixel."""
    red, green, blue = channels
    top = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = top - low
    hue = jnp.where(
        top == red, green - blue, jnp.where(top == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    delta = scalar(delta, red)
    return low, chroma, hue + (delta - jnp.floor(delta)) * (6 * chroma)


def hue_wave(low: base.Array, chroma: base.Array, hue: base.Array, *, lag: base.Array) -> base.Array:
    """A channel's value: green and blue follow red's triangle wave, a third and two thirds of a turn later."""
    zero, turn = scalar(0.0, low), 6 * chroma
    phase = hue - lag * chroma
    phase = phase + jnp.where(phase < 0, turn, zero) - jnp.where(phase >= turn, turn, zero)
    return low + jnp.minimum(jnp.maximum(jnp.abs(phase - 3 * chroma) - chroma, zero), chroma)


def adjust_grayscale(image: base.Array, *, channel_axis: int = -1) -> base.Array:
    """The luma 0.2989 R + 0.5870 G + 0.1140 B in all three channels.

    Reference: tf.image.rgb_to_grayscale.

    Example:
        >>> augment.adjust_grayscale(image).shape
        (8, 10, 3)
    """
    image = pixels.as_float(image)
    if not _has_color(image, channel_axis):
        return image
    return jnp.broadcast_to(luma(_channels(image, channel_axis)), image.shape)


def luma(channels: Channels) -> base.Array:
    """The grey value 0.2989 R + 0.5870 G + 0.1140 B of every pixel."""
    parts = zip(channels, _GREY_WEIGHTS, strict=True)
    red, green, blue = (channel * scalar(weight, channel) for channel, weight in parts)
    return red + green + blue


def _uniform_around_one(key: base.Array, limit: float, name: str) -> base.Array:
    if not 0 <= limit <= 1:
        raise base.InputError(f"{name} limit must be in [0, 1]; got {limit:g}. Use 0.8.")
    return jax.random.uniform(key, (), jnp.float32, 1 - limit, 1 + limit)


def _uniform_hue(key: base.Array, limit: float) -> base.Array:
    if not 0 <= limit <= 0.5:
        raise base.InputError(f"hue limit must be in [0, 0.5] turns; got {limit:g}. Use 0.2.")
    return jax.random.uniform(key, (), jnp.float32, -limit, limit)


def adjust_grayscale_at_once(channels: Channels, applied: base.Array) -> Channels:
    """`adjust_grayscale` where the bool scalar `applied`, for its channels, one array each."""
    if len(channels) != 3:
        return channels
    gray = luma(channels)
    return tuple(jnp.where(applied, gray, channel) for channel in channels)


def draw_brightness(key: base.Array, *, limit: float = 0.8) -> base.Array:
    """A factor for `adjust_brightness`: float32 ~ U[max(1 - limit, 0), 1 + limit).

    Example:
        >>> 0.2 <= float(augment.draw_brightness(key, limit=0.8)) < 1.8
        True
    """
    return jax.random.uniform(key, (), jnp.float32, max(1 - limit, 0.0), 1 + limit)


def random_brightness(key: base.Array, image: base.Array, *, limit: float = 0.8) -> base.Array:
    """`image` with its brightness times U[max(1 - limit, 0), 1 + limit); not clipped.

    Example:
        >>> augment.random_brightness(key, image).shape
        (8, 10, 3)
    """
    return adjust_brightness(image, draw_brightness(key, limit=limit))


def draw_brightness_additive(key: base.Array, *, limit: float = 0.8) -> base.Array:
    """An offset for `adjust_brightness_additive`: float32 ~ U[-limit, limit).

    Example:
        >>> abs(float(augment.draw_brightness_additive(key, limit=0.1))) <= 0.1
        True
    """
    return jax.random.uniform(key, (), jnp.float32, -limit, limit)


def random_brightness_additive(key: base.Array, image: base.Array, *, limit: float = 0.8) -> base.Array:
    """`image` plus U[-limit, limit), the first SimCLR release's brightness; not clipped.

    Example:
        >>> augment.random_brightness_additive(key, image, limit=0.1).shape
        (8, 10, 3)
    """
    return adjust_brightness_additive(image, draw_brightness_additive(key, limit=limit))


def draw_contrast(key: base.Array, *, limit: float = 0.8) -> base.Array:
    """A factor for `adjust_contrast`: float32 ~ U[1 - limit, 1 + limit). Raises InputError for one outside [0, 1].

    Example:
        >>> 0.5 <= float(augment.draw_contrast(key, limit=0.5)) < 1.5
        True
    """
    return _uniform_around_one(key, limit, "contrast")


def random_contrast(key: base.Array, image: base.Array, *, limit: float = 0.8) -> base.Array:
    """`image` with its contrast times U[1 - limit, 1 + limit). Raises InputError for a limit outside [0, 1].

    Example:
        >>> augment.random_contrast(key, image).shape
        (8, 10, 3)
    """
    return adjust_contrast(image, draw_contrast(key, limit=limit))


def draw_saturation(key: base.Array, *, limit: float = 0.8) -> base.Array:
    """A factor for `adjust_saturation`: float32 ~ U[1 - limit, 1 + limit). Raises InputError outside [0, 1].

    Example:
        >>> 0.5 <= float(augment.draw_saturation(key, limit=0.5)) < 1.5
        True
    """
    return _uniform_around_one(key, limit, "saturation")


def random_saturation(key: base.Array, image: base.Array, *, limit: float = 0.8) -> base.Array:
    """`image` with its saturation times U[1 - limit, 1 + limit). Raises InputError for a limit outside [0, 1].

    Example:
        >>> augment.random_saturation(key, image).shape
        (8, 10, 3)
    """
    return adjust_saturation(image, draw_saturation(key, limit=limit))


def draw_hue(key: base.Array, *, limit: float = 0.2) -> base.Array:
    """A shift in turns for `adjust_hue`: float32 ~ U[-limit, limit). Raises InputError outside [0, 0.5].

    Example:
        >>> abs(float(augment.draw_hue(key, limit=0.2))) <= 0.2
        True
    """
    return _uniform_hue(key, limit)


def random_hue(key: base.Array, image: base.Array, *, limit: float = 0.2) -> base.Array:
    """`image` with its hue shifted by U[-limit, limit) turns. Raises InputError for a limit outside [0, 0.5].

    Example:
        >>> augment.random_hue(key, image, limit=0.1).shape
        (8, 10, 3)
    """
    return adjust_hue(image, draw_hue(key, limit=limit))


def draw_grayscale(key: base.Array, *, probability: float = 0.2) -> base.Array:
    """Whether to make an image grey: bool scalar, True with `probability`.

    Example:
        >>> bool(augment.draw_grayscale(key, probability=1.0))
        True
    """
    return jax.random.bernoulli(key, probability)


def random_grayscale(key: base.Array, image: base.Array, *, probability: float = 0.2) -> base.Array:
    """`image`, made grey with `probability`.

    Example:
        >>> augment.random_grayscale(key, image).shape
        (8, 10, 3)
    """
    image = pixels.as_float(image)
    return jnp.where(draw_grayscale(key, probability=probability), adjust_grayscale(image), image)
