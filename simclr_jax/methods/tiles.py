"""A grid of tiles cut out of an image, as pretext tasks take them, and the random numbers of every image's own.

Tiles are chosen by products with matrices of zeros and ones: exact, and an image's pixels stay on its device.
"""

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.methods import parts

Array = jax.Array


def row_keys(key: Array, batch: base.Batch) -> Array:
    """A key [B] for every image, from its place in the global batch: the same on all numbers of devices and chunks."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["position"])


def check_share(tile_share: float) -> None:
    """Raises InputError unless a tile may take this share of its cell's side."""
    if not 0 < tile_share <= 1:
        raise base.InputError(f"tile_share must be above 0 and at most 1; got {tile_share}. Use 0.85, or 1.0 for all.")


def tile_size(image_size: int, num_side: int, tile_share: float) -> int:
    """The side of a tile in pixels, at least 1, where `num_side` cells a side share an image of `image_size`.

    Raises:
        InputError: there are more cells than pixels.
    """
    if image_size < num_side:
        raise base.InputError(
            f"augment.image_size must be at least {num_side} for a grid of {num_side} x {num_side} tiles; "
            f"got {image_size}. Use 48."
        )
    return max(1, round(tile_share * (image_size // num_side)))


def make_init(net: parts.Parts, *, num_side: int, tile_share: float) -> base.Init:
    """`init` of a method whose network sees tiles of its views: by shapes alone, so that no tile is cut."""

    def init(key: Array, views: Array) -> tuple[base.PyTree, base.PyTree]:
        size = tile_size(views.shape[2], num_side, tile_share)
        params, batch_stats = net.init(key, jax.ShapeDtypeStruct((2, size, size, 3), views.dtype))
        return params, {"batch_stats": batch_stats}

    return init


def cut(keys: Array, images: Array, *, num_side: int, tile_share: float) -> Array:
    """Tiles [B, n * n, t, t, 3] of images [B, S, S, 3], row by row from the top left one, n = num_side.

    The image is divided into n x n cells of S // n pixels a side. Of each a tile is kept, t = tile_share of the cell's
    side, at a place in the cell that every image draws from its own of `keys` [B]: tiles do not touch by more than
    chance, so that lines which go on in the next tile do not give its place away.
    """
    cell = images.shape[1] // num_side
    side = tile_size(images.shape[1], num_side, tile_share)
    used = images[:, : cell * num_side, : cell * num_side]
    cells = used.reshape(-1, num_side, cell, num_side, cell, 3)
    places = jax.vmap(lambda k: jax.random.randint(k, (2, num_side, num_side), 0, cell - side + 1))(keys)
    pixels = jnp.arange(side, dtype=places.dtype)[:, None] + places[..., None, None]  # [B, 2, n, n, t, 1]
    chosen = (pixels == jnp.arange(cell, dtype=places.dtype)).astype(images.dtype)  # [B, 2, n, n, t, cell]
    tiles = jnp.einsum(
        "bijyp,bijxq,bipjqc->bijyxc", chosen[:, 0], chosen[:, 1], cells, precision=jax.lax.Precision.HIGHEST
    )
    return tiles.reshape(-1, num_side**2, side, side, 3)


def reorder(rows: Array, order: Array) -> Array:
    """Rows [B, n, ...] of every image in its own order, int [B, n]: row i of the result is row order_i."""
    chosen = (order[..., None] == jnp.arange(rows.shape[1], dtype=order.dtype)).astype(rows.dtype)
    return jnp.einsum("bij,bj...->bi...", chosen, rows, precision=jax.lax.Precision.HIGHEST)


def overlapping(images: Array, num_side: int) -> Array:
    """Patches [B, G, G, p, p, 3] of images [B, S, S, 3], G = num_side, that overlap their neighbours by half.

    p = 2 S / (G + 1).

    Raises:
        InputError: S is not a multiple of G + 1.
    """
    size = images.shape[1]
    if size % (num_side + 1):
        raise base.InputError(
            f"augment.image_size must be a multiple of grid_size + 1 for patches that overlap by half; got {size} and "
            f"grid_size {num_side}. Use grid_size 7 with 32 or 64 pixels."
        )
    step = size // (num_side + 1)
    halves = images.reshape(-1, num_side + 1, step, num_side + 1, step, 3)
    rows = jnp.concatenate([halves[:, :-1], halves[:, 1:]], axis=2)  # [B, G, p, G + 1, step, 3]
    patches = jnp.concatenate([rows[:, :, :, :-1], rows[:, :, :, 1:]], axis=4)  # [B, G, p, G, p, 3]
    return jnp.swapaxes(patches, 2, 3)
