"""Tests of simclr_jax/data/prepare."""
