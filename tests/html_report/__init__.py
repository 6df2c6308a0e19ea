"""Tests of simclr_jax.html_report."""
