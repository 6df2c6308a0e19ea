"""NT-Xent of a batch whose images are spread over the devices of a mesh: exact, by tiles, rows staying where they are.

Each device computes the losses of its own rows against all columns. Columns arrive by one all-gather
(`nt_xent_gathered`: O(B d) on every device) or one neighbour at a time round a ring (`nt_xent_ring`: O(B d / devices)).
The gradient of a row is its own business too: s_ij = s_ji, so that p_ij + p_ji of its columns, with their normalizers,
is all it takes, and no gradient is ever reduced over devices. The mesh is an argument; all its axes split the batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from simclr_jax import base
from simclr_jax.losses import blockwise, tiles

Array = jax.Array


def nt_xent_gathered(
    z: Array, *, temperature: float | Array, mesh: Mesh, block_size: int = 512, normalize: bool = True
) -> tuple[Array, dict[str, Array]]:
    """`losses.nt_xent_blockwise` over the devices of a mesh that hold z by images, with one all-gather of its rows.

    The gathered rows stay for the gradient; a second, small all-gather carries normalizers [2B], and one all-reduce of
    three numbers the sums.

    Args:
        z: [B, 2, d], B a multiple of the number of devices, split by images over all axes of the mesh.
        temperature: as in `losses.nt_xent_blockwise`.
        mesh: the devices.
        block_size: as in `losses.nt_xent_blockwise`, of a device's own images.
        normalize: divide each projection by its L2 norm first.

    Raises:
        InputError: as `losses.nt_xent_blockwise`, or B is not a multiple of the number of devices.
    """
    return _spread(z, _Gather, mesh, temperature=temperature, block_size=block_size, normalize=normalize)


def nt_xent_ring(
    z: Array, *, temperature: float | Array, mesh: Mesh, block_size: int = 512, normalize: bool = True
) -> tuple[Array, dict[str, Array]]:
    """`nt_xent_gathered` with rows handed from neighbour to neighbour instead: no device ever holds all of them.

    Devices - 1 permutes in each pass, one chunk travelling while the chunk before is worked on; the backward pass sends
    rows and normalizers round once more. Arguments and errors are those of `nt_xent_gathered`.
    """
    return _spread(z, _Ring, mesh, temperature=temperature, block_size=block_size, normalize=normalize)
