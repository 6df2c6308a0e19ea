"""Mirroring images left to right."""

import jax
import jax.numpy as jnp

from simclr_jax import base


def adjust_flip(image: base.Array, flip: base.Array | bool) -> base.Array:
    """`image` [H, W, 3] mirrored left to right where the bool scalar `flip` is True.

    Example:
        >>> augment.adjust_flip(jnp.arange(6).reshape(1, 2, 3), True).tolist()
        [[[3, 4, 5], [0, 1, 2]]]
    """
    return jnp.where(jnp.asarray(flip, jnp.bool_), image[:, ::-1], image)


def draw_flip(key: base.Array, *, probability: float = 0.5) -> base.Array:
    """Whether to mirror an image: bool scalar, True with `probability`.

    Example:
        >>> augment.draw_flip(key).dtype
        dtype('bool')
    """
    return jax.random.bernoulli(key, probability)


def random_flip(key: base.Array, image: base.Array, *, probability: float = 0.5) -> base.Array:
    """`image` [H, W, 3], mirrored left to right with `probability`; its type stays.

    Example:
        >>> augment.random_flip(key, image).shape
        (8, 10, 3)
    """
    return adjust_flip(image, draw_flip(key, probability=probability))
