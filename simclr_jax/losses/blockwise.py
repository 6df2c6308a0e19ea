"""NT-Xent of batches whose matrix of similarities does not fit: exact, in tiles, on one device.

`nt_xent_blockwise` keeps the projections and two numbers for each row. Tiles of logits are made, used and dropped in
the forward pass and made again in the backward pass, each unordered pair of rows once: s_ij = s_ji serves both.
`losses.sharded` holds the forms for several devices, `losses.tiles` what both are built from.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax import base
from simclr_jax.losses import cuts, inputs, tiles

Array = jax.Array

# exp(-2 / T), the smallest exponential below the fixed shift, is 1e-29 here; float32 ends at 1e-38.
MIN_FIXED_SHIFT_TEMPERATURE = 0.03


def nt_xent_blockwise(
    z: Array, *, temperature: float | Array = 0.1, block_size: int = 512, normalize: bool = True
) -> tuple[Array, dict[str, Array]]:
    """`losses.nt_xent` in memory of O(B d + block_size^2): (loss, metrics), scalars of at least float32.

    Loss and gradient are those of `losses.nt_xent` up to rounding, at any temperature; where the loss is small they
    keep more digits, since the positive's probability is never subtracted from 1. The gradient with respect to an array
    of a temperature is there as well.

    Args:
        z: [B, 2, d], projections of the global batch with the views on axis 1.
        temperature: as in `losses.nt_xent`. A number of at least 0.03 with normalised projections takes a fixed shift
            and one exponential for both directions; everything else takes running maxima and two.
        block_size: rows of a tile at most. 512 makes tiles of 1 MB, which stay in the cache of a CPU's core.
        normalize: divide each projection by its L2 norm first.

    Returns:
        The loss and metrics of `losses.nt_xent`. "contrastive_entropy" is exact, where the reference has 1e-8 inside
        its logarithm: this is larger by at most 1e-8 B.

    Raises:
        InputError: z is not [B, 2, d], temperature is not above 0, or block_size is below 1.

    Reference: as for `losses.nt_xent`. The recomputation of tiles from kept log-sum-exps follows FlashAttention
    (arXiv 2205.14135) and Inf-CL (arXiv 2410.17243); that a tile is used in both directions is particular to NT-Xent.

    Example:
        >>> z = jax.random.normal(key, (8, 2, 16))
        >>> loss, _ = losses.nt_xent_blockwise(z, temperature=0.5, block_size=4)
        >>> bool(jnp.allclose(loss, losses.nt_xent(z, temperature=0.5)[0], rtol=1e-5))
        True
    """
    u, scale, bounded = prepare(z, temperature=temperature, block_size=block_size, normalize=normalize)
    return nt_xent_in_tiles(u, scale, cuts.make_tiling(z.shape[0], block_size=block_size, bounded=bounded))


def prepare(z: Array, *, temperature: float | Array, block_size: int, normalize: bool) -> tuple[Array, Array, bool]:
    """(projections in at least float32, 1 / temperature as a scalar of their type, whether a shift by it serves all).

    Raises:
        InputError: an argument is not as `nt_xent_blockwise` says.
    """
    inputs.check_views(z, "nt_xent")
    inputs.check_positive("temperature", temperature, "SimCLR uses 0.1 to 0.5.")
    if block_size < 1:
        raise base.InputError(f"block_size must be at least 1; got {block_size}. Use 512.")
    z = inputs.unit_rows(z) if normalize else inputs.wide(z)
    if isinstance(temperature, Array):
        return z, 1 / temperature.astype(z.dtype), False
    bounded = normalize and temperature >= MIN_FIXED_SHIFT_TEMPERATURE
    return z, jnp.asarray(1 / temperature, z.dtype), bounded


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def nt_xent_in_tiles(u: Array, scale: Array, tiling: cuts.Tiling) -> tuple[Array, dict[str, Array]]:
    """The loss and metrics of projections u [B, 2, d] as they are, for 1 / temperature and a tiling of all images."""
    return _forward(u, scale, tiling)[0]


def _forward(u: Array, scale: Array, tiling: cuts.Tiling) -> tuple[Any, Any]:
    blocks = cuts.cut(u, tiling)
    values = tiles.finish(tiles.sum_own(blocks, scale, tiling), scale, tiling)
    return summarize(sum_values(values, tiling), tiling.num_images), (u, scale, values)


def _backward(tiling: cuts.Tiling, residuals: Any, cotangents: Any) -> tuple[Array, Array]:
    u, scale, values = residuals
    total = tiles.pull_own(cuts.cut(u, tiling), values, scale=scale, tiling=tiling)
    return scale_gradient(cuts.join(total, tiling), u, scale, cotangent=cotangents[0] / (2 * tiling.num_images))


nt_xent_in_tiles.defvjp(_forward, _backward)


def sum_values(values: tiles.RowValues, tiling: cuts.Tiling) -> Array:
    """[3]: the sums of losses over 2b anchors, and of correct choices and entropies over b."""
    return jnp.stack([cuts.sum_images(x, tiling) for x in (values.losses, values.correct, values.entropies)])


def summarize(sums: Array, count: int) -> tuple[Array, dict[str, Array]]:
    """(loss, metrics) from the sums of `sum_values` over `count` images."""
    metrics = {"contrastive_accuracy": sums[1] / count, "contrastive_entropy": sums[2] / count}
    return sums[0] / (2 * count), metrics


def scale_gradient(total: Array, u: Array, scale: Array, *, cotangent: Array) -> tuple[Array, Array]:
    """The gradients in u and in scale, from `total`, that in u over scale and cotangent.

    Logits are of degree two in u and of degree one in scale, so that one gradient follows from the other.
    """
    total = total * cotangent
    return scale * total, jnp.sum(u * total) / 2
