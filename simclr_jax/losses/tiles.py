"""NT-Xent in tiles: the parts that the blockwise and the sharded loss are built from.

A chunk is the rows of some images, both views: all of them on one device, a device's share on several. `cut` orders it
view by view and cuts it into 2n blocks of t rows, block i of view 1 facing block n + i of view 2. No function here
makes anything larger than a tile of logits [t, t] beside arrays of the chunk's own size.

Sums of exponentials leave the positive out, and the row itself: with the sum over the negatives alone a small loss and
its gradient keep their digits. They are kept as stacks of rows: (sum) where logits are bounded, and (top, sum), the sum
being that of exp(s - top), where they are not; the entropy needs one of (s - top) exp(s - top) as well.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# The logit of an entry that does not count: finite, so that 0 * _NEVER is 0 and _NEVER - _NEVER is not NaN.
_NEVER = -1e30


class Plan(NamedTuple):
    """How a chunk is cut, known when compiling.

    num_images: of the chunk, b. size: rows of a block, t. area: entries of a tile at most. bounded: whether no logit
    exceeds `scale` and exp(-2 scale) does not underflow; one exponential, exp(s - scale), then serves both rows of an
    entry.
    """

    num_images: int
    size: int
    area: int
    bounded: bool

    @property
    def num_blocks(self) -> int:
        """Blocks of one view, n; the last may end in rows that are padding."""
        return -(-self.num_images // self.size)


class Sums(NamedTuple):
    """What the forward pass carries from tile to tile.

    rows: [2n, K, t], over the negatives of the same view and, for rows of view 2, over those of the other. cross:
    [n, K + 1, t], rows of view 1 over negatives of view 2, weighted sum last. best: [n, 2, t], the largest of the
    latter among the images before and after the row's own. positive: [n, t], the logit of an image's two views.
    """

    rows: Array
    cross: Array
    best: Array
    positive: Array


class RowValues(NamedTuple):
    """What the forward pass says of every row; padding rows hold finite numbers.

    losses: [2n, t]. normalizers: [2n, K, t], stacks over all candidates with the sum inverted, so that exp(s - top)
    times it is a probability; a log-sum-exp would round to one part in 1e7 of itself. correct (0 or 1) and entropies:
    [n, t], of view 1.
    """

    losses: Array
    normalizers: Array
    correct: Array
    entropies: Array


class Rows(NamedTuple):
    """The rows of a chunk that is a part of the batch, and which part.

    blocks: [2n, t, d]. first: int32 scalar, the chunk's first image in the batch. plan: of the chunk. normalizers:
    [2n, K, t], see RowValues; only the backward pass has them.
    """

    blocks: Array
    first: Array
    plan: Plan
    normalizers: Array | None = None

    def images(self, i: Array) -> Array:
        """[t]: the images of block i by their place in the batch; -1 for padding."""
        places = (i % self.plan.num_blocks) * self.plan.size + jnp.arange(self.plan.size, dtype=jnp.int32)
        return jnp.where(places < self.plan.num_images, self.first + places, -1)


def make_plan(count: int, *, block_size: int, bounded: bool) -> Plan:
    """The plan of `count` images in the fewest blocks of at most `block_size` rows, which come out equally large."""
    num_blocks = -(-count // block_size)
    return Plan(count, -(-count // num_blocks), block_size**2, bounded)


def cut(u: Array, plan: Plan) -> Array:
    """Rows [b, 2, d] as blocks [2n, t, d]; padding rows are zero."""
    padding = plan.num_blocks * plan.size - plan.num_images
    u = jnp.pad(u.swapaxes(0, 1), ((0, 0), (0, padding), (0, 0)))
    return u.reshape(2 * plan.num_blocks, plan.size, u.shape[-1])


def join(blocks: Array, plan: Plan) -> Array:
    """The inverse of `cut`: [2n, t, d] -> [b, 2, d]."""
    rows = blocks.reshape(2, -1, blocks.shape[-1])
    return rows[:, : plan.num_images].swapaxes(0, 1)


def sum_images(values: Array, plan: Plan) -> Array:
    """The sum of values [n, t] or [2n, t] without padding rows."""
    return jnp.sum(values.reshape(-1, plan.num_blocks * plan.size)[:, : plan.num_images])


def no_sums(plan: Plan, dtype: Any) -> Sums:
    """The sums of a chunk that has seen nothing yet."""
    n, t = plan.num_blocks, plan.size
    empty = jnp.zeros((n, 2, t), dtype) if plan.bounded else jnp.zeros((n, 3, t), dtype).at[:, 0].set(_NEVER)
    rows = jnp.concatenate([empty, empty])[:, :-1]
    return Sums(rows, empty, jnp.full((n, 2, t), _NEVER, dtype), jnp.zeros((n, t), dtype))


def sum_own(blocks: Array, scale: Array, plan: Plan) -> Sums:
    """The sums of blocks [2n, t, d] against themselves, each unordered pair once; `scale` is 1 / temperature."""
    n, t = plan.num_blocks, plan.size
    eye, column, row = jnp.eye(t, dtype=bool), jnp.arange(t)[None], jnp.arange(t)[:, None]
    stats = functools.partial(_stats, scale=scale, plan=plan)

    def logits(i: Array, j: Array, *, diagonal: bool) -> tuple[Array, Array]:
        s = _logits(_at(blocks, i), _at(blocks, j), scale)
        return s, _hide_padding(jnp.where(eye, _NEVER, s) if diagonal else s, (i, j), plan)

    def own(i: Array, sums: Sums) -> Sums:
        s = logits(i, i, diagonal=True)[1]
        return sums._replace(rows=_merge_at(sums.rows, i, stats(s, axis=1), plan))

    def positive(i: Array, sums: Sums) -> Sums:
        raw, s = logits(i, n + i, diagonal=True)
        sides = [jnp.max(jnp.where(side, s, _NEVER), axis=1) for side in (column < row, column > row)]
        sums = _add_cross(sums, (i, s, jnp.stack(sides)), scale, plan)
        values = jnp.sum(jnp.where(eye, raw, 0.0), axis=1)
        return sums._replace(
            rows=_merge_at(sums.rows, n + i, stats(s, axis=0), plan), positive=_put(sums.positive, i, values)
        )

    def within(i: Array, j: Array, sums: Sums) -> Sums:
        s = logits(i, j, diagonal=False)[1]
        rows = _merge_at(sums.rows, i, stats(s, axis=1), plan)
        return sums._replace(rows=_merge_at(rows, j, stats(s, axis=0), plan))

    def cross(i: Array, j: Array, sums: Sums) -> Sums:
        s = logits(i, j, diagonal=False)[1]
        sums = _add_cross(sums, (i, s, _on_side(jnp.max(s, axis=1), j > n + i)), scale, plan)
        return sums._replace(rows=_merge_at(sums.rows, j, stats(s, axis=0), plan))

    return _each_pair(no_sums(plan, blocks.dtype), n, (own, positive, within, cross))


def sum_columns(sums: Sums, rows: Rows, columns: Rows, *, scale: Array) -> Sums:
    """The sums of `rows` with the images of `columns` as further candidates; the same images may be among both."""
    n, m = rows.plan.num_blocks, columns.plan.num_blocks
    stats = functools.partial(_stats, axis=1, scale=scale, plan=rows.plan)

    def logits(i: Array, j: Array) -> tuple[Array, Array, Array]:
        row, column = rows.images(i)[:, None], columns.images(j)[None]
        s = _logits(_at(rows.blocks, i), _at(columns.blocks, j), scale)
        return jnp.where((row == column) | (column < 0), _NEVER, s), s, column - row

    def plain(i: Array, j: Array, sums: Sums) -> Sums:
        return sums._replace(rows=_merge_at(sums.rows, i, stats(logits(i, j)[0]), rows.plan))

    def cross(i: Array, j: Array, sums: Sums) -> Sums:
        s, raw, ahead = logits(i, j)
        sides = [jnp.max(jnp.where(side, s, _NEVER), axis=1) for side in (ahead < 0, ahead > 0)]
        sums = _add_cross(sums, (i, s, jnp.stack(sides)), scale, rows.plan)
        positive = _at(sums.positive, i) + jnp.sum(jnp.where(ahead == 0, raw, 0.0), axis=1)
        return sums._replace(positive=_put(sums.positive, i, positive))

    sums = _each(plain, sums, (0, 2 * n), lambda i: (0, jnp.where(i < n, m, 2 * m)))
    return _each(cross, sums, (0, n), lambda i: (m, 2 * m))


def finish(sums: Sums, scale: Array, plan: Plan) -> RowValues:
    """Losses, normalizers and what the metrics are made of, row by row."""
    n = plan.num_blocks
    rows = jnp.concatenate([_merge(sums.rows[:n], sums.cross[:, :-1], plan), sums.rows[n:]])
    positive = jnp.concatenate([sums.positive, sums.positive])
    candidate = _stats(positive[:, None], axis=1, scale=scale, plan=plan, weigh=True).swapaxes(0, 1)
    # -log(p / (p + negatives)) = log(1 + negatives / p); no negatives at all give -inf and a loss of exactly 0.
    losses = jax.nn.softplus(jnp.log(rows[:, -1]) + (_top(rows, scale, plan) - positive))
    everything = _merge(rows, candidate[:, :-1], plan)
    normalizers = everything.at[:, -1].set(1 / everything[:, -1])
    cross = _merge(sums.cross, candidate[:n], plan)
    entropies = jnp.log(cross[:, -2]) - cross[:, -1] / cross[:, -2]
    # As argmax does it: of equal candidates the first is chosen.
    correct = (sums.best[:, 0] < sums.positive) & (sums.best[:, 1] <= sums.positive)
    return RowValues(losses, normalizers, correct.astype(losses.dtype), entropies)


def pull_own(blocks: Array, values: RowValues, *, scale: Array, plan: Plan) -> Array:
    """[2n, t, d]: the gradient of the sum of losses in `blocks`, over `scale`, by pairs of rows inside the chunk."""
    n, normalizers = plan.num_blocks, values.normalizers
    eye = jnp.eye(plan.size, dtype=bool)

    def weights(i: Array, j: Array, *, diagonal: bool) -> Array:
        pair = (_at(normalizers, i), _at(normalizers, j))
        w = _weights(_logits(_at(blocks, i), _at(blocks, j), scale), pair, scale, plan)
        return jnp.where(eye, 0.0, w) if diagonal else w

    def both(i: Array, j: Array, total: Array, *, diagonal: bool = False) -> Array:
        w = weights(i, j, diagonal=diagonal)
        total = _put(total, i, _at(total, i) + _dot(w, _at(blocks, j), (1, 0)))
        return _put(total, j, _at(total, j) + _dot(w, _at(blocks, i), (0, 0)))

    def own(i: Array, total: Array) -> Array:
        return _put(total, i, _at(total, i) + _dot(weights(i, i, diagonal=True), _at(blocks, i), (1, 0)))

    def positive(i: Array, total: Array) -> Array:
        return both(i, n + i, total, diagonal=True)

    total = _each_pair(jnp.zeros_like(blocks), n, (own, positive, both, both))
    return pull_positives(total, blocks, values.losses)


def pull_positives(total: Array, blocks: Array, losses: Array) -> Array:
    """`total` [2n, t, d] plus the part of the gradient that comes from the positives of rows with these losses."""
    # p - 1, of both directions; the probability itself would cancel against the 1.
    n, missing = blocks.shape[0] // 2, -jnp.expm1(-losses)
    missing = (missing[:n] + missing[n:])[..., None]
    return total - jnp.concatenate([missing * blocks[n:], missing * blocks[:n]])


def pull_columns(total: Array, rows: Rows, columns: Rows, *, scale: Array) -> Array:
    """`total` [2n, t, d] plus the part of the gradient of `rows` that comes from negatives among `columns`."""

    assert rows.normalizers is not None and columns.normalizers is not None
    row_normalizers, column_normalizers = rows.normalizers, columns.normalizers

    def visit(i: Array, j: Array, total: Array) -> Array:
        pair = (_at(row_normalizers, i), _at(column_normalizers, j))
        w = _weights(_logits(_at(rows.blocks, i), _at(columns.blocks, j), scale), pair, scale, rows.plan)
        w = jnp.where(rows.images(i)[:, None] == columns.images(j)[None], 0.0, w)
        return _put(total, i, _at(total, i) + _dot(w, _at(columns.blocks, j), (1, 0)))

    return _each(visit, total, (0, rows.blocks.shape[0]), lambda i: (0, columns.blocks.shape[0]))


def _at(x: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _put(x: Array, i: Array, value: Array) -> Array:
    return lax.dynamic_update_index_in_dim(x, value, i, 0)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    # Full precision: one bfloat16 or TF32 pass would put an error of about 1e-3 / temperature on every logit.
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST)


def _logits(a: Array, b: Array, scale: Array) -> Array:
    return _dot(a, b, (1, 1)) * scale


def _hide_padding(s: Array, at: tuple[Array, Array], plan: Plan) -> Array:
    """Logits of the tile (i, j) with those of padding rows and columns taken out."""
    n, t = plan.num_blocks, plan.size
    if n * t == plan.num_images:
        return s
    row, column = ((i % n) * t + jnp.arange(t) < plan.num_images for i in at)
    return jnp.where(row[:, None] & column[None], s, _NEVER)


def _stats(s: Array, *, axis: int, scale: Array, plan: Plan, weigh: bool = False) -> Array:
    """The stack of sums along `axis` of logits s, on a new first axis."""
    top = scale if plan.bounded else jnp.max(s, axis=axis, keepdims=True)
    e = jnp.exp(s - top)
    stack = [jnp.sum(e, axis=axis)] + [jnp.sum(e * (s - top), axis=axis)] * weigh
    return jnp.stack(stack if plan.bounded else [jnp.squeeze(top, axis), *stack])


def _merge(a: Array, b: Array, plan: Plan) -> Array:
    """The stacks [..., K, t] of two sets of columns as the stack of their union."""
    if plan.bounded:
        return a + b
    top = jnp.maximum(a[..., :1, :], b[..., :1, :])

    def lowered(x: Array) -> Array:
        by, total, weighted = x[..., :1, :] - top, x[..., 1:2, :], x[..., 2:, :]
        return jnp.exp(by) * jnp.concatenate([total, weighted + by * total], axis=-2)

    return jnp.concatenate([top, lowered(a) + lowered(b)], axis=-2)


def _merge_at(stacks: Array, i: Array, more: Array, plan: Plan) -> Array:
    return _put(stacks, i, _merge(_at(stacks, i), more, plan))


def _top(stacks: Array, scale: Array, plan: Plan) -> Array:
    """What was taken off the logits whose exponentials the stacks [..., K, t] add up."""
    return scale if plan.bounded else stacks[..., 0, :]


def _weights(s: Array, normalizers: tuple[Array, Array], scale: Array, plan: Plan) -> Array:
    """p_ij + p_ji of a tile of logits between rows and columns of these normalizers [K, t]."""
    row, column = normalizers[0][..., None], normalizers[1][:, None]
    if plan.bounded:
        return jnp.exp(s - scale) * (row[0] + column[0])
    return jnp.exp(s - row[0]) * row[1] + jnp.exp(s - column[0]) * column[1]


def _add_cross(sums: Sums, seen: tuple[Array, Array, Array], scale: Array, plan: Plan) -> Sums:
    """The sums after block i of view 1 has seen logits s of view 2 with maxima `best` [2, t]: seen = (i, s, best)."""
    i, s, best = seen
    more = _stats(s, axis=1, scale=scale, plan=plan, weigh=True)
    best = jnp.maximum(_at(sums.best, i), best)
    return sums._replace(cross=_merge_at(sums.cross, i, more, plan), best=_put(sums.best, i, best))


def _on_side(best: Array, later: Array) -> Array:
    """Maxima [t] as maxima before and after a row's own image, [2, t]."""
    return jnp.stack([jnp.where(later, _NEVER, best), jnp.where(later, best, _NEVER)])


