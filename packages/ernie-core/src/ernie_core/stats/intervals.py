"""Intervals of shares, means and other statistics whose trials come in clusters, such as several pictures of one prompt.

Trials of one cluster succeed or fail together, so their number overstates what is known. For shares, following Korn and Graubard (1998), the
variance is estimated from the clusters, turned into an effective number of trials (never more than the real one), corrected for the few degrees of
freedom (fewer still where one or two clusters hold most of the failures), and put into the exact binomial interval of Clopper and Pearson (1934).
Unlike a bootstrap it stays honest with 16 clusters and near 0 or 1: measured coverage at nominal 95 % is .94 to .99 for shares of .6 to .97 and
correlations of .02 to .3 (tests/test_stats.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ernie_core.errors import DataError
from ernie_core.rng import Rng
from ernie_core.stats.distributions import beta_quantile, normal_quantile, student_quantile

MIN_CORRELATION = 0.05


@dataclass(frozen=True)
class Interval:
    """``value`` and its confidence limits; ``n`` trials in ``clusters`` clusters. A limit that nothing is known of is infinite."""

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def to_json(self) -> dict[str, float | int | None]:
        """With null for an infinite limit, which is not JSON."""
        low, high = (limit if math.isfinite(limit) else None for limit in (self.low, self.high))
        return {"value": self.value, "low": low, "high": high, "n": self.n, "clusters": self.clusters}


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The share of successes of ``n`` independent trials, with the score interval of Wilson (1927).

    Raises:
        DataError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"an interval needs 1 or more trials and 0 to that many successes, found {successes} of {n}")
    z = normal_quantile((1 + confidence) / 2)
    share = successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)
    return Interval(share, low, high, n, n)


def clustered_interval(successes: Sequence[bool], clusters: Sequence[object], *, confidence: float = 0.95) -> Interval:
    """The share of successes with its interval, clustered by the labels in ``clusters``.

    A few clusters that happen to agree do not prove that trials within a cluster are independent, so the effective number is at most what an
    intra-cluster correlation of ``MIN_CORRELATION`` gives; with one cluster it is 1.

    Raises:
        DataError: no trials, or another number of labels.
    """
    hits = np.asarray(successes, np.float64)
    of = _labelled(len(hits), clusters)
    n, groups, share = len(hits), int(of.max()) + 1, float(hits.mean())
    sizes = np.bincount(of, minlength=groups)
    totals = np.bincount(of, weights=hits, minlength=groups)
    # Design effect of unequal clusters at the least correlation believed (Kish 1965): 1 + (mean size, weighted by size, - 1) rho.
    effective = n / (1 + (float(np.sum(sizes**2)) / n - 1) * MIN_CORRELATION)
    if groups == 1:
        effective = 1.0
    elif groups == n:
        effective = float(n)  # independent trials
    else:
        degrees = groups - 1.0
        residuals = totals - share * sizes
        if np.any(residuals != 0) and 0 < share < 1:
            spread = float(np.sum(residuals**2))
            # Linearised variance of a ratio of cluster totals (Cochran 1977, 11.27).
            effective = min(effective, share * (1 - share) * n**2 * (groups - 1) / (groups * spread))
            degrees = _degrees(residuals)
        quantile = (1 + confidence) / 2
        effective *= (student_quantile(quantile, n - 1) / student_quantile(quantile, degrees)) ** 2
    hit = share * effective
    tail = (1 - confidence) / 2
    low = 0.0 if share == 0 else beta_quantile(tail, hit, effective - hit + 1)
    high = 1.0 if share == 1 else beta_quantile(1 - tail, hit + 1, effective - hit)
    return Interval(share, min(low, share), max(high, share), n, groups)


def mean_interval(
    values: Sequence[float], clusters: Sequence[object], *, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> Interval:
    """The mean of any finite values with its interval, clustered: Student's t on the variance of cluster totals.

    Args:
        bounds: least and greatest value possible. Limits stay inside; and where all clusters agree, so that their spread says nothing, the interval
            allows for the share of clusters of the other extreme that could have gone unseen (1 - ((1 - confidence) / 2)^(1 / clusters)).

    Returns:
        infinite limits (or the bounds) for a single cluster. Without bounds, values that are all equal give an interval of no width.

    Raises:
        DataError: no values, another number of labels, or a value that is not finite.
    """
    value, error, degrees, groups = cluster_error(values, clusters)
    low, high = -math.inf, math.inf
    if groups > 1:
        half = student_quantile((1 + confidence) / 2, degrees) * error
        low, high = value - half, value + half
        if error == 0 and bounds is not None:
            unseen = 1 - ((1 - confidence) / 2) ** (1 / groups)
            low, high = value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(value, low, high, len(values), groups)


def cluster_error(values: Sequence[float], clusters: Sequence[object]) -> tuple[float, float, float, int]:
    """Mean, its standard error, degrees of freedom and number of clusters. With one cluster the error is infinite.

    Raises:
        DataError: as ``mean_interval``.
    """
    found = np.asarray(values, np.float64)
    of = _labelled(len(found), clusters)
    if not np.isfinite(found).all():
        raise DataError(f"an interval needs finite values, found {found[~np.isfinite(found)][0]} at index {np.argmin(np.isfinite(found))}")
    n, groups, mean = len(found), int(of.max()) + 1, float(found.mean())
    if groups == 1:
        return mean, math.inf, 1.0, 1
    residuals = np.bincount(of, weights=found - mean, minlength=groups)
    scale = float(np.abs(residuals).max())
    if scale <= 1e-12 * max(1.0, float(np.abs(found).max())):  # rounding
        return mean, 0.0, groups - 1.0, groups
    error = math.sqrt(groups / (groups - 1)) * float(np.sqrt(np.sum((residuals / n) ** 2)))
    return mean, error, _degrees(residuals / scale), groups


def bootstrap_interval(
    values: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    statistic: Callable[[NDArray[np.float64]], float] = np.mean,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Any statistic with its percentile interval over resampled clusters (Efron 1979). For correlations and other statistics that
    ``mean_interval`` does not know; it is too narrow for fewer than about 30 clusters.

    Args:
        values: [N] or [N, K], one row per trial.
        clusters: N labels; None: every row is its own.
        statistic: of an array like ``values``.
        seed: resample r draws from a generator keyed by (seed, r), so that the interval is the same anywhere.

    Raises:
        DataError: no values, another number of labels, or a statistic that is not finite in one resample of ten or more.
    """
    rows = np.asarray(values, np.float64)
    of = _labelled(len(rows), list(range(len(rows))) if clusters is None else clusters)
    groups = int(of.max()) + 1
    order = np.argsort(of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(of))[:-1])
    draws = Rng(seed).at("stats/bootstrap", 0)
    found = np.array(
        [
            float(statistic(rows[np.concatenate([members[k] for k in draws.generator(r).integers(groups, size=groups)])]))
            for r in range(resamples)
        ]
    )
    good = found[np.isfinite(found)]
    if len(good) < 0.9 * resamples:
        raise DataError(
            f"the statistic is not finite in {resamples - len(good)} of {resamples} resamples of {groups} clusters; give more clusters"
        )
    low, high = np.quantile(good, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(rows)), float(low), float(high), len(rows), groups)


def _labelled(count: int, clusters: Sequence[object]) -> NDArray[np.int64]:
    """The labels as numbers 0, 1, ... in order of appearance."""
    if not count or count != len(clusters):
        raise DataError(f"an interval needs trials with one cluster label each, found {count} trials and {len(clusters)} labels")
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    return np.array([names[c] for c in clusters], np.int64)


def _degrees(residuals: NDArray[np.float64]) -> float:
    """Satterthwaite's degrees of freedom of a variance whose terms have this kurtosis; groups - 1 for normal ones."""
    groups = len(residuals)
    kurtosis = groups * float(np.sum(residuals**4)) / float(np.sum(residuals**2)) ** 2
    return min(groups - 1.0, max(1.0, 2 * groups / (kurtosis - (groups - 3) / (groups - 1))))
