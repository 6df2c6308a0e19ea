"""The colour jitter: the four colour operations in random order, each followed by a clip to [0, 1].

One form takes an image at a time, which suits a CPU, the other many at once, which suits accelerators.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from simclr_jax import base
from simclr_jax.augment import color, pixels

Channels = color.Channels

# The jitter's operations in the numbering of `ColorJitter.order`.
OPERATIONS = ("brightness", "contrast", "saturation", "hue")
BRIGHTNESS_FORMS = ("multiply", "add")

_ORDERS = np.asarray(list(itertools.permutations(range(4))), np.int32)


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


def check_jitter(strength: float | Sequence[float], brightness: str, *, name: str = "strength") -> None:
    """Raises InputError unless the reference accepts this jitter strength, called `name`, and brightness form."""
    base.check_choice(brightness, BRIGHTNESS_FORMS, name="brightness", remedy="Use 'multiply'.")
    if not isinstance(strength, int | float):
        if len(strength) != 4 or not all(0 <= x <= 1 for x in strength) or not strength[3] <= 0.5:
            raise base.InputError(
                f"{name} must be one number, or four for brightness, contrast, saturation (0 to 1) and hue (0 to 0.5); "
                f"got {tuple(strength)}. Use for example (0.4, 0.4, 0.2, 0.1)."
            )
        return
    if not strength >= 0:
        raise base.InputError(f"{name} must be at least 0; got {strength:g}. Use 1.0, or 0.5 for small images.")
    if 0.8 * strength > 1:
        raise base.InputError(
            f"{name} must be at most 1.25, where contrast and saturation factors reach 0; got {strength:g}. Use 1.0."
        )


def draw_color_jitter(
    key: base.Array, *, strength: float | Sequence[float] = 1.0, brightness: str = "multiply"
) -> ColorJitter:
    """The random part of a colour jitter: a uniformly random order and one number per operation.

    With s = `strength`: contrast and saturation ~ U[1 - 0.8 s, 1 + 0.8 s), hue ~ U[-0.2 s, 0.2 s), brightness ~
    U[max(1 - 0.8 s, 0), 1 + 0.8 s) for "multiply" or U[-0.8 s, 0.8 s) for "add". Four numbers (brightness, contrast,
    saturation, hue) stand in place of 0.8 s, 0.8 s, 0.8 s and 0.2 s.

    Raises:
        InputError: strength above 1.25 or negative, not four numbers in their ranges, or unknown brightness form.

    Reference: SimCLR, appendix A, figure "color distortion"; google-research/simclr data_util.color_jitter_rand.

    Example:
        >>> augment.draw_color_jitter(key, strength=0.5).order.shape
        (4,)
    """
    check_jitter(strength, brightness)
    u = jax.random.uniform(key, (5,))
    if isinstance(strength, int | float):
        widths: Sequence[float] = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    else:
        widths = strength
    # One number where all are equal: the same bits as before there were four.
    equal = widths[0] == widths[1] == widths[2]
    around_one = (u[1:4] * 2 - 1) * (widths[0] if equal else np.asarray(widths[:3], np.float32)) + 1
    return ColorJitter(
        order=jnp.asarray(_ORDERS)[jnp.floor(u[0] * len(_ORDERS)).astype(jnp.int32)],
        brightness=around_one[0] if brightness == "multiply" else (u[1] * 2 - 1) * widths[0],
        contrast=around_one[1],
        saturation=around_one[2],
        hue=(u[4] * 2 - 1) * widths[3],
    )


def adjust_color_jitter(
    image: base.Array, jitter: ColorJitter, *, brightness: str = "multiply", channel_axis: int = -1
) -> base.Array:
    """Applies the four operations in the drawn order, with a clip to [0, 1] after each; `image` is one image.

    Reference: google-research/simclr data_util.color_jitter_rand. Brightness "multiply" is its impl "simclrv2",
    "add" its impl "simclrv1".

    Example:
        >>> jitter = augment.draw_color_jitter(key, strength=0.5)
        >>> augment.adjust_color_jitter(image, jitter).shape
        (8, 10, 3)
    """
    check_jitter(0.0, brightness)
    image = pixels.as_float(image)
    brighten = color.adjust_brightness if brightness == "multiply" else color.adjust_brightness_additive

    def clip(x: base.Array) -> base.Array:
        return jnp.clip(x, 0.0, 1.0)

    # One branch per operation: where images are taken one by one only the drawn operation runs.
    branches = (
        lambda x: clip(brighten(x, jitter.brightness)),
        lambda x: clip(color.adjust_contrast(x, jitter.contrast, channel_axis=channel_axis)),
        lambda x: clip(color.adjust_saturation(x, jitter.saturation, channel_axis=channel_axis)),
        lambda x: clip(color.adjust_hue(x, jitter.hue, channel_axis=channel_axis)),
    )
    for place in range(len(branches)):
        image = lax.switch(jitter.order[place], branches, image)
    return image


def adjust_color_jitter_at_once(
    channels: Channels, jitter: ColorJitter, applied: base.Array, *, brightness: str = "multiply"
) -> Channels:
    """`adjust_color_jitter` where the bool scalar `applied`, for many images at once under `vmap`.

    Takes and returns the channels (red, green, blue), float32 [H, W] each. Under `vmap` every branch of a switch runs,
    and a switch between whole images writes each of them to memory. Here the operations are selected pixel by pixel,
    and the contrast, the only one that needs the whole image, is computed once: the other three, in their order, run
    before it or after it.
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
    brighten = color.adjust_brightness if brightness == "multiply" else color.adjust_brightness_additive
    if len(channels) != 3:  # neither saturation nor hue
        for_all = [jnp.where(operation == 0, brighten(channel, jitter.brightness), channel) for channel in channels]
        return tuple(jnp.clip(channel, 0.0, 1.0) for channel in for_all)
    value, ratio = color.saturation_ratio(channels, jitter.saturation)
    low, chroma, hue = color.turned_hue(channels, jitter.hue)
    results = []
    for channel, lag in zip(channels, color.HUE_LAGS, strict=True):
        turned = color.hue_wave(low, chroma, hue, lag=color.scalar(lag, channel))
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


def random_color_jitter(
    key: base.Array, image: base.Array, *, strength: float | Sequence[float] = 1.0, brightness: str = "multiply"
) -> base.Array:
    """`image` after a colour jitter with fresh draws, in [0, 1]. Raises InputError as `draw_color_jitter`.

    Example:
        >>> augment.random_color_jitter(key, image, strength=0.5).shape
        (8, 10, 3)
    """
    jitter = draw_color_jitter(key, strength=strength, brightness=brightness)
    return adjust_color_jitter(image, jitter, brightness=brightness)
