"""Tests of simclr_jax.methods."""
