"""Tests of simclr_jax.losses."""
