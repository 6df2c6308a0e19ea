"""NT-Xent of a batch whose images are spread over the devices of a mesh: exact, by tiles, rows staying where they are.

Each device computes the losses of its own rows against all columns. Columns arrive by one all-gather
(`nt_xent_gathered`: O(B d) on every device) or one neighbour at a time round a ring (`nt_xent_ring`: O(B d / devices)).
The gradient of a row is its own business too: s_ij = s_ji, so that p_ij + p_ji of its columns, with their normalizers,
is all it takes, and no gradient is ever reduced over devices. The mesh is an argument; all its axes split the batch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from simclr_jax import base
from simclr_jax.losses import blockwise, cuts, tiles

Array = jax.Array


def nt_xent_gathered(
    z: Array, *, temperature: float | Array = 0.1, mesh: Mesh, block_size: int = 512, normalize: bool = True
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

    Example:
        >>> mesh = jax.make_mesh((1,), ("batch",))
        >>> loss, _ = losses.nt_xent_gathered(jax.random.normal(key, (8, 2, 16)), mesh=mesh)
        >>> loss.shape
        ()
    """
    return _spread(z, _Link(mesh, ring=False), temperature=temperature, block_size=block_size, normalize=normalize)


def nt_xent_ring(
    z: Array, *, temperature: float | Array = 0.1, mesh: Mesh, block_size: int = 512, normalize: bool = True
) -> tuple[Array, dict[str, Array]]:
    """`nt_xent_gathered` with rows handed from neighbour to neighbour instead: no device ever holds all of them.

    Devices - 1 permutes in each pass, one chunk travelling while the chunk before is worked on; the backward pass sends
    rows and normalizers round once more. Arguments and errors are those of `nt_xent_gathered`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("batch",))
        >>> loss, _ = losses.nt_xent_ring(jax.random.normal(key, (8, 2, 16)), mesh=mesh)
        >>> loss.shape
        ()
    """
    return _spread(z, _Link(mesh, ring=True), temperature=temperature, block_size=block_size, normalize=normalize)


class _Link(NamedTuple):
    """Between which devices and how rows travel, known when compiling."""

    mesh: Mesh
    ring: bool

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.mesh.axis_names)

    def map(self, fn: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        return jax.shard_map(fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _spread(z: Array, link: _Link, *, block_size: int, **options: Any) -> tuple[Array, dict[str, Array]]:
    u, scale, bounded = blockwise.prepare(z, block_size=block_size, **options)
    share, rest = divmod(z.shape[0], link.mesh.size)
    if rest or not share:
        raise base.InputError(
            f"The batch must divide evenly over the devices; got {z.shape[0]} images and {link.mesh.size} devices. "
            f"Use {max(share, 1) * link.mesh.size}."
        )
    tiling = cuts.make_tiling(share, block_size=block_size, bounded=bounded)
    if link.mesh.size == 1:
        return blockwise.nt_xent_in_tiles(u, scale, tiling)
    return _nt_xent(u, scale, tiling, link)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _nt_xent(u: Array, scale: Array, tiling: cuts.Tiling, link: _Link) -> tuple[Array, dict[str, Array]]:
    return _forward(u, scale, tiling, link)[0]


def _forward(u: Array, scale: Array, tiling: cuts.Tiling, link: _Link) -> tuple[Any, Any]:
    whole, split = PartitionSpec(), PartitionSpec(link.axes)

    def local(u: Array, scale: Array) -> tuple[Array, tiles.RowValues, Array | None]:
        rows = tiles.Rows(cuts.cut(u, tiling), _first(tiling, link), tiling)
        sums = tiles.no_sums(tiling, u.dtype)
        if link.ring:
            held = None
            sums = _go_round(
                lambda sums, columns: tiles.sum_columns(sums, rows, columns, scale=scale), sums, rows, link
            )
        else:
            held = lax.all_gather(u, link.axes, tiled=True)
            sums = tiles.sum_columns(sums, rows, _all_columns(held, tiling), scale=scale)
        values = tiles.finish(sums, scale, tiling)
        return lax.psum(blockwise.sum_values(values, tiling), link.axes), values, held

    sums, values, held = link.map(local, (split, whole), (whole, split, whole))(u, scale)
    return blockwise.summarize(sums, u.shape[0]), (u, scale, values, held)


def _backward(tiling: cuts.Tiling, link: _Link, residuals: Any, cotangents: Any) -> tuple[Array, Array]:
    u, scale, values, held = residuals
    whole, split = PartitionSpec(), PartitionSpec(link.axes)

    def local(u: Array, scale: Array, values: tiles.RowValues, held: Array | None) -> Array:
        rows = tiles.Rows(cuts.cut(u, tiling), _first(tiling, link), tiling, values.normalizers)
        total = jnp.zeros_like(rows.blocks)
        if held is None:
            total = _go_round(
                lambda total, columns: tiles.pull_columns(total, rows, columns, scale=scale), total, rows, link
            )
        else:
            own = cuts.join(values.normalizers.swapaxes(1, 2), tiling)
            columns = _all_columns(held, tiling, lax.all_gather(own, link.axes, tiled=True))
            total = tiles.pull_columns(total, rows, columns, scale=scale)
        return cuts.join(tiles.pull_positives(total, rows.blocks, values.losses), tiling)

    total = link.map(local, (split, whole, split, whole), split)(u, scale, values, held)
    return blockwise.scale_gradient(total, u, scale, cotangent=cotangents[0] / (2 * u.shape[0]))


_nt_xent.defvjp(_forward, _backward)


def _first(tiling: cuts.Tiling, link: _Link) -> Array:
    """The first image of this device."""
    return lax.axis_index(link.axes) * tiling.num_images


def _all_columns(u: Array, tiling: cuts.Tiling, normalizers: Array | None = None) -> tiles.Rows:
    """All rows [B, 2, d] and normalizers [B, 2, K] of the batch as columns for rows that are cut by `tiling`."""
    # Short blocks of rows meet long blocks of columns: a tile keeps its area, and there are fewer.
    columns = cuts.make_tiling(u.shape[0], block_size=max(tiling.area // tiling.size, 1), bounded=tiling.bounded)
    cut = None if normalizers is None else cuts.cut(normalizers, columns).swapaxes(1, 2)
    return tiles.Rows(cuts.cut(u, columns), jnp.zeros((), jnp.int32), columns, cut)


def _go_round(visit: Callable[..., Any], carry: Any, rows: tiles.Rows, link: _Link) -> Any:
    """`carry` after visit(carry, columns) for the rows of every device, each handed on to the device before it."""
    size, me = link.mesh.size, lax.axis_index(link.axes)

    def at(k: Array | int, chunk: Any) -> tiles.Rows:
        return tiles.Rows(chunk[0], (me + k) % size * rows.tiling.num_images, rows.tiling, chunk[1])

    def step(k: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        chunk, carry = state
        # Sent before it is worked on, so that the two can overlap.
        return lax.ppermute(chunk, link.axes, [(i, (i - 1) % size) for i in range(size)]), visit(carry, at(k, chunk))

    chunk, carry = lax.fori_loop(0, size - 1, step, ((rows.blocks, rows.normalizers), carry))
    return visit(carry, at(size - 1, chunk))
