"""VICReg: two views should agree, every dimension should vary, and no two dimensions should vary together.

Agreement of two views, s = mean |z1 - z2|^2, is at its best when all embeddings are the same. What forbids it is asked
for directly, of each view by itself and without a normalisation of z. Variance: over the batch each dimension should
have a standard deviation of at least 1, v = mean_j max(0, 1 - sqrt(var_j + 1e-4)); a hinge, since more is neither good
nor bad, and a deviation and not a variance, whose gradient would vanish at the constant. Covariance: different
dimensions should not vary together, c = sum_{i != j} Cov_ij^2 / d, as otherwise one number repeated d times would do.
    L = 25 s + 25 (v(z1) + v(z2)) / 2 + 1 (c(z1) + c(z2)).
Against Barlow Twins: there one matrix between the views carries all three, here each term stands alone, the two
branches need not share anything, and the scale of z is fixed by the hinge. There are no negatives, no target and no
predictor. Equal embeddings cost 25 * 0.99.
"""

import functools
from typing import Any

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import siamese
from simclr_jax.models import heads

Array = jax.Array


def make_vicreg(
    encoder: nn.Module,
    *,
    proj_hidden_dim: int = 8192,
    proj_out_dim: int = 8192,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """VICReg as a Method; `embed` returns {"z": float32 [B, 2, d]}.

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. Metrics:
    "invariance_loss", "variance_loss", "covariance_loss" (see `losses.vicreg`). A batch in chunks has the variances of
    the whole batch. Equal embeddings have the loss 0.99 * variance_weight.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        proj_hidden_dim: of the expander's two hidden layers.
        proj_out_dim: d.
        invariance_weight, variance_weight, covariance_weight: of the three terms, at least 0.
        bn_per: "view": each view passes the network by itself, as in the reference; "batch": both in one pass.
        dtype: type of the head's activations.

    Raises:
        InputError: a width is below 1, a number out of range or bn_per unknown.

    Reference: Bardes et al. 2022 (arXiv 2105.04906); main_vicreg.py of facebookresearch/vicreg: three layers, hidden
    ones with biases and the last one bare. Some codes weigh the variance twice as much, see `losses.vicreg`.

    Example:
        >>> method = methods.make_vicreg(models.make_encoder("resnet18", stem="cifar"), proj_out_dim=512)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 2, 32, 32, 3)))
        >>> sorted(params["projection_head"]["dense1"])
        ['bias', 'kernel']
    """
    weights: dict[str, Any] = {
        "invariance_weight": invariance_weight,
        "variance_weight": variance_weight,
        "covariance_weight": covariance_weight,
    }
    for name, value in weights.items():
        base.check_number(name, value, "The paper has 25, 25 and 1.", least=0.0)
    head = heads.make_mlp((proj_hidden_dim, proj_hidden_dim, proj_out_dim), bias=True, dtype=dtype)
    network = siamese.make_siamese(encoder, head, bn_per=bn_per)
    return siamese.make_method(network, functools.partial(losses.vicreg, **weights))


def uninformed_loss(*, variance_weight: float = 25.0, **other: object) -> float:
    """The loss of equal embeddings for settings of `make_vicreg`."""
    del other
    return 0.99 * variance_weight
