"""Clustered intervals: special functions, coverage on synthetic data, and edge cases."""

import itertools

import numpy as np
import pytest

from ernie_core.api import DataError
from ernie_core.stats import (
    bootstrap_interval,
    clustered_interval,
    mean_interval,
    non_inferiority,
    paired_difference,
    pairs_needed,
    wilson_interval,
)
from ernie_core.stats.distributions import beta_cdf, beta_quantile, student_cdf, student_quantile

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


def test_wilsons_interval_has_the_published_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    some, none = wilson_interval(81, 263), wilson_interval(0, 20)
    assert (some.low, some.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert (none.low, none.high) == (0.0, pytest.approx(0.1611, abs=1e-4))
    for successes, n in ((1, 0), (3, 2), (-1, 4)):
        with pytest.raises(DataError, match=f"found {successes} of {n}"):
            wilson_interval(successes, n)


def test_students_distribution_is_the_inverse_of_its_quantile():
    for degrees in (1, 3.5, 40):
        assert student_cdf(student_quantile(0.975, degrees), degrees) == pytest.approx(0.975, abs=1e-9)
        assert student_cdf(-1.3, degrees) + student_cdf(1.3, degrees) == pytest.approx(1, abs=1e-12)
        assert student_cdf(0.0, degrees) == pytest.approx(0.5)


def test_means_of_independent_values_have_students_interval():
    values = [2.1, 3.4, 1.9, 5.0, 2.2, 3.1, 4.4, 2.8]
    interval = mean_interval(values, range(8))
    half = student_quantile(0.975, 7) * np.std(values, ddof=1) / np.sqrt(8)
    assert interval.value == pytest.approx(np.mean(values))
    assert interval.high - interval.value == pytest.approx(half, rel=0.02)  # flat values may cost degrees of freedom, never add some
    assert interval.n == interval.clusters == 8


@pytest.mark.parametrize(("clusters", "each"), [(12, 1), (16, 8), (40, 4)])
def test_intervals_of_means_and_paired_differences_cover_the_truth(clusters, each):
    rng = np.random.default_rng(2)
    labels = [k for k in range(clusters) for _ in range(each)]
    covered = small = 0
    for _ in range(300):
        shared = rng.normal(size=(clusters, 1)) + rng.normal(size=(clusters, each))
        covered += (interval := mean_interval((3 + shared).ravel(), labels)).low <= 3 <= interval.high
        small += paired_difference((5 + shared).ravel(), np.full(clusters * each, 5.0), labels).p_value < 0.1
    assert covered / 300 >= 0.92
    assert 0.06 <= small / 300 <= 0.14


def test_one_cluster_says_nothing_of_the_mean():
    interval = mean_interval([1.0, 2.0, 3.0], "aaa")
    assert interval.to_json() == {"value": 2.0, "low": None, "high": None, "n": 3, "clusters": 1}
    assert paired_difference([1.0, 2.0], [0.0, 0.0], "aa").p_value == 1.0


def test_where_all_agree_bounds_leave_room_for_what_was_not_seen():
    interval = mean_interval([0.0] * 59, range(59), bounds=(-1.0, 1.0))
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 59)) == pytest.approx(0.0606, abs=1e-4)
    assert interval.low == -interval.high
    assert mean_interval([4.0] * 3, range(3)).low == 4.0


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="finite values, found nan at index 1"):
        mean_interval([1.0, float("nan"), 2.0], range(3))


def test_a_bootstrap_is_repeatable_and_agrees_with_students_interval_for_many_clusters():
    rng = np.random.default_rng(3)
    labels = [k for k in range(60) for _ in range(3)]
    values = (rng.normal(size=(60, 1)) + rng.normal(size=(60, 3))).ravel()
    once, again, other = (bootstrap_interval(values, labels, seed=s, resamples=600) for s in (1, 1, 2))
    assert once == again != other
    exact = mean_interval(values, labels)
    assert once.high - once.low == pytest.approx(exact.high - exact.low, rel=0.12)


def test_a_bootstrap_takes_any_statistic_of_rows():
    rng = np.random.default_rng(4)
    x = rng.normal(size=200)
    rows = np.stack([x, x + 0.5 * rng.normal(size=200)], axis=1)
    interval = bootstrap_interval(rows, statistic=lambda r: float(np.corrcoef(r.T)[0, 1]), resamples=300)
    assert interval.low < 0.894 < interval.high  # 1 / sqrt(1.25)
    with pytest.raises(DataError, match="not finite in 20 of 20 resamples of 200 clusters"):
        bootstrap_interval(rows, statistic=lambda r: float("nan"), resamples=20)


def test_a_real_paired_difference_is_found_though_both_systems_vary_far_more():
    rng = np.random.default_rng(5)
    hard = np.repeat(rng.normal(size=50), 4) * 5
    old, new, labels = hard + 0.3 * rng.normal(size=200), 0.2 + hard + 0.3 * rng.normal(size=200), list(np.repeat(range(50), 4))
    for intervals in ("clustered", "bootstrap"):
        found = paired_difference(new, old, labels, intervals=intervals, resamples=999)
        assert 0 < found.interval.low < 0.2 < found.interval.high
        assert found.p_value < 0.005
        assert paired_difference(old, new, labels, intervals=intervals, resamples=999).interval.value == -found.interval.value
    assert paired_difference(old, old, labels).p_value == 1.0
    assert paired_difference(old, old, labels, intervals="bootstrap", resamples=99).p_value == 1.0
    with pytest.raises(DataError, match="found 200 and 199"):
        paired_difference(old, old[1:], labels)


def test_non_inferiority_is_shown_as_often_as_planned_and_rarely_at_the_margin():
    rng, margin = np.random.default_rng(6), 0.1
    n = pairs_needed(0.5, margin=margin, power=0.8)
    assert n == 155  # (1.6449 + .8416)^2 25
    shown = {
        true: np.mean([non_inferiority(true + 0.5 * rng.normal(size=n), np.zeros(n), range(n), margin=margin).shown for _ in range(300)])
        for true in (0.0, -margin)
    }
    assert shown[0.0] == pytest.approx(0.8, abs=0.07)
    assert shown[-margin] <= 0.09


def test_a_few_equal_answers_show_no_non_inferiority():
    few = non_inferiority([1.0] * 10, [1.0] * 10, range(10), margin=0.05)
    many = non_inferiority([1.0] * 60, [1.0] * 60, range(60), margin=0.05)
    assert (few.shown, many.shown) == (False, True)
    assert (many.n, many.difference, many.margin) == (60, 0.0, 0.05)
    with pytest.raises(DataError, match="must lie above 0, found 0"):
        non_inferiority([1.0], [1.0], [0], margin=0)
    with pytest.raises(DataError, match=r"difference of -0.2 with deviation 1 cannot be shown"):
        pairs_needed(1.0, margin=0.1, difference=-0.2)
