"""Durations and sizes as people read them."""

import math

import pytest

from simclr_jax import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00342, "3.42 ms"),
        (0.8, "0.8 s"),
        (3, "3 s"),
        (9.994, "9.99 s"),
        (9.999, "10 s"),
        (47.4, "47 s"),
        (59.7, "1 min 00 s"),
        (272, "4 min 32 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
        (math.nan, "-"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (456_700, "457 kB"),
        (999_600, "1.00 MB"),
        (44_700_000, "44.7 MB"),
        (141e9, "141 GB"),
        (1.5e12, "1500 GB"),
    ],
)
def test_a_size_has_three_digits_and_a_unit(num_bytes, text):
    assert units.size(num_bytes) == text
