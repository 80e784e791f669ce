"""Confidence intervals of a share whose trials come in clusters, such as several pictures of one triple.

Trials of one cluster succeed or fail together, so their number overstates what is known. Following Korn and Graubard (1998), the share's variance is
estimated from the clusters, turned into an effective number of trials (never more than the real one), corrected for the few degrees of freedom
(fewer still where one or two clusters hold most of the failures), and put into the exact binomial interval of Clopper and Pearson (1934). Unlike a
bootstrap it stays honest with 16 clusters and near 0 or 1: measured coverage at nominal 95 % is .94 to .99 for shares of .6 to .97 and
correlations of .02 to .3 (tests/test_stats.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ernie_core.api import DataError

MIN_CORRELATION = 0.05


@dataclass(frozen=True)
class Interval:
    """``value`` and its confidence limits; ``n`` trials in ``clusters`` clusters."""

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def to_json(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "clusters": self.clusters}


def clustered_interval(successes: Sequence[bool], clusters: Sequence[object], *, confidence: float = 0.95) -> Interval:
    """The share of successes with its interval, clustered by the labels in ``clusters``.

    A few clusters that happen to agree do not prove that trials within a cluster are independent, so the effective number is at most what an
    intra-cluster correlation of ``MIN_CORRELATION`` gives; with one cluster it is 1.

    Raises:
        DataError: no trials, or another number of labels.
    """
    if not successes or len(successes) != len(clusters):
        raise DataError(f"an interval needs trials with one cluster label each, found {len(successes)} trials and {len(clusters)} labels")
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    of = np.array([names[c] for c in clusters])
    hits = np.asarray(successes, np.float64)
    n, groups, share = len(hits), len(names), float(hits.mean())
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
        spread = float(np.sum(residuals**2))
        if spread > 0:
            # Linearised variance of a ratio of cluster totals (Cochran 1977, 11.27).
            effective = min(effective, share * (1 - share) * n**2 * (groups - 1) / (groups * spread))
            # Satterthwaite's degrees of freedom of a variance whose terms have this kurtosis; groups - 1 for normal ones.
            kurtosis = groups * float(np.sum(residuals**4)) / spread**2
            degrees = min(degrees, max(1.0, 2 * groups / (kurtosis - (groups - 3) / (groups - 1))))
        quantile = (1 + confidence) / 2
        effective *= (student_quantile(quantile, n - 1) / student_quantile(quantile, degrees)) ** 2
    hit = share * effective
    tail = (1 - confidence) / 2
    low = 0.0 if share == 0 else beta_quantile(tail, hit, effective - hit + 1)
    high = 1.0 if share == 1 else beta_quantile(1 - tail, hit + 1, effective - hit)
    return Interval(share, min(low, share), max(high, share), n, groups)


def student_quantile(p: float, degrees: float) -> float:
    """Quantile of Student's t for p > .5, from the beta distribution: t^2 / (d + t^2) ~ Beta(1/2, d/2)."""
    x = beta_quantile(2 * p - 1, 0.5, degrees / 2)
    return math.sqrt(degrees * x / max(1 - x, 1e-300))


def beta_quantile(p: float, a: float, b: float) -> float:
    """Inverse of the regularised incomplete beta function, by bisection to 1e-15."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22) evaluated with Lentz's method."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below this point
        return 1.0 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return front * value


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
