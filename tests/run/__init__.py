"""Tests of simclr_jax.run."""
