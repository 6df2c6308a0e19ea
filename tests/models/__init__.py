"""Tests of simclr_jax.models."""
