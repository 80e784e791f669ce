"""Clustered intervals: special functions, coverage on synthetic data, and edge cases."""

import itertools

import numpy as np
import pytest

from ernie_core.api import DataError
from ernie_data.stats import beta_cdf, beta_quantile, clustered_interval, student_quantile

CLUSTERS = [k for k in range(16) for _ in range(32)]


def test_student_quantiles_equal_the_tables():
    # Two-sided 95 %, from any statistics textbook.
    for degrees, value in ((1, 12.706), (2, 4.303), (5, 2.571), (15, 2.131), (30, 2.042), (120, 1.980)):
        assert student_quantile(0.975, degrees) == pytest.approx(value, abs=6e-4)


def test_the_beta_function_has_its_closed_forms():
    for x in (0.05, 0.3, 0.5, 0.9):
        assert beta_cdf(x, 1, 1) == pytest.approx(x, abs=1e-13)
        assert beta_cdf(x, 3, 1) == pytest.approx(x**3, abs=1e-13)
        assert beta_cdf(x, 1, 5) == pytest.approx(1 - (1 - x) ** 5, abs=1e-13)
        assert beta_cdf(x, 2.5, 7) + beta_cdf(1 - x, 7, 2.5) == pytest.approx(1, abs=1e-13)
    assert beta_cdf(beta_quantile(0.37, 4, 9), 4, 9) == pytest.approx(0.37, abs=1e-12)


def test_with_one_trial_per_cluster_the_interval_is_that_of_clopper_and_pearson():
    # 18 of 20: [.683, .988] in published tables.
    interval = clustered_interval([True] * 18 + [False] * 2, list(range(20)))
    assert (interval.low, interval.high) == (pytest.approx(0.683, abs=5e-4), pytest.approx(0.988, abs=5e-4))


@pytest.mark.parametrize(("share", "correlation"), [(0.6, 0.3), (0.9, 0.1), (0.9, 0.3), (0.97, 0.1), (0.97, 0.3), (0.97, 0.02)])
def test_intervals_cover_the_truth_on_clustered_data(share, correlation):
    rng = np.random.default_rng(1)
    strength = (1 - correlation) / correlation
    covered = 0
    for _ in range(200):
        of_cluster = rng.beta(share * strength, (1 - share) * strength, 16)
        hits = rng.random((16, 32)) < of_cluster[:, None]
        interval = clustered_interval(list(hits.ravel()), CLUSTERS)
        covered += interval.low <= share <= interval.high
    assert covered / 200 >= 0.91


def test_ignoring_the_clusters_would_not_cover():
    # The reason for this module: treating all 512 pictures as independent gives intervals that are wrong a third of the time.
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        hits = rng.random((16, 32)) < rng.beta(0.9 * 7 / 3, 0.1 * 7 / 3, 16)[:, None]
        interval = clustered_interval(list(hits.ravel()), list(range(512)))
        covered += interval.low <= 0.9 <= interval.high
    assert covered / 300 < 0.75


def test_all_right_and_all_wrong_have_one_open_side():
    right = clustered_interval([True] * 512, CLUSTERS)
    wrong = clustered_interval([False] * 512, CLUSTERS)
    assert (right.value, right.high, wrong.value, wrong.low) == (1.0, 1.0, 0.0, 0.0)
    assert 0.95 < right.low < 0.99
    assert wrong.high == pytest.approx(1 - right.low, abs=1e-9)
    assert (right.n, right.clusters) == (512, 16)


def test_one_failure_more_never_raises_the_lower_limit():
    lows = [clustered_interval([True] * (512 - k) + [False] * k, CLUSTERS).low for k in range(30)]
    assert all(a >= b for a, b in itertools.pairwise(lows))


def test_failures_in_one_cluster_widen_the_interval():
    together = [i >= 32 for i in range(512)]
    apart = [i % 16 != 0 for i in range(512)]
    a, b = clustered_interval(together, CLUSTERS), clustered_interval(apart, CLUSTERS)
    assert a.value == b.value
    assert a.high - a.low > 1.5 * (b.high - b.low)


def test_a_single_cluster_counts_as_one_trial():
    interval = clustered_interval([True] * 9 + [False], ["a"] * 10)
    assert interval.low < 0.05
    assert interval.high == pytest.approx(1.0, abs=0.01)


def test_intervals_do_not_depend_on_the_order_of_trials():
    order = np.random.default_rng(0).permutation(512)
    hits = [i % 7 != 0 for i in range(512)]
    shuffled = clustered_interval([hits[i] for i in order], [CLUSTERS[i] for i in order])
    straight = clustered_interval(hits, CLUSTERS)
    assert (shuffled.low, shuffled.high) == (pytest.approx(straight.low, abs=1e-12), pytest.approx(straight.high, abs=1e-12))


def test_no_trials_are_refused():
    with pytest.raises(DataError, match="found 0 trials and 0 labels"):
        clustered_interval([], [])
    with pytest.raises(DataError, match="found 2 trials and 1 labels"):
        clustered_interval([True, False], ["a"])
