"""Tests of simclr_jax.planning."""
