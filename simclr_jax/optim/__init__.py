"""Optimization: epochs to steps, the learning-rate schedule, and optimizers with SimCLR's exclusions.

Which parameters are decayed and adapted follows from their shapes, see `weight_mask`. Other masks may be given, as in
Optax: a tree of bools, or a function from the parameters to one.
"""

from simclr_jax.optim.masks import adapted_mask, normalization_mask, not_normalization, not_weight, weight_mask
from simclr_jax.optim.norms import global_norm, norms_by_group
from simclr_jax.optim.optimizers import (
    OPTIMIZERS,
    make_adamw,
    make_larc,
    make_lars,
    make_lars_popular,
    make_optimizer,
    make_sgd,
    make_sgd_keras,
)
from simclr_jax.optim.schedule import make_schedule, num_train_steps, num_warmup_steps, peak_learning_rate

__all__ = [
    "OPTIMIZERS",
    "adapted_mask",
    "global_norm",
    "make_adamw",
    "make_larc",
    "make_lars",
    "make_lars_popular",
    "make_optimizer",
    "make_schedule",
    "make_sgd",
    "make_sgd_keras",
    "normalization_mask",
    "norms_by_group",
    "not_normalization",
    "not_weight",
    "num_train_steps",
    "num_warmup_steps",
    "peak_learning_rate",
    "weight_mask",
]
