"""Tests of simclr_jax.distributed."""
