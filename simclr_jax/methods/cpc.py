"""CPC on images: what the rows of patches above have shown foretells the patches below."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import parts, tiles
from simclr_jax.models import context, heads

Array = jax.Array
PyTree = base.PyTree


def make_cpc(
    encoder: nn.Module,
    *,
    grid_size: int = 7,
    rows_ahead: Sequence[int] = (2, 3, 4),
    proj_out_dim: int = 128,
    context_dim: int = 256,
    num_context_blocks: int = 3,
    logit_scale: float = 0.1,
    dtype: str = "float32",
) -> base.Method:
    """CPC as a Method; `embed` returns {"targets": [B, G, G, d], "predictions": [B, S, G, G, d]}.

    An image is cut into G x G patches that overlap by half, and each is encoded by itself. A context network sees the
    representations from the top to row r, and for every S = len(rows_ahead) a linear map of its output c foretells the
    target k rows below, which has to be told from all patches of all images of the batch (InfoNCE):

        L = sum over k of the mean of -log softmax over all B G^2 targets t of (s (W_k c_ij) . t), at t_i+k,j.

    Negatives are other places of the same image, too, so that a patch's own content counts and not only its picture.
    It is where InfoNCE comes from; SimCLR keeps the loss and replaces "below" by "another view".

    params are {"encoder", "projection_head", "context", "predictor"}. Metrics: "contrastive_accuracy". Exact in chunks:
    the candidates are those of the whole batch; scores need (B G^2)^2 numbers for every k, 39 MB at batch 64, 2.5 GB at
    512. One view an image is used, its size a multiple of G + 1. Equal embeddings give S ln(B G^2).

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        grid_size: G.
        rows_ahead: every k, 1 to G - 1. Rows 1 ahead share half of their pixels with the last row seen.
        proj_out_dim: d.
        context_dim: width of the context network.
        num_context_blocks: its blocks, which is how many rows above its own it sees.
        logit_scale: s, above 0.
        dtype: type of the activations outside the encoder.

    Raises:
        InputError: a value is out of range.

    Reference: van den Oord et al. 2018 (arXiv 1807.03748), section 3.2; Henaff et al. 2020 (arXiv 1905.09272), section
    3.1: 7 x 7 patches of 64 pixels that overlap by 32. Deliberate differences: the context sees a few rows and
    neighbouring columns by residual convolutions, theirs is a PixelCNN of more layers; encoders keep BatchNorm, whose
    statistics over all patches tell little of one, they use layer normalisation; patches are not augmented each by
    itself; evaluation shows whole images to the encoder, as version 2, and not patches.

    Example:
        >>> method = methods.make_cpc(models.make_encoder("resnet18", stem="cifar"))
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> sorted(params)
        ['context', 'encoder', 'predictor', 'projection_head']
    """
    steps = _steps(rows_ahead, grid_size)
    base.check_number("logit_scale", logit_scale, "Use 0.1.")
    base.check_number("num_context_blocks", num_context_blocks, "Use 3.", least=1)
    net = parts.make_parts(
        encoder,
        {
            "projection_head": parts.Part(
                heads.make_mlp((proj_out_dim,), out_bias=True, dtype=dtype), lambda width: (2, width)
            ),
            "context": parts.Part(
                context.RowContext(context_dim, num_context_blocks, dtype), lambda width: (2, 2, 2, width)
            ),
            "predictor": parts.Part(
                heads.make_mlp((len(steps) * proj_out_dim,), out_bias=True, dtype=dtype), lambda width: (2, context_dim)
            ),
        },
    )

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        patches = jax.eval_shape(lambda x: tiles.overlapping(x, grid_size), views[:, 0])
        params, batch_stats = net.init(key, jax.ShapeDtypeStruct((2, *patches.shape[3:]), views.dtype))
        return params, {"batch_stats": batch_stats}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del batch, key
        patches, grid = tiles.overlapping(views[:, 0], grid_size), (-1, grid_size, grid_size)
        h, batch_stats = net.encode(
            (params, method_state["batch_stats"]), patches.reshape(-1, grid_size**2, *patches.shape[3:])
        )
        targets, batch_stats = net.run("projection_head", (params, batch_stats), h.reshape(-1, h.shape[-1]))
        seen, batch_stats = net.run("context", (params, batch_stats), h.reshape(*grid, h.shape[-1]))
        told, batch_stats = net.run("predictor", (params, batch_stats), seen.reshape(-1, context_dim))
        told = jnp.moveaxis(told.reshape(*grid, len(steps), proj_out_dim), 3, 1)
        return {"targets": targets.reshape(*grid, proj_out_dim), "predictions": told}, {"batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        told, targets = outputs["predictions"], outputs["targets"]
        every = [
            losses.cpc_grid(told[:, place], targets, step=step, scale=logit_scale) for place, step in enumerate(steps)
        ]
        accuracy = jnp.mean(jnp.stack([metrics["contrastive_accuracy"] for _, metrics in every]))
        value = jnp.sum(jnp.stack([value for value, _ in every]))
        return value, (method_state, {"contrastive_accuracy": accuracy})

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep, num_views=1)


def _steps(rows_ahead: Sequence[int], grid_size: int) -> list[int]:
    """The steps of `losses.cpc_grid`, counted from 0."""
    if not rows_ahead or not all(1 <= rows < grid_size for rows in rows_ahead):
        raise base.InputError(
            f"rows_ahead must be 1 to grid_size - 1 each; got {tuple(rows_ahead)} and grid_size {grid_size}. "
            "Use (2, 3, 4) with 7."
        )
    return [rows - 1 for rows in rows_ahead]


def uninformed_loss(
    *, batch_size: int, grid_size: int = 7, rows_ahead: Sequence[int] = (2, 3, 4), **other: object
) -> float:
    """S ln(B G^2), for settings of `make_cpc`."""
    del other
    return len(rows_ahead) * math.log(batch_size * grid_size**2)
