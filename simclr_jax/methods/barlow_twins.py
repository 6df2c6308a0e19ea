"""Barlow Twins: two views should agree in every dimension, and no two dimensions should say the same.

Take one image's projections in two views. If the network knew only what both views share, dimension i of view 1 would
be a function of dimension i of view 2: over a batch their correlation C_ii would be 1. That alone is solved by one
number repeated d times. So the other correlations C_ij are pushed to 0, which makes each dimension say something new:
    L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2,   C = u1^T u2 / B,
where u is z standardised over the batch, dimension by dimension and view by view. Standardising is what forbids the
constant: a dimension that does not vary has C_ii = 0 and costs 1, so that equal embeddings cost d and nothing lower
follows from shrinking. In the information bottleneck's words: keep what the image says, drop what the distortion says;
under Gaussian assumptions the second sum is the log-determinant of the covariance to second order. There are no
negatives, no target and no predictor; the price is a wide projection (8192), as correlations are all there is to learn
from, and a batch of some hundred images to estimate them.
"""

import functools

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import siamese
from simclr_jax.models import heads

Array = jax.Array


def make_barlow_twins(
    encoder: nn.Module,
    *,
    proj_hidden_dim: int = 8192,
    proj_out_dim: int = 8192,
    redundancy_weight: float = 0.0051,
    loss_scale: float = 1.0,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """Barlow Twins as a Method; `embed` returns {"z": float32 [B, 2, d]}.

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. Metrics:
    "invariance_loss", "redundancy_loss" (see `losses.barlow_twins`), and "unscaled_loss" where it is scaled. A batch in
    chunks has the correlations of the whole batch. Equal embeddings have the loss loss_scale * d.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        proj_hidden_dim: of the head's two hidden layers.
        proj_out_dim: d.
        redundancy_weight: lambda, at least 0.
        loss_scale: multiplies the loss, a sum over d^2 entries; other codes have 0.024 to 0.1, which LARS feels in
            biases and normalisations only.
        bn_per: "view": each view passes the network by itself, as in the reference; "batch": both in one pass.
        dtype: type of the head's activations.

    Raises:
        InputError: a width is below 1, a number out of range or bn_per unknown.

    Reference: Zbontar et al. 2021 (arXiv 2103.03230); main.py of facebookresearch/barlowtwins: three layers without
    biases, the last one bare. Deliberate difference: their gradient is divided by the number of processes (16 or 32),
    this is that of the loss; their rate for biases and normalisations, 0.0048, means 0.0048 over that number here, and
    their weight decay is that many times as strong against it.

    Example:
        >>> method = methods.make_barlow_twins(models.make_encoder("resnet18", stem="cifar"), proj_out_dim=512)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> params["projection_head"]["dense3"]["kernel"].shape
        (8192, 512)
    """
    base.check_number("redundancy_weight", redundancy_weight, "Use 0.0051.", least=0.0)
    head = heads.make_mlp((proj_hidden_dim, proj_hidden_dim, proj_out_dim), dtype=dtype)
    network = siamese.make_siamese(encoder, head, bn_per=bn_per)
    loss = functools.partial(losses.barlow_twins, redundancy_weight=redundancy_weight)
    return siamese.make_method(network, loss, loss_scale=loss_scale)


def uninformed_loss(*, proj_out_dim: int = 8192, loss_scale: float = 1.0, **other: object) -> float:
    """The loss of equal embeddings for settings of `make_barlow_twins`: d times the scale."""
    del other
    return loss_scale * proj_out_dim
