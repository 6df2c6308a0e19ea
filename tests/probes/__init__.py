"""Tests of `simclr_jax.probes`, file by file."""
