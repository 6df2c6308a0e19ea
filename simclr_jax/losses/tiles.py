"""NT-Xent in tiles: the parts that the blockwise and the sharded loss are built from.

A chunk of rows comes as 2n blocks (`cuts`). No function here makes anything larger than a tile of similarities [t, t]
beside arrays of the chunk's own size.

Tiles hold similarities s; `scale`, 1 / temperature, multiplies differences of them only, x = scale (s - top), and so
keeps more digits than differences of logits. Sums of exponentials leave the positive out, and the row itself: with the
sum over the negatives alone a small loss and its gradient keep their digits. They are kept as stacks of rows: (sum)
where similarities are bounded by a top of 1, and (top, sum), the sum being that of exp(x), where they are not; the
entropy needs one of x exp(x) as well.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax.losses import cuts

Array = jax.Array

# The similarity of an entry that does not count: finite, so that 0 * _NEVER is 0 and _NEVER - _NEVER is not NaN.
# Where scale takes it to -inf and that meets a 0, it is the lowest exponent as well.
_NEVER = -1e30


class Sums(NamedTuple):
    """What the forward pass carries from tile to tile.

    rows: [2n, K, t], over the negatives of the same view and, for rows of view 2, over those of the other. cross:
    [n, K + 1, t], rows of view 1 over negatives of view 2, weighted sum last. best: [n, 2, t], the largest of the
    latter among the images before and after the row's own. positive: [n, t], the similarity of an image's two views.
    """

    rows: Array
    cross: Array
    best: Array
    positive: Array


class _Total(NamedTuple):
    """What the backward pass carries: the sum of p_ij + p_ji times columns, [2n, d, t] or [2n, t, d]."""

    total: Array


class RowValues(NamedTuple):
    """What the forward pass says of every row; padding rows hold finite numbers.

    losses: [2n, t]. normalizers: [2n, K, t], stacks over all candidates with the sum inverted, so that exp(x) times it
    is a probability; a log-sum-exp would round to one part in 1e7 of itself. correct (0 or 1) and entropies: [n, t], of
    view 1.
    """

    losses: Array
    normalizers: Array
    correct: Array
    entropies: Array


class Rows(NamedTuple):
    """The rows of a chunk that is a part of the batch, and which part.

    blocks: [2n, t, d]. first: int32 scalar, the chunk's first image in the batch. tiling: of the chunk. normalizers:
    [2n, K, t], see RowValues; only the backward pass has them.
    """

    blocks: Array
    first: Array
    tiling: cuts.Tiling
    normalizers: Array | None = None

    def images(self, i: Array) -> Array:
        """[t]: the images of block i by their place in the batch; -1 for padding."""
        places = (i % self.tiling.num_blocks) * self.tiling.size + jnp.arange(self.tiling.size, dtype=jnp.int32)
        return jnp.where(places < self.tiling.num_images, self.first + places, -1)


def no_sums(tiling: cuts.Tiling, dtype: Any) -> Sums:
    """The sums of a chunk that has seen nothing yet."""
    n, t = tiling.num_blocks, tiling.size
    empty = jnp.zeros((n, 2, t), dtype) if tiling.bounded else jnp.zeros((n, 3, t), dtype).at[:, 0].set(_NEVER)
    rows = jnp.concatenate([empty, empty])[:, :-1]
    return Sums(rows, empty, jnp.full((n, 2, t), _NEVER, dtype), jnp.zeros((n, t), dtype))


def sum_own(blocks: Array, scale: Array, tiling: cuts.Tiling) -> Sums:
    """The sums of blocks [2n, t, d] against themselves, each unordered pair once; `scale` is 1 / temperature."""
    n, t = tiling.num_blocks, tiling.size
    eye, column, row = jnp.eye(t, dtype=bool), jnp.arange(t)[None], jnp.arange(t)[:, None]
    stats = functools.partial(_stats, scale=scale, tiling=tiling)
    merge = functools.partial(_merge, scale=scale, tiling=tiling)

    def similarities(i: Array, j: Array, *, diagonal: bool) -> tuple[Array, Array]:
        s = _similarities(_at(blocks, i), _at(blocks, j))
        return s, _hide_padding(jnp.where(eye, _NEVER, s) if diagonal else s, (i, j), tiling)

    def own(i: Array, sums: Sums) -> Sums:
        s = similarities(i, i, diagonal=True)[1]
        return sums._replace(rows=_merge_at(sums.rows, i, stats(s, axis=1), merge))

    def positive(i: Array, j: Array, mine: tuple[Array, ...], sums: Sums) -> tuple[Any, Sums]:
        raw, s = similarities(i, j, diagonal=True)
        sides = [jnp.max(jnp.where(side, s, _NEVER), axis=1) for side in (column < row, column > row)]
        best, values = jnp.stack(sides), jnp.sum(jnp.where(eye, raw, 0.0), axis=1)
        mine = (*_add_cross(mine[:2], s, best, stats=stats, merge=merge), values)
        return mine, sums._replace(rows=_merge_at(sums.rows, j, stats(s, axis=0), merge))

    def within(i: Array, j: Array, mine: tuple[Array, ...], sums: Sums) -> tuple[Any, Sums]:
        s = similarities(i, j, diagonal=False)[1]
        rows = _merge_at(sums.rows, j, stats(s, axis=0), merge)
        return (merge(mine[0], stats(s, axis=1)),), sums._replace(rows=rows)

    def cross(i: Array, j: Array, mine: tuple[Array, ...], sums: Sums) -> tuple[Any, Sums]:
        j = jnp.where(j < n + i, j, j + 1)
        s = similarities(i, j, diagonal=False)[1]
        mine = _add_cross(mine, s, _on_side(jnp.max(s, axis=1), j > n + i), stats=stats, merge=merge)
        return mine, sums._replace(rows=_merge_at(sums.rows, j, stats(s, axis=0), merge))

    sums = lax.fori_loop(0, 2 * n, own, no_sums(tiling, blocks.dtype))
    sums = _each(positive, sums, ((0, n), lambda i: (n + i, n + i + 1)), mine=("cross", "best", "positive"))
    if n == 1:
        return sums
    sums = _each(within, sums, ((0, 2 * n), lambda i: (i + 1, jnp.where(i < n, n, 2 * n))), mine=("rows",))
    return _each(cross, sums, ((0, n), lambda i: (n, 2 * n - 1)), mine=("cross", "best"))


def sum_columns(sums: Sums, rows: Rows, columns: Rows, *, scale: Array) -> Sums:
    """The sums of `rows` with the images of `columns` as further candidates; the same images may be among both."""
    n, m = rows.tiling.num_blocks, columns.tiling.num_blocks
    stats = functools.partial(_stats, scale=scale, tiling=rows.tiling)
    merge = functools.partial(_merge, scale=scale, tiling=rows.tiling)

    def similarities(i: Array, j: Array) -> tuple[Array, Array, Array]:
        row, column = rows.images(i)[:, None], columns.images(j)[None]
        s = _similarities(_at(rows.blocks, i), _at(columns.blocks, j))
        return jnp.where((row == column) | (column < 0), _NEVER, s), s, column - row

    def plain(i: Array, j: Array, mine: tuple[Array, ...], sums: Sums) -> tuple[Any, Sums]:
        return (merge(mine[0], stats(similarities(i, j)[0], axis=1)),), sums

    def cross(i: Array, j: Array, mine: tuple[Array, ...], sums: Sums) -> tuple[Any, Sums]:
        s, raw, ahead = similarities(i, j)
        sides = [jnp.max(jnp.where(side, s, _NEVER), axis=1) for side in (ahead < 0, ahead > 0)]
        positive = mine[2] + jnp.sum(jnp.where(ahead == 0, raw, 0.0), axis=1)
        return (*_add_cross(mine[:2], s, jnp.stack(sides), stats=stats, merge=merge), positive), sums

    sums = _each(plain, sums, ((0, 2 * n), lambda i: (0, jnp.where(i < n, m, 2 * m))), mine=("rows",))
    return _each(cross, sums, ((0, n), lambda i: (m, 2 * m)), mine=("cross", "best", "positive"))


def finish(sums: Sums, scale: Array, tiling: cuts.Tiling) -> RowValues:
    """Losses, normalizers and what the metrics are made of, row by row."""
    n, merge = tiling.num_blocks, functools.partial(_merge, scale=scale, tiling=tiling)
    rows = jnp.concatenate([merge(sums.rows[:n], sums.cross[:, :-1]), sums.rows[n:]])
    positive = jnp.concatenate([sums.positive, sums.positive])
    candidate = _stats(positive[:, None], axis=1, scale=scale, tiling=tiling, weigh=True).swapaxes(0, 1)
    # -log(p / (p + negatives)) = log(1 + negatives / p); no negatives at all give -inf and a loss of exactly 0.
    losses = jax.nn.softplus(jnp.log(rows[:, -1]) + (_top(rows, tiling) - positive) * scale)
    everything = merge(rows, candidate[:, :-1])
    normalizers = everything.at[:, -1].set(1 / everything[:, -1])
    cross = merge(sums.cross, candidate[:n])
    entropies = jnp.log(cross[:, -2]) - cross[:, -1] / cross[:, -2]
    # As argmax does it: of equal candidates the first is chosen.
    correct = (sums.best[:, 0] < sums.positive) & (sums.best[:, 1] <= sums.positive)
    return RowValues(losses, normalizers, correct.astype(losses.dtype), entropies)


def pull_own(blocks: Array, values: RowValues, *, scale: Array, tiling: cuts.Tiling) -> Array:
    """[2n, t, d]: the gradient of the sum of losses in `blocks`, over `scale`, by pairs of rows inside the chunk."""
    n, normalizers = tiling.num_blocks, values.normalizers
    eye = jnp.eye(tiling.size, dtype=bool)
    # On a CPU a product that contracts the rows of both operands takes twice as long: the sums are kept turned.
    turned = blocks.swapaxes(1, 2)

    def weights(i: Array, j: Array, *, diagonal: bool) -> Array:
        pair = (_at(normalizers, i), _at(normalizers, j))
        w = _weights(_similarities(_at(blocks, i), _at(blocks, j)), pair, scale, tiling)
        return jnp.where(eye, 0.0, w) if diagonal else w

    def both(i: Array, j: Array, mine: tuple[Array, ...], sums: _Total, *, diagonal: bool) -> tuple[Any, _Total]:
        w = weights(i, j, diagonal=diagonal)
        total = _put(sums.total, j, _at(sums.total, j) + _dot(_at(turned, i), w, (1, 0)))
        return (mine[0] + _dot(_at(turned, j), w, (1, 1)),), _Total(total)

    def other(i: Array, j: Array, mine: tuple[Array, ...], sums: _Total) -> tuple[Any, _Total]:
        return both(i, jnp.where(j < n + i, j, j + 1), mine, sums, diagonal=False)

    def own(i: Array, sums: _Total) -> _Total:
        return _Total(_put(sums.total, i, _dot(_at(turned, i), weights(i, i, diagonal=True), (1, 0))))

    sums = lax.fori_loop(0, 2 * n, own, _Total(jnp.zeros_like(turned)))
    sums = _each(functools.partial(both, diagonal=True), sums, ((0, n), lambda i: (n + i, n + i + 1)), mine=("total",))
    if n > 1:  # rows of view 1 have one block, the facing one, behind them already
        sums = _each(other, sums, ((0, 2 * n), lambda i: (i + 1, jnp.where(i < n, 2 * n - 1, 2 * n))), mine=("total",))
    return pull_positives(sums.total.swapaxes(1, 2), blocks, values.losses)


def pull_positives(total: Array, blocks: Array, losses: Array) -> Array:
    """`total` [2n, t, d] plus the part of the gradient that comes from the positives of rows with these losses."""
    n, missing = blocks.shape[0] // 2, -jnp.expm1(-losses)  # 1 - p; p itself would cancel against the 1
    missing = (missing[:n] + missing[n:])[..., None]
    return total - jnp.concatenate([missing * blocks[n:], missing * blocks[:n]])


def pull_columns(total: Array, rows: Rows, columns: Rows, *, scale: Array) -> Array:
    """`total` [2n, t, d] plus the part of the gradient of `rows` that comes from negatives among `columns`."""
    assert rows.normalizers is not None and columns.normalizers is not None
    own, other = rows.normalizers, columns.normalizers

    def visit(i: Array, j: Array, mine: tuple[Array, ...], sums: _Total) -> tuple[Any, _Total]:
        pair = (_at(own, i), _at(other, j))
        w = _weights(_similarities(_at(rows.blocks, i), _at(columns.blocks, j)), pair, scale, rows.tiling)
        w = jnp.where(rows.images(i)[:, None] == columns.images(j)[None], 0.0, w)
        return (mine[0] + _dot(w, _at(columns.blocks, j), (1, 0)),), sums

    pairs = ((0, rows.blocks.shape[0]), lambda i: (0, columns.blocks.shape[0]))
    return _each(visit, _Total(total), pairs, mine=("total",)).total


def _at(x: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _put(x: Array, i: Array, value: Array) -> Array:
    return lax.dynamic_update_index_in_dim(x, value, i, 0)


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    # Full precision: one bfloat16 or TF32 pass would put an error of about 1e-3 / temperature on every logit.
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST)


def _similarities(a: Array, b: Array) -> Array:
    return _dot(a, b, (1, 1))


def _hide_padding(s: Array, at: tuple[Array, Array], tiling: cuts.Tiling) -> Array:
    """Similarities of the tile (i, j) with those of padding rows and columns taken out."""
    n, t = tiling.num_blocks, tiling.size
    if n * t == tiling.num_images:
        return s
    row, column = ((i % n) * t + jnp.arange(t) < tiling.num_images for i in at)
    return jnp.where(row[:, None] & column[None], s, _NEVER)


def _stats(s: Array, *, axis: int, scale: Array, tiling: cuts.Tiling, weigh: bool = False) -> Array:
    """The stack of sums along `axis` of similarities s, on a new first axis."""
    top = 1.0 if tiling.bounded else jnp.max(s, axis=axis, keepdims=True)
    x = (s - top) * scale
    e = jnp.exp(x)
    stack = [jnp.sum(e, axis=axis)] + [jnp.sum(e * jnp.maximum(x, _NEVER), axis=axis)] * weigh
    return jnp.stack(stack if tiling.bounded else [jnp.squeeze(top, axis), *stack])


def _merge(a: Array, b: Array, *, scale: Array, tiling: cuts.Tiling) -> Array:
    """The stacks [..., K, t] of two sets of columns as the stack of their union."""
    if tiling.bounded:
        return a + b
    top = jnp.maximum(a[..., :1, :], b[..., :1, :])

    def lowered(x: Array) -> Array:
        by = jnp.maximum((x[..., :1, :] - top) * scale, _NEVER)
        total, weighted = x[..., 1:2, :], x[..., 2:, :]
        return jnp.exp(by) * jnp.concatenate([total, weighted + by * total], axis=-2)

    return jnp.concatenate([top, lowered(a) + lowered(b)], axis=-2)


def _merge_at(stacks: Array, i: Array, more: Array, merge: Callable[..., Array]) -> Array:
    return _put(stacks, i, merge(_at(stacks, i), more))


def _top(stacks: Array, tiling: cuts.Tiling) -> Array | float:
    """What was taken off the similarities whose exponentials the stacks [..., K, t] add up."""
    return 1.0 if tiling.bounded else stacks[..., 0, :]


def _weights(s: Array, normalizers: tuple[Array, Array], scale: Array, tiling: cuts.Tiling) -> Array:
    """p_ij + p_ji of a tile of similarities between rows and columns of these normalizers [K, t]."""
    row, column = normalizers[0][..., None], normalizers[1][:, None]
    if tiling.bounded:
        return jnp.exp((s - 1.0) * scale) * (row[0] + column[0])
    return jnp.exp((s - row[0]) * scale) * row[1] + jnp.exp((s - column[0]) * scale) * column[1]


def _add_cross(mine: tuple[Array, ...], s: Array, best: Array, *, stats: Any, merge: Any) -> tuple[Array, Array]:
    """(cross, best) of a block of view 1 after similarities s of view 2, of maxima `best` [2, t]."""
    return merge(mine[0], stats(s, axis=1, weigh=True)), jnp.maximum(mine[1], best)


def _on_side(best: Array, later: Array) -> Array:
    """Maxima [t] as maxima before and after a row's own image, [2, t]."""
    return jnp.stack([jnp.where(later, _NEVER, best), jnp.where(later, best, _NEVER)])


def _each(visit: Callable[..., Any], carry: Any, pairs: tuple[Any, Any], *, mine: tuple[str, ...]) -> Any:
    """`carry` after (block i of its fields `mine`, carry) = visit(i, j, that block, carry) for all (i, j) of `pairs`.

    pairs: (range of i, i -> range of j), half open. A visit may change one other block of an array of `carry`: where a
    loop writes two, XLA copies the array each time. The i-th is written when its row is done.
    """

    def row(i: Array, carry: Any) -> Any:
        start, stop = pairs[1](i)
        blocks = tuple(_at(getattr(carry, name), i) for name in mine)
        blocks, carry = lax.fori_loop(start, stop, lambda j, state: visit(i, j, *state), (blocks, carry))
        done = (_put(getattr(carry, name), i, block) for name, block in zip(mine, blocks, strict=True))
        return carry._replace(**dict(zip(mine, done, strict=True)))

    return lax.fori_loop(pairs[0][0], pairs[0][1], row, carry)
