"""Tests of simclr_jax/interop, file by file."""
