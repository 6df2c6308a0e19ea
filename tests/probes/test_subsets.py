"""The label subsets: published draws, balance, nesting."""

import itertools

import numpy as np
import pytest

from simclr_jax import base, probes


def _labels(num_classes: int = 10, per_class: int = 130) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(num_classes), per_class))


def _philox(key: tuple[int, int], count: int) -> list[int]:
    """The raw stream of Philox4x64-10 (Salmon et al. 2011, section 4.3) in plain integers, counter from 1."""
    mask, stream = 2**64 - 1, []
    for counter in range(1, -(-count // 4) + 1):
        block, (low, high) = [counter, 0, 0, 0], key
        for _ in range(10):
            first, second = block[0] * 0xD2E7470EE14C6C93, block[2] * 0xCA5A826395121157
            block = [(second >> 64) ^ block[1] ^ low, second & mask, (first >> 64) ^ block[3] ^ high, first & mask]
            low, high = (low + 0x9E3779B97F4A7C15) & mask, (high + 0xBB67AE8584CAA73B) & mask
        stream += block
    return stream[:count]


def test_label_subset_is_the_published_draw():
    labels = np.arange(60) % 3
    assert probes.label_subset(labels, 0.1).tolist() == [17, 31, 34, 39, 42, 59]
    assert probes.label_subset(labels, 0.1, seed=1).tolist() == [0, 10, 14, 22, 32, 51]


@pytest.mark.parametrize("seed", [0, 1, 12])
def test_label_subset_takes_the_rows_with_the_lowest_philox_numbers(seed):
    labels = np.random.default_rng(seed).integers(0, 3, 70)
    priorities = _philox((seed, 1), 70)
    expected = []
    for label in range(3):
        rows = sorted((row for row in range(70) if labels[row] == label), key=lambda row: priorities[row])
        expected += rows[: max(1, int(0.2 * len(rows) + 0.5))]
    assert probes.label_subset(labels, 0.2, seed=seed).tolist() == sorted(expected)


def test_label_subset_takes_the_same_share_of_every_class():
    labels = _labels()
    counts = np.bincount(labels[probes.label_subset(labels, 0.1)], minlength=10)
    assert counts.tolist() == [13] * 10


def test_label_subset_takes_at_least_one_of_every_class():
    labels = np.concatenate([np.zeros(500, np.int64), [1, 2]])
    assert sorted(set(labels[probes.label_subset(labels, 0.01)])) == [0, 1, 2]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_label_subsets_are_nested(seed):
    labels = np.random.default_rng(seed).integers(0, 7, 991)
    fractions = (0.01, 0.05, 0.1, 0.333, 1.0)
    subsets = [set(probes.label_subset(labels, fraction, seed=seed).tolist()) for fraction in fractions]
    assert all(small <= large for small, large in itertools.pairwise(subsets))
    assert subsets[-1] == set(range(991))


def test_label_subset_never_takes_unlabelled_rows():
    labels = _labels()
    labels[::3] = -1
    assert np.all(labels[probes.label_subset(labels, 1.0)] >= 0)
    assert probes.label_subset(np.full(5, -1), 1.0).size == 0


def test_label_subset_depends_on_the_seed():
    labels = _labels()
    assert not np.array_equal(probes.label_subset(labels, 0.1), probes.label_subset(labels, 0.1, seed=1))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_label_subset_refuses_fractions_outside_the_unit_interval(fraction):
    with pytest.raises(base.InputError, match=r"must lie in \(0, 1\]; got"):
        probes.label_subset(_labels(), fraction)


def test_stratified_split_parts_every_class_and_keeps_single_examples():
    labels = np.array([0] * 10 + [1] * 2 + [2] + [-1] * 3)
    kept, held = probes.stratified_split(labels, 0.2)
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert np.bincount(labels[kept], minlength=3).tolist() == [8, 1, 1]
    assert not set(kept) & set(held)


def test_a_list_of_file_names_means_the_images_of_these_names():
    ids = ["n01/n01_7.JPEG", "n02/n02_3.JPEG", "n02/a/x.png", "n02/b/x.png"]
    assert probes.rows_by_name(ids, ["n02_3.JPEG", "n01_7.JPEG", "n02_3.JPEG"]).tolist() == [0, 1]
    assert probes.rows_by_name(ids, ["b/x.png", "n01/n01_7.JPEG"]).tolist() == [0, 3]
    for names, said in [
        (["x.png"], "1 of 1 mean none or several, such as x.png"),
        ([], "got none"),
        (["1"], "such as 1"),
    ]:
        with pytest.raises(base.InputError, match=said):
            probes.rows_by_name(ids, names)
