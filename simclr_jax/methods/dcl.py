"""DCL and DCLW: SimCLR's loss without the positive in the denominator.

NT-Xent of an anchor is -log(p / (p + n)), p the exponential of the positive's similarity and n the sum of those of all
negatives. Its gradient carries the factor q = n / (p + n) in front of both the pull and the push: where the positive is
already found, or where few negatives make n small, q is near 0 and the anchor teaches nothing. That is why SimCLR wants
batches of thousands. Take p out of the denominator and the factor is gone:
    L = -s_p / T + log n,
alignment plus the push away from the other images, each with its full strength at any batch size; small batches then
lose little. As n does not contain p, the loss may be negative and has no lower end at 0. DCLW multiplies s_p by
w = 2 - B softmax(s_p / sigma), of mean 1 over the batch and constant: pairs that agree least are pulled most.
A method of its own and no argument of SimCLR's: the memory-light forms of NT-Xent do not serve it, and its published
code normalises each view by itself. Equal embeddings have ln(2B - 2).
"""

import functools
import math
from typing import Any

import jax
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import siamese
from simclr_jax.models import heads

Array = jax.Array


def make_dcl(
    encoder: nn.Module,
    *,
    proj_hidden_dim: int = 512,
    proj_out_dim: int = 128,
    temperature: float = 0.1,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """DCL as a Method; `embed` returns {"z": float32 [B, 2, d]}, the projections before normalisation.

    params are {"encoder", "projection_head"}, method_state is {"batch_stats": {"encoder", "projection_head"}}. Metrics:
    "contrastive_accuracy", "contrastive_entropy". A batch in chunks has the negatives of the whole batch.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        proj_hidden_dim: of the head's hidden layer.
        proj_out_dim: d.
        temperature: above 0.
        bn_per: "view": each view passes the network by itself, as in the reference; "batch": both in one pass.
        dtype: type of the head's activations.

    Raises:
        InputError: a width is below 1, a number out of range or bn_per unknown.

    Reference: Yeh et al. 2022 (arXiv 2110.06848); raminnakhli/Decoupled-Contrastive-Learning, whose head is this one.
    Deliberate differences: the mean of both directions where that code adds them; see `losses.dcl`.

    Example:
        >>> method = methods.make_dcl(models.make_encoder("resnet18", stem="cifar"))
    """
    return _make(encoder, (proj_hidden_dim, proj_out_dim), losses.dcl, temperature=temperature, common=(bn_per, dtype))


def make_dclw(
    encoder: nn.Module,
    *,
    proj_hidden_dim: int = 512,
    proj_out_dim: int = 128,
    temperature: float = 0.1,
    sigma: float = 0.5,
    bn_per: str = "view",
    dtype: str = "float32",
) -> base.Method:
    """DCLW as a Method: `make_dcl` with weighted positives. `sigma`, above 0, is the temperature of the weights.

    Raises:
        InputError: as of `make_dcl`, or sigma is not above 0.

    Reference: as of `make_dcl`; see `losses.dclw`.

    Example:
        >>> method = methods.make_dclw(models.make_encoder("resnet18", stem="cifar"), sigma=0.5)
    """
    base.check_number("sigma", sigma, "The paper uses 0.5.")
    loss = functools.partial(losses.dclw, sigma=sigma)
    return _make(encoder, (proj_hidden_dim, proj_out_dim), loss, temperature=temperature, common=(bn_per, dtype))


def _make(
    encoder: nn.Module, widths: tuple[int, int], loss: Any, *, temperature: float, common: tuple[str, str]
) -> base.Method:
    base.check_number("temperature", temperature, "The paper uses 0.1.")
    bn_per, dtype = common
    network = siamese.make_siamese(encoder, heads.make_mlp(widths, out_bias=True, dtype=dtype), bn_per=bn_per)
    return siamese.make_method(network, functools.partial(loss, temperature=temperature))


def uninformed_loss(*, batch_size: int, **other: object) -> float:
    """The loss of equal embeddings, ln(2B - 2), of `make_dcl` and `make_dclw` alike."""
    del other
    return math.log(2 * batch_size - 2)
