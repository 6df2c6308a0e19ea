"""Tests of simclr_jax.augment."""
