"""Tests of simclr_jax.cli."""
