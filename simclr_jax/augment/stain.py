"""Stain jitter for histology: the amounts of haematoxylin, eosin and residual change, as between laboratories.

Light that passes a stained slide is absorbed by each stain in proportion to its amount, so that logarithms of colours
are sums over stains. Colours are separated into amounts, these are scaled and shifted, and colours made again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base
from simclr_jax.augment import pixels

# Absorption of red, green and blue by haematoxylin, eosin and DAB (Ruifrok and Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_UNMIX = tuple(map(tuple, np.linalg.inv(np.asarray(STAINS)).tolist()))
_DARKEST = 1e-6
_SCALE = float(np.log(_DARKEST))


class Stain(NamedTuple):
    """What is done to the amounts of the three stains: scale, shift float32 [3]."""

    scale: base.Array
    shift: base.Array


def draw_stain(key: base.Array, *, strength: float = 0.05) -> Stain:
    """Scales in 1 +- strength and shifts in +- strength, evenly.

    Example:
        >>> augment.draw_stain(key, strength=0.2).scale.shape
        (3,)
    """
    scale, shift = jax.random.uniform(key, (2, 3), jnp.float32, -strength, strength)
    return Stain(1 + scale, shift)


def stained(channels: tuple[base.Array, ...], stain: Stain) -> tuple[base.Array, base.Array, base.Array]:
    """The channels of an image in [0, 1] with other amounts of the stains, clipped to [0, 1]."""
    logs = [jnp.log(jnp.maximum(channel, _DARKEST)) * (1 / _SCALE) for channel in channels]
    amounts = []
    for number in range(3):
        amount = sum(logs[c] * _UNMIX[c][number] for c in range(3))
        amounts.append(amount * stain.scale[number] + stain.shift[number])
    mixed = (sum(amounts[number] * STAINS[number][c] for number in range(3)) for c in range(3))
    red, green, blue = (jnp.clip(jnp.exp(_SCALE * value), 0.0, 1.0) for value in mixed)
    return red, green, blue


def adjust_stain(image: base.Array, stain: Stain, *, channel_axis: int = -1) -> base.Array:
    """The image with amounts of haematoxylin, eosin and DAB scaled and shifted.

    Args:
        image: float in [0, 1] or uint8; float32 out, in [0, 1].
        stain: see `draw_stain`. Scales of 1 and shifts of 0 leave the image.
        channel_axis: of length 3.

    Reference: Tellez et al. 2018 (arXiv 1808.05896), section III-B, with the stains of Ruifrok and Johnston 2001 and
    the units of scikit-image's rgb2hed. Difference: negative amounts are kept, so that no jitter changes nothing.

    Example:
        >>> still = augment.Stain(jnp.ones(3), jnp.zeros(3))
        >>> bool(jnp.allclose(augment.adjust_stain(image, still), image, atol=1e-5))
        True
    """
    image = pixels.as_float(image)
    red, green, blue = (jnp.squeeze(part, channel_axis) for part in jnp.split(image, 3, axis=channel_axis))
    return jnp.stack(stained((red, green, blue), stain), axis=channel_axis)


def random_stain(key: base.Array, image: base.Array, *, strength: float = 0.05) -> base.Array:
    """`image` [H, W, 3] with a drawn jitter of its stains: 0.05 is light, 0.2 strong.

    Example:
        >>> augment.random_stain(key, image).shape
        (8, 10, 3)
    """
    return adjust_stain(image, draw_stain(key, strength=strength))
