"""Tests of simclr_jax.page."""
