"""Tests: one file per source file, and what they share."""
