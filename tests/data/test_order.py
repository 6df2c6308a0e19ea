"""Oracle: Philox4x64-10 written out in Python integers from the paper, and literal values."""

import hashlib

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.data import order


def _philox_words(seed, epoch, count):
    """The first `count` words of Philox4x64-10 with key (seed, epoch); NumPy's counter begins at 1."""
    mask = 2**64 - 1
    words = []
    for block in range(1, count // 4 + 2):
        counter, key = [block, 0, 0, 0], [seed, epoch]
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [
                (second >> 64) ^ counter[1] ^ key[0],
                second & mask,
                (first >> 64) ^ counter[3] ^ key[1],
                first & mask,
            ]
            key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
        words += counter
    return words[:count]


@pytest.mark.parametrize(("seed", "epoch", "count"), [(0, 0, 1), (0, 0, 13), (7, 3, 100), (2**64 - 1, 5, 37)])
def test_epoch_permutation_sorts_the_philox_stream(seed, epoch, count):
    words = _philox_words(seed, epoch, count)
    expected = sorted(range(count), key=lambda i: (words[i], i))
    actual = order.epoch_permutation(seed, epoch, count)
    assert actual.dtype == np.int32
    assert actual.tolist() == expected


def test_epoch_permutation_never_changes():
    assert order.epoch_permutation(0, 0, 12).tolist() == [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]
    assert order.epoch_permutation(7, 3, 12).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1, 11, 10]
    digest = hashlib.sha256(order.epoch_permutation(42, 9, 50_000).astype("<i4").tobytes()).hexdigest()
    assert digest == "26a41007ab517c161b1f1f8b1fa86c3e0a9519565ac38d880b689d25974c967d"


def test_epochs_and_seeds_have_different_orders():
    orders = {tuple(order.epoch_permutation(seed, epoch, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_epoch_permutation_cannot_be_overwritten():
    with pytest.raises(ValueError, match="read-only"):
        order.epoch_permutation(0, 0, 12)[0] = 1


def test_stream_is_the_epochs_one_after_another():
    expected = np.concatenate([order.epoch_permutation(3, epoch, 10) for epoch in range(4)])
    for start, count in [(0, 40), (0, 0), (3, 4), (8, 5), (9, 1), (10, 10), (5, 31), (39, 1)]:
        actual = order.stream_indices(3, start, count, num_examples=10)
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, expected[start : start + count])


def _mixed_epoch(seed, epoch, sets, weights):
    """One epoch of a mix in Python loops: the examples in `sets`, each list as often as its weight says."""

    def sorted_by_words(seed, epoch, count):
        words = _philox_words(seed, epoch, count)
        return sorted(range(count), key=lambda i: (words[i], i))

    occurrences = []
    for number, (examples, weight) in enumerate(zip(sets, weights, strict=True), start=1):
        length, drawn = round(weight * len(examples)), []
        for position in range(epoch * length, (epoch + 1) * length):
            turn, place = divmod(position, len(examples))
            drawn.append(sorted_by_words(seed ^ (number << 32), turn, len(examples))[place])
        occurrences += [examples[i] for i in sorted(drawn)]
    return [occurrences[i] for i in sorted_by_words(seed, epoch, len(occurrences))]


def test_the_stream_of_a_mix_is_a_permutation_of_the_occurrences_of_every_epoch():
    parts = np.asarray([1, 0, 0, 2, 1, 0, 2, 2, 2, 0, 2], np.int32)  # subsets need not lie set after set
    sets, weights = [np.flatnonzero(parts == part).tolist() for part in range(3)], (2.0, 1.0, 0.6)
    visit = order.make_stream(3, num_examples=11, mix=order.Mix(weights, parts))
    expected = np.concatenate([_mixed_epoch(3, epoch, sets, weights) for epoch in range(4)])
    assert len(expected) == 4 * (8 + 2 + 3) == 4 * order.mixed_size(order.Mix(weights, parts))
    for start, count in [(0, 52), (0, 0), (5, 3), (12, 5), (11, 30)]:  # as steps of any batch ask for them
        actual = visit(start, count)
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, expected[start : start + count])
    with pytest.raises(base.InputError, match="must not be negative"):
        visit(-1, 5)


def test_a_mix_of_weights_1_is_visited_as_one_set():
    visit = order.make_stream(7, num_examples=12, mix=order.Mix((1.0, 1.0), np.repeat(np.int32([0, 1]), 6)))
    np.testing.assert_array_equal(visit(5, 40), order.stream_indices(7, 5, 40, num_examples=12))


def test_stream_far_away_needs_no_walk():
    far = order.stream_indices(3, 10**15, 4, num_examples=10)
    np.testing.assert_array_equal(far, order.epoch_permutation(3, 10**14, 10)[:4])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: order.epoch_permutation(-1, 0, 5), "seed must be from 0"),
        (lambda: order.epoch_permutation(0, 0, 0), "num_examples must be from 1"),
        (lambda: order.stream_indices(0, 0, 5, num_examples=0), "num_examples must be from 1"),
        (lambda: order.stream_indices(0, -1, 5, num_examples=3), "must not be negative"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(call, message):
    with pytest.raises(base.InputError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