def _each(visit: Callable[..., Any], carry: Any, rows: tuple[int, int], columns: Callable[[Array], Any]) -> Any:
    """`carry` after visit(i, j, carry) for i in rows and j in columns(i), both half-open ranges."""

    def row(i: Array, carry: Any) -> Any:
        start, stop = columns(i)
        return lax.fori_loop(start, stop, functools.partial(visit, i), carry)

    return lax.fori_loop(rows[0], rows[1], row, carry)


def _each_pair(carry: Any, n: int, visits: tuple[Callable[..., Any], ...]) -> Any:
    """`carry` after every unordered pair of the 2n blocks was visited once.

    visits: own(i, carry) for a block and itself, positive(i, carry) for i and n + i, within(i, j, carry) for others of
    one view and cross(i, j, carry) for others of both, i < j.
    """
    own, positive, within, cross = visits
    carry = lax.fori_loop(0, 2 * n, own, carry)
    carry = lax.fori_loop(0, n, positive, carry)
    if n == 1:
        return carry
    carry = _each(within, carry, (0, 2 * n), lambda i: (i + 1, jnp.where(i < n, n, 2 * n)))
    skip = lambda i, j, carry: cross(i, jnp.where(j < n + i, j, j + 1), carry)  # noqa: E731
    return _each(skip, carry, (0, n), lambda i: (n, 2 * n - 1))
