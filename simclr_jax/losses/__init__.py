"""Losses on the global batch of a network's outputs, one file per family. `losses.nt_xent(...)` is public."""

from simclr_jax.losses.blockwise import nt_xent_blockwise
from simclr_jax.losses.classification import cross_entropy, weighted_mean
from simclr_jax.losses.contrastive import collapse_value, l2_normalize, nt_xent
from simclr_jax.losses.distillation import distillation
from simclr_jax.losses.sharded import nt_xent_gathered, nt_xent_ring

__all__ = [
    "collapse_value",
    "cross_entropy",
    "distillation",
    "l2_normalize",
    "nt_xent",
    "nt_xent_blockwise",
    "nt_xent_gathered",
    "nt_xent_ring",
    "weighted_mean",
]
