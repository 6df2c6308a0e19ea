"""CLIP's loss and SigLIP's between the images and the texts of the GLOBAL batch, in tiles (see `pairs`).

Inputs are projections before normalisation; computation is in float32 (float64 stays float64).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simclr_jax.losses import inputs, pairs

Array = jax.Array

# SigLIP: the logits begin as 10 cos - 10.
SIGLIP_INITIAL_LOG_SCALE = math.log(10)
SIGLIP_INITIAL_BIAS = -10.0


def clip_blockwise(
    image: Array,
    text: Array,
    *,
    log_scale: Array | float,
    block_size: int = 512,
    mesh: Mesh | None = None,
    exchange: str = "gather",
) -> tuple[Array, dict[str, Array]]:
    """`losses.clip` in memory of O(B d + block_size^2), also over several devices: (loss, metrics).

    Loss and gradient are those of `losses.clip` up to rounding, that of log_scale included. Where the loss is small
    they keep more digits, as the probability of the own pair is never subtracted from 1.

    Args:
        image: [B, d], before normalisation; with a mesh split by rows over all its axes.
        text: [B, d], likewise; row i belongs to image i.
        log_scale: scalar, see `losses.clip`.
        block_size: rows of a tile at most; 512 makes tiles of 1 MB, which stay in the cache of a CPU's core.
        mesh: the devices that hold the rows; None for one device.
        exchange: how rows travel between devices: "gather", O(B d) on every device, or "ring", O(B d / devices).

    Returns:
        The loss, and {"image_to_text_accuracy", "text_to_image_accuracy"}, in which a tie counts as a miss.

    Raises:
        InputError: image and text are not of one shape [B, d], block_size is below 1, exchange is unknown, or B is not
            a multiple of the number of devices.

    Reference: as for `losses.clip`. Tiles with kept log-sum-exps follow FlashAttention (arXiv 2205.14135) and Inf-CL
    (arXiv 2410.17243).

    Example:
        >>> image, text = jax.random.normal(key, (2, 8, 16))
        >>> loss, _ = losses.clip_blockwise(image, text, log_scale=2.0, block_size=4)
        >>> bool(jnp.allclose(loss, losses.clip(image, text, log_scale=2.0)[0], rtol=1e-5))
        True
    """
    image, text = pairs.prepare(image, text, "clip")
    spread = pairs.make_spread(len(image), block_size=block_size, mesh=mesh, exchange=exchange)
    return _clip(image, text, jnp.exp(jnp.asarray(log_scale, image.dtype)), spread)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _clip(image: Array, text: Array, scale: Array, spread: pairs.Spread) -> tuple[Array, dict[str, Array]]:
    return _clip_forward(image, text, scale, spread)[0]


def _clip_forward(image: Array, text: Array, scale: Array, spread: pairs.Spread) -> tuple[Any, Any]:
    def local(image: Array, text: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
        own = jnp.sum(image * text, axis=1)
        found = [_find((rows, own), (columns,), scale, spread) for rows, columns in ((image, text), (text, image))]
        sums = pairs.sum_rows(jnp.stack([value for side in found for value in side], axis=1))
        return spread.total(sums), (found[0][0], found[1][0])

    sums, values = spread.map(local, (True, True, False), (False, (True, True)))(image, text, scale)
    of_image, slope, hits, of_text, other_slope, other_hits = sums / len(image)
    metrics = {"image_to_text_accuracy": hits, "text_to_image_accuracy": other_hits}
    slope = (slope + other_slope) / 2
    return ((of_image + of_text) / 2, metrics), (image, text, scale, values, slope)


def _find(rows: Any, columns: Any, scale: Array, spread: pairs.Spread) -> tuple[Array, Array, Array]:
    """Of every row (u [b, d], similarity of its own pair [b]): its loss, d loss / d scale, and whether it is found."""

    def visit(row: Any, column: Any, entries: tuple[Array, Array], carry: Any) -> Any:
        (u, own), (top, total, weighted, best) = row, carry
        gaps = pairs.similarities(u, column[0]) - own[:, None]
        gaps = jnp.where(entries[0] | entries[1], -jnp.inf, gaps)  # of the others; the own pair is the 1 in 1 + sum
        best = jnp.maximum(best, jnp.max(gaps, axis=1))
        new = jnp.maximum(top, scale * jnp.max(gaps, axis=1))
        shares = jnp.exp(scale * gaps - new[:, None])
        keep = jnp.exp(top - new)
        total = total * keep + jnp.sum(shares, axis=1)
        weighted = weighted * keep + jnp.sum(jnp.where(shares > 0, shares * gaps, 0), axis=1)
        return new, total, weighted, best

    own = rows[1]
    zeros = jnp.zeros_like(own)
    # The running maximum begins at the own pair's, 0.
    start = (zeros, zeros, zeros, jnp.full_like(own, -jnp.inf))
    top, total, weighted, best = pairs.fold(visit, start, (rows, columns), spread=spread)
    losses = top + jnp.log1p(total + jnp.expm1(-top))
    return losses, weighted * jnp.exp(top - losses), (best < 0).astype(own.dtype)


def _clip_backward(spread: pairs.Spread, residuals: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    image, text, scale, values, slope = residuals

    def local(image: Array, text: Array, scale: Array, values: tuple[Array, Array]) -> tuple[Array, Array]:
        own = jnp.sum(image * text, axis=1)
        missing = -(jnp.expm1(-values[0]) + jnp.expm1(-values[1]))[:, None]  # 1 - p of both directions
        sides = (image, own, values[0]), (text, own, values[1])
        found = (_pull(*pair, scale, spread) for pair in (sides, sides[::-1]))
        return next(found) - missing * text, next(found) - missing * image

    both = (True, True)
    pulled = spread.map(local, (True, True, False, both), both)(image, text, scale, values)
    factor = cotangents[0] * scale / (2 * len(image))
    return factor * pulled[0], factor * pulled[1], cotangents[0] * slope


def _pull(rows: Any, columns: Any, scale: Array, spread: pairs.Spread) -> Array:
    """[b, d]: sum over the other columns of (p_ij + p_ji) times the column; sides are (u, own, losses)."""

    def visit(row: Any, column: Any, entries: tuple[Array, Array], total: Array) -> Array:
        s = pairs.similarities(row[0], column[0])
        weights = jnp.exp(scale * (s - row[1][:, None]) - row[2][:, None])
        weights += jnp.exp(scale * (s - column[1][None]) - column[2][None])
        weights = jnp.where(entries[0] | entries[1], 0, weights)
        return total + jnp.matmul(weights, column[0], precision=jax.lax.Precision.HIGHEST)

    return pairs.fold(visit, jnp.zeros_like(rows[0]), (rows, columns), spread=spread)


_clip.defvjp(_clip_forward, _clip_backward)


def siglip(
    image: Array, text: Array, *, log_scale: Array | float, bias: Array | float
) -> tuple[Array, dict[str, Array]]:
    """SigLIP's sigmoid loss between images and their texts: (loss, metrics), scalars of at least float32.

    Every pair of an image and a text is a case of its own: z_ij is 1 where text j belongs to image i and -1 elsewhere,

        L = -1/B sum_ij log sigmoid(z_ij (exp(log_scale) cos_ij + bias)).

    Nothing is normalised over the batch. Embeddings that are all equal have at least ln B + (B - 1) ln(B / (B - 1)).

    Args:
        image: [B, d], before normalisation.
        text: [B, d], likewise; row i belongs to image i.
        log_scale: scalar; it starts at SIGLIP_INITIAL_LOG_SCALE, ln 10.
        bias: scalar; it starts at SIGLIP_INITIAL_BIAS, -10, as nearly all pairs are negative.

    Returns:
        The loss, and {"image_to_text_accuracy", "text_to_image_accuracy"}, in which a tie counts as a miss.

    Raises:
        InputError: image and text are not of one shape [B, d].

    Reference: Zhai et al. 2023 (arXiv 2303.15343), equation in section 3.2 and algorithm 1.

    Example:
        >>> rows = jax.random.normal(key, (4, 8))
        >>> loss, _ = losses.siglip(rows, rows, log_scale=jnp.log(100.0), bias=-60.0)
        >>> bool(loss < 0.1)
        True
    """
    image, text = pairs.prepare(image, text, "siglip")
    numbers = (jnp.asarray(x, image.dtype) for x in (log_scale, bias))
    s, own = inputs.products(image, text), jnp.eye(len(image), dtype=bool)
    logits = jnp.exp(next(numbers)) * s + next(numbers)
    values = jax.nn.softplus(jnp.where(own, -logits, logits))
    positive = jnp.sum(jnp.where(own, s, 0), axis=1)
    others = jax.lax.stop_gradient(jnp.where(own, -jnp.inf, s))
    return jnp.sum(values) / len(image), {
        f"{name}_accuracy": jnp.mean((jnp.max(others, axis=axis) < positive).astype(s.dtype))
        for name, axis in (("image_to_text", 1), ("text_to_image", 0))
    }


def siglip_blockwise(
    image: Array,
    text: Array,
    *,
    log_scale: Array | float,
    bias: Array | float,
    block_size: int = 512,
    mesh: Mesh | None = None,
    exchange: str = "gather",
) -> tuple[Array, dict[str, Array]]:
    """`losses.siglip` in memory of O(B d + block_size^2), also over several devices: (loss, metrics).

    Args:
        image, text, log_scale, bias: as for `losses.siglip`.
        block_size, mesh, exchange: as for `losses.clip_blockwise`.

    Raises:
        InputError: as `losses.siglip` and `losses.clip_blockwise`.

    Reference: Zhai et al. 2023 (arXiv 2303.15343), section 3.3: texts travel round the devices, chunk by chunk.

    Example:
        >>> image, text = jax.random.normal(key, (2, 8, 16))
        >>> loss, _ = losses.siglip_blockwise(image, text, log_scale=2.0, bias=-3.0, block_size=4)
        >>> bool(jnp.allclose(loss, losses.siglip(image, text, log_scale=2.0, bias=-3.0)[0], rtol=1e-5))
        True
    """
    image, text = pairs.prepare(image, text, "siglip")
    spread = pairs.make_spread(len(image), block_size=block_size, mesh=mesh, exchange=exchange)
    numbers = (jnp.asarray(x, image.dtype) for x in (log_scale, bias))
    return _siglip(image, text, jnp.stack([jnp.exp(next(numbers)), next(numbers)]), spread)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _siglip(image: Array, text: Array, affine: Array, spread: pairs.Spread) -> tuple[Array, dict[str, Array]]:
    """For affine [2], (scale, bias) of the logits."""
    return _siglip_forward(image, text, affine, spread)[0]


def _siglip_forward(image: Array, text: Array, affine: Array, spread: pairs.Spread) -> tuple[Any, Any]:
    def visit(affine: Array, row: Any, column: Any, entries: tuple[Array, Array], carry: Any) -> Any:
        s = pairs.similarities(row[0], column[0])
        values, slopes = _pair_values(s, affine, entries)
        best = jnp.max(jnp.where(entries[0] | entries[1], -jnp.inf, s), axis=1)
        sums = (values, slopes * s, slopes)
        more = jnp.stack([jnp.sum(jnp.where(entries[0], 0, x), axis=1) for x in sums], axis=1)
        return carry[0] + more, jnp.maximum(carry[1], best)

    def local(image: Array, text: Array, affine: Array) -> Array:
        own, look = jnp.sum(image * text, axis=1), functools.partial(visit, affine)
        start = jnp.zeros((len(own), 3), own.dtype), jnp.full_like(own, -jnp.inf)
        sums, best = pairs.fold(look, start, ((image,), (text,)), spread=spread)
        _, other_best = pairs.fold(look, start, ((text,), (image,)), spread=spread)
        hits = [(x < own).astype(own.dtype) for x in (best, other_best)]
        return spread.total(pairs.sum_rows(jnp.concatenate([sums, jnp.stack(hits, axis=1)], axis=1)))

    means = spread.map(local, (True, True, False), False)(image, text, affine) / len(image)
    metrics = {"image_to_text_accuracy": means[3], "text_to_image_accuracy": means[4]}
    return (means[0], metrics), (image, text, affine, means[1:3])


def _pair_values(s: Array, affine: Array, entries: tuple[Array, Array]) -> tuple[Array, Array]:
    """The losses of a tile of similarities, and their slopes in the logits."""
    logits = affine[0] * s + affine[1]
    sign = jnp.where(entries[1], -1, 1).astype(s.dtype)
    return jax.nn.softplus(sign * logits), sign * jax.nn.sigmoid(sign * logits)


def _siglip_backward(spread: pairs.Spread, residuals: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    image, text, affine, slopes = residuals

    def visit(affine: Array, row: Any, column: Any, entries: tuple[Array, Array], total: Array) -> Array:
        weights = _pair_values(pairs.similarities(row[0], column[0]), affine, entries)[1]
        weights = jnp.where(entries[0], 0, weights)
        return total + jnp.matmul(weights, column[0], precision=jax.lax.Precision.HIGHEST)

    def local(image: Array, text: Array, affine: Array) -> tuple[Array, Array]:
        sides, look = (((image,), (text,)), ((text,), (image,))), functools.partial(visit, affine)
        found = (pairs.fold(look, jnp.zeros_like(image), pair, spread=spread) for pair in sides)
        return next(found), next(found)

    pulled = spread.map(local, (True, True, False), (True, True))(image, text, affine)
    factor = cotangents[0] * affine[0] / len(image)
    return factor * pulled[0], factor * pulled[1], cotangents[0] * slopes


_siglip.defvjp(_siglip_forward, _siglip_backward)
