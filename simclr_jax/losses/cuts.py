"""How the rows of a chunk are cut into the blocks between which `tiles` computes.

A chunk is the rows of some images, both views: all of them on one device, a device's share on several. `cut` orders it
view by view and cuts it into 2n blocks of t rows, block i of view 1 facing block n + i of view 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Tiling(NamedTuple):
    """How a chunk is cut, known when compiling.

    num_images: of the chunk, b. size: rows of a block, t. area: entries of a tile at most. bounded: whether no
    similarity exceeds 1 and exp(-2 scale) does not underflow; one exponential, exp(scale (s - 1)), then serves both
    rows of an entry.
    """

    num_images: int
    size: int
    area: int
    bounded: bool

    @property
    def num_blocks(self) -> int:
        """Blocks of one view, n; the last may end in rows that are padding."""
        return -(-self.num_images // self.size)


def make_tiling(count: int, *, block_size: int, bounded: bool) -> Tiling:
    """The tiling of `count` images in the fewest blocks of at most `block_size` rows, which come out equally large."""
    num_blocks = -(-count // block_size)
    return Tiling(count, -(-count // num_blocks), block_size**2, bounded)


def cut(u: Array, tiling: Tiling) -> Array:
    """Rows [b, 2, d] as blocks [2n, t, d]; padding rows are zero."""
    padding = tiling.num_blocks * tiling.size - tiling.num_images
    u = jnp.pad(u.swapaxes(0, 1), ((0, 0), (0, padding), (0, 0)))
    return u.reshape(2 * tiling.num_blocks, tiling.size, u.shape[-1])


def join(blocks: Array, tiling: Tiling) -> Array:
    """The inverse of `cut`: [2n, t, d] -> [b, 2, d]."""
    rows = blocks.reshape(2, -1, blocks.shape[-1])
    return rows[:, : tiling.num_images].swapaxes(0, 1)


def sum_images(values: Array, tiling: Tiling) -> Array:
    """The sum of values [n, t] or [2n, t] without padding rows, by halves: one after the other, errors add up too."""
    values = values.reshape(-1, tiling.num_blocks * tiling.size)[:, : tiling.num_images].ravel()
    while values.size > 1:
        half = values.size // 2
        values = jnp.concatenate([values[:half] + values[half : 2 * half], values[2 * half :]])
    return values[0]
