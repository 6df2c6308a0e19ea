"""Image-text losses of any batch: exact, in tiles, on one device or over the devices of a mesh.

Row i of the images [B, d] belongs to row i of the texts. Each device computes what its own images find among all texts
and its own texts among all images; the other side's rows come by one all-gather, or one neighbour at a time round a
ring. A tile of similarities is made, used and dropped in the forward pass and made again in the backward pass, so that
memory is O(B d + block_size^2). The gradient of a row is its own device's business too: what column j says of row i
follows from numbers that travel with column j, so that no gradient is ever reduced over devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from simclr_jax import base
from simclr_jax.losses import inputs

Array = jax.Array
# (rows of a block, columns of a block, whether an entry is [none, the own pair], carry of the rows) -> carry.
Visit = Callable[[Any, Any, tuple[Array, Array], Any], Any]

EXCHANGES = ("gather", "ring")


class Spread(NamedTuple):
    """How a batch is cut, known when compiling.

    block_size: rows of a tile at most. mesh: the devices, of which all axes split the batch; None for one device.
    exchange: "gather", or "ring", which holds the rows of one other device at a time.
    """

    block_size: int
    mesh: Mesh | None
    exchange: str

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the mesh's axes; () where there is one device."""
        return () if self.mesh is None or self.mesh.size == 1 else tuple(self.mesh.axis_names)

    def map(self, fn: Callable[..., Any], in_split: Any, out_split: Any) -> Callable[..., Any]:
        """`fn` on every device's own rows; True = split by rows, False = whole."""
        if not self.axes:
            return fn

        def spec(is_split: bool) -> PartitionSpec:
            return PartitionSpec(self.axes) if is_split else PartitionSpec()

        specs = (jax.tree.map(spec, split) for split in (in_split, out_split))
        return jax.shard_map(fn, mesh=self.mesh, in_specs=next(specs), out_specs=next(specs), check_vma=False)

    def total(self, values: Array) -> Array:
        """The sum over devices."""
        return lax.psum(values, self.axes) if self.axes else values


def make_spread(batch_size: int, *, block_size: int, mesh: Mesh | None, exchange: str) -> Spread:
    """The `Spread` of a batch.

    Raises:
        InputError: block_size is below 1, exchange is unknown, or the batch does not divide over the devices.
    """
    base.check_choice(exchange, EXCHANGES, name="exchange")
    if block_size < 1:
        raise base.InputError(f"block_size must be at least 1; got {block_size}. Use 512.")
    devices = 1 if mesh is None else mesh.size
    if batch_size % devices:
        raise base.InputError(
            f"The batch must divide evenly over the devices; got {batch_size} pairs and {devices} devices. "
            f"Use {max(batch_size // devices, 1) * devices}."
        )
    return Spread(block_size, mesh, exchange)


def prepare(image: Array, text: Array, name: str) -> tuple[Array, Array]:
    """Both as unit vectors of at least float32.

    Raises:
        InputError: they are not of one shape [B, d]; `name` is the loss.
    """
    if image.ndim != 2 or image.shape != text.shape:
        raise base.InputError(
            f"{name} needs image and text of one shape [B, d]; got {list(image.shape)} and {list(text.shape)}. "
            "Give one text an image, from heads of one width."
        )
    return inputs.unit_rows(image), inputs.unit_rows(text)


def similarities(rows: Array, columns: Array) -> Array:
    """[t, u]: the dot products of a tile, in full precision."""
    return inputs.products(rows, columns)


def fold(visit: Visit, carry: Any, sides: tuple[Any, Any], *, spread: Spread) -> Any:
    """`carry`, arrays [b, ...] of the own rows, after `visit` of all tiles of rows and columns.

    Args:
        visit: see `Visit`; what belongs to an entry "none" is padding.
        carry: what is known of every row before the first tile.
        sides: this device's (rows, columns), trees of arrays [b, ...]; the columns of other devices are fetched.
        spread: how.
    """
    rows, columns = sides
    count = jax.tree.leaves(rows)[0].shape[0]
    me = lax.axis_index(spread.axes) if spread.axes else jnp.zeros((), jnp.int32)
    if not spread.axes:
        return _fold_blocks(visit, carry, (rows, columns), firsts=(me, me), spread=spread)
    if spread.exchange == "gather":
        columns = jax.tree.map(lambda x: lax.all_gather(x, spread.axes, tiled=True), columns)
        return _fold_blocks(visit, carry, (rows, columns), firsts=(me * count, 0 * me), spread=spread)
    assert spread.mesh is not None
    size = spread.mesh.size

    def look(k: Array | int, chunk: Any, carry: Any) -> Any:
        return _fold_blocks(visit, carry, (rows, chunk), firsts=(me * count, (me + k) % size * count), spread=spread)

    def step(k: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        chunk, carry = state
        # Sent before it is worked on, so that the two can overlap.
        return lax.ppermute(chunk, spread.axes, [(i, (i - 1) % size) for i in range(size)]), look(k, chunk, carry)

    chunk, carry = lax.fori_loop(0, size - 1, step, (columns, carry))
    return look(size - 1, chunk, carry)


def _fold_blocks(
    visit: Visit, carry: Any, sides: tuple[Any, Any], *, firsts: tuple[Array, Array], spread: Spread
) -> Any:
    """`fold` over columns that are all here; `firsts` are the places of the first row and column in the batch."""
    rows, columns = ((tree, _places(tree, first)) for tree, first in zip(sides, firsts, strict=True))
    count = jax.tree.leaves(sides[0])[0].shape[0]
    cut_columns = _cut(columns, spread.block_size)

    def of_rows(_: None, block: Any) -> tuple[None, Any]:
        (row, row_places), carry = block

        def of_columns(carry: Any, block: Any) -> tuple[Any, None]:
            column, places = block
            none = (row_places[:, None] < 0) | (places[None] < 0)
            own = (row_places[:, None] == places[None]) & ~none
            return visit(row, column, (none, own), carry), None

        return None, lax.scan(of_columns, carry, cut_columns)[0]

    _, folded = lax.scan(of_rows, None, _cut((rows, carry), spread.block_size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], folded)


def _places(tree: Any, first: Array) -> Array:
    """The places in the batch of rows that begin at `first`, from 1 on: padding is 0 then, and -1 in the end."""
    return first + 1 + jnp.arange(jax.tree.leaves(tree)[0].shape[0], dtype=jnp.int32)


def _cut(tree: Any, block_size: int) -> Any:
    """Arrays [b, ...] as the fewest equal blocks [n, t, ...] of at most `block_size` rows; padding is 0, places -1."""
    count = jax.tree.leaves(tree)[0].shape[0]
    num_blocks = -(-count // block_size)
    length = -(-count // num_blocks)

    def cut(x: Array) -> Array:
        padding = [(0, num_blocks * length - count)] + [(0, 0)] * (x.ndim - 1)
        blocks = jnp.pad(x, padding).reshape(num_blocks, length, *x.shape[1:])
        return jnp.where(blocks > 0, blocks, -1) if x.dtype == jnp.int32 else blocks

    return jax.tree.map(cut, tree)


def sum_rows(values: Array) -> Array:
    """The sum of values [b, ...] over rows by halves: one after the other, errors would add up too."""
    while values.shape[0] > 1:
        half = values.shape[0] // 2
        values = jnp.concatenate([values[:half] + values[half : 2 * half], values[2 * half :]])
    return values[0]
