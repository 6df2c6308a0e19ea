"""Solarisation: bright pixels are inverted, dark ones stay."""

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.augment import pixels


def draw_solarize(key: base.Array, *, probability: float | base.Array = 0.2) -> base.Array:
    """Whether to solarise, a bool scalar, True with `probability`.

    Example:
        >>> bool(augment.draw_solarize(key, probability=1.0))
        True
    """
    return jax.random.uniform(key) < probability


def adjust_solarize(image: base.Array, *, threshold: float = 0.5) -> base.Array:
    """1 - x where x >= `threshold`, else x; of a float image in [0, 1] of any layout, or uint8 [0, 255].

    Float32 out. At 0.5 it gives what 255 - x at 128 gives for bytes, as 127 / 255 < 0.5 <= 128 / 255.

    Reference: BYOL, appendix B; deepmind-research byol/utils/augmentations.solarize, torchvision's RandomSolarize.

    Example:
        >>> augment.adjust_solarize(jnp.asarray([0.25, 0.5, 1.0])).tolist()
        [0.25, 0.5, 0.0]
    """
    image = pixels.as_float(image)
    return jnp.where(image >= threshold, 1 - image, image)


def random_solarize(key: base.Array, image: base.Array, *, probability: float = 0.2) -> base.Array:
    """`image`, with `probability` solarised at 0.5.

    Example:
        >>> augment.random_solarize(key, image).shape
        (8, 10, 3)
    """
    image = pixels.as_float(image)
    return jnp.where(draw_solarize(key, probability=probability), adjust_solarize(image), image)
