"""Turning square images by right angles: for pictures without an up, such as tissue and satellite images."""

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax import base


def draw_turn(key: base.Array, *, probability: float = 1.0) -> base.Array:
    """How many quarter turns, int32 scalar in 0 to 3: with `probability` drawn evenly, else 0.

    Example:
        >>> augment.draw_turn(key).dtype
        dtype('int32')
    """
    turned = jax.random.uniform(jax.random.fold_in(key, 0)) < probability
    return jnp.where(turned, jax.random.randint(jax.random.fold_in(key, 1), (), 0, 4), 0)


def adjust_turn(image: base.Array, turns: base.Array | int, *, axes: tuple[int, int] = (0, 1)) -> base.Array:
    """`image`, square along `axes` (rows, columns), turned counter-clockwise by `turns` right angles.

    Example:
        >>> augment.adjust_turn(jnp.asarray([[1, 2], [3, 4]])[..., None], 1)[..., 0].tolist()
        [[2, 4], [1, 3]]
    """
    ways = [lambda x, k=k: jnp.rot90(x, k, axes=axes) for k in range(4)]
    return lax.switch(jnp.asarray(turns, jnp.int32), ways, image)


def random_turn(key: base.Array, image: base.Array, *, probability: float = 1.0) -> base.Array:
    """A square `image` [H, H, 3] turned by a drawn right angle.

    Example:
        >>> augment.random_turn(key, image[:8, :8]).shape
        (8, 8, 3)
    """
    return adjust_turn(image, draw_turn(key, probability=probability))
