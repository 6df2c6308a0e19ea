"""Label-free scores against loops and singular values in float64, and scikit-learn."""

import math

import numpy as np
import pytest

from simclr_jax import base, probes
from simclr_jax.probes import label_free

SHAPES = [(40, 6), (7, 12)]


def _features(shape, *, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.geomspace(1, 0.01, shape[1]) + 0.5).astype(np.float32)


def _exp_entropy(values, epsilon=0.0):
    total = sum(values)
    shares = [value / total + epsilon for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def _unit_rows(features):
    return [row / math.sqrt(float(row @ row)) for row in features.astype(np.float64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_rankme_is_the_entropy_of_the_singular_values(shape):
    h = _features(shape)
    values = np.linalg.svd(h.astype(np.float64), compute_uv=False)
    # Singular values come from the squares here: half the digits of float64.
    assert probes.rankme(h) == pytest.approx(_exp_entropy(values, 1e-7), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_effective_rank_is_the_entropy_of_the_variances_of_scikit_learns_components(shape):
    decomposition = pytest.importorskip("sklearn.decomposition")
    h = _features(shape)
    shares = decomposition.PCA().fit(h.astype(np.float64)).explained_variance_ratio_
    assert probes.effective_rank(h) == pytest.approx(_exp_entropy(shares), rel=1e-9)
    covariance = np.zeros((shape[1], shape[1]))
    for row in h.astype(np.float64) - h.mean(axis=0, dtype=np.float64):
        covariance += np.outer(row, row)
    assert probes.effective_rank(h) == pytest.approx(_exp_entropy(np.abs(np.linalg.eigvals(covariance))), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_uniformity_is_the_mean_over_pairs(shape):
    metrics = pytest.importorskip("sklearn.metrics")
    h = _features(shape)
    rows = _unit_rows(h)
    pairs = [math.exp(-2 * float((one - rows[j]) @ (one - rows[j]))) for i, one in enumerate(rows) for j in range(i)]
    assert probes.uniformity(h) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-12)
    distances = metrics.pairwise_distances(np.stack(rows), metric="sqeuclidean")[np.triu_indices(len(rows), 1)]
    assert probes.uniformity(h) == pytest.approx(float(np.log(np.exp(-2 * distances).mean())), rel=1e-9)


def test_alignment_and_deviation_are_those_of_the_directions():
    h, other = _features((30, 5)), _features((30, 5), seed=1)
    one, two = _unit_rows(h), _unit_rows(other)
    expected = sum(float((a - b) @ (a - b)) for a, b in zip(one, two, strict=True)) / 30
    assert probes.alignment(h, other) == pytest.approx(expected, rel=1e-12)
    assert probes.alignment(h, 3 * h) == pytest.approx(0, abs=1e-12)
    columns = np.stack(one).T
    deviations = [math.sqrt(sum((x - column.mean()) ** 2 for x in column) / 30) for column in columns]
    assert probes.feature_deviation(h) == pytest.approx(math.sqrt(5) * sum(deviations) / 5, rel=1e-12)


def test_known_distributions_have_known_scores():
    even = np.random.default_rng(0).normal(size=(4000, 8))
    assert probes.feature_deviation(even) == pytest.approx(1, abs=0.01)
    assert probes.effective_rank(even) == pytest.approx(8, abs=0.05)
    assert probes.rankme(even) == pytest.approx(8, abs=0.05)
    line = even[:, :1] * np.arange(1.0, 9)
    assert probes.rankme(line) == pytest.approx(1, abs=1e-4) and probes.effective_rank(line) == pytest.approx(1)
    same = np.ones((10, 8))
    assert (probes.feature_deviation(same), probes.uniformity(same), probes.effective_rank(same)) == pytest.approx(
        (0, 0, 1), abs=1e-12
    )
    # A common offset is one direction to RankMe and none to the effective rank.
    assert probes.rankme(even + 100) < 2 and probes.effective_rank(even + 100) == pytest.approx(8, abs=0.05)


def test_of_many_rows_evenly_spaced_ones_are_taken(monkeypatch):
    monkeypatch.setattr(label_free, "MAX_ROWS", 20)
    monkeypatch.setattr(label_free, "MAX_PAIRED_ROWS", 10)
    h = _features((100, 6))
    every = np.linspace(0, 99, 20).astype(int)
    assert probes.rankme(h) == probes.rankme(h[every])
    assert probes.uniformity(h) == probes.uniformity(h[np.linspace(0, 99, 10).astype(int)])


def test_scores_by_name_leave_out_what_cannot_be_computed():
    h = _features((20, 4))
    scores = probes.label_free_scores(h, np.stack([h, h], axis=1))
    assert scores == {
        "rankme": probes.rankme(h),
        "effective_rank": probes.effective_rank(h),
        "feature_deviation": probes.feature_deviation(h),
        "uniformity": probes.uniformity(h),
        "alignment": 0.0,
    }
    broken = h.copy()
    broken[3, 2] = np.nan
    assert probes.label_free_scores(broken) == {} == probes.label_free_scores(h[:1])
    with pytest.raises(base.InputError, match="features must be finite"):
        probes.rankme(broken)
    with pytest.raises(base.InputError, match=r"\[rows, D\]; got shape \(4,\)"):
        probes.rankme(h[0])
    with pytest.raises(base.InputError, match="two views of the same images"):
        probes.alignment(h, h[:5])
    with pytest.raises(base.InputError, match="at least two images"):
        probes.uniformity(h[:1])
