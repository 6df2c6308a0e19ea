"""Losses on the global batch of a network's outputs, one file per family. `losses.nt_xent(...)` is public."""

from simclr_jax.losses.blockwise import nt_xent_blockwise
from simclr_jax.losses.candidates import (
    CLIP_INITIAL_LOG_SCALE,
    CLIP_MAX_LOG_SCALE,
    clamp_log_scale,
    clip,
    cpc_grid,
    info_nce,
)
from simclr_jax.losses.classification import cross_entropy, weighted_mean
from simclr_jax.losses.clustering import sinkhorn, swav
from simclr_jax.losses.contrastive import collapse_value, nt_xent
from simclr_jax.losses.decoupled import dcl, dclw
from simclr_jax.losses.distillation import distillation
from simclr_jax.losses.image_text import (
    SIGLIP_INITIAL_BIAS,
    SIGLIP_INITIAL_LOG_SCALE,
    clip_blockwise,
    siglip,
    siglip_blockwise,
)
from simclr_jax.losses.inputs import l2_normalize
from simclr_jax.losses.keys import moco, moco_v3, nnclr, nt_xent_with_memory
from simclr_jax.losses.memory import pirl_cross_entropy, pirl_nce, pirl_partition, pirl_remember
from simclr_jax.losses.redundancy import barlow_twins, vicreg
from simclr_jax.losses.regression import byol, projection_spread, simsiam
from simclr_jax.losses.sharded import nt_xent_gathered, nt_xent_ring
from simclr_jax.losses.supervised_contrastive import sup_con

__all__ = [
    "CLIP_INITIAL_LOG_SCALE",
    "CLIP_MAX_LOG_SCALE",
    "SIGLIP_INITIAL_BIAS",
    "SIGLIP_INITIAL_LOG_SCALE",
    "barlow_twins",
    "byol",
    "clamp_log_scale",
    "clip",
    "clip_blockwise",
    "collapse_value",
    "cpc_grid",
    "cross_entropy",
    "dcl",
    "dclw",
    "distillation",
    "info_nce",
    "l2_normalize",
    "moco",
    "moco_v3",
    "nnclr",
    "nt_xent",
    "nt_xent_blockwise",
    "nt_xent_gathered",
    "nt_xent_ring",
    "nt_xent_with_memory",
    "pirl_cross_entropy",
    "pirl_nce",
    "pirl_partition",
    "pirl_remember",
    "projection_spread",
    "siglip",
    "siglip_blockwise",
    "simsiam",
    "sinkhorn",
    "sup_con",
    "swav",
    "vicreg",
    "weighted_mean",
]
