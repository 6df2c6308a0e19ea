"""Losses of self-supervised methods, on the global batch of a network's outputs. `losses.nt_xent(...)` is public."""

from simclr_jax.losses.contrastive import collapse_value, nt_xent

__all__ = ["collapse_value", "nt_xent"]
