"""Two systems on the same trials: their difference, whether it is real, and whether one is not worse than the other by more than a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ernie_core.errors import DataError
from ernie_core.rng import Rng
from ernie_core.stats.distributions import normal_quantile, student_cdf
from ernie_core.stats.intervals import Interval, bootstrap_interval, cluster_error, mean_interval

Intervals = Literal["clustered", "bootstrap"]


@dataclass(frozen=True)
class Difference:
    """Mean of first - second over pairs, its interval, and the two-sided p value of no difference."""

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class NonInferiority:
    """``shown``: the lower limit of new - old (one-sided, at ``confidence``) lies above -``margin``; ``p_value``: of "worse by the margin or more"."""

    difference: float
    low: float
    margin: float
    confidence: float
    p_value: float
    n: int
    clusters: int

    @property
    def shown(self) -> bool:
        return self.low > -self.margin


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[object],
    *,
    confidence: float = 0.95,
    intervals: Intervals = "clustered",
    seed: int = 0,
    resamples: int = 2000,
) -> Difference:
    """Mean of first - second over trials that both systems had, such as the same prompts with the same noise.

    Args:
        intervals: "clustered": Student's t on cluster totals, interval and p. "bootstrap": percentiles over resampled clusters, and p from
            flipping the signs of whole clusters at random, which assumes only that without a difference both signs are equally likely.
        seed, resamples: of the bootstrap.

    Raises:
        DataError: no trials, or different numbers of values and labels.
    """
    differences = _differences(first, second)
    if intervals == "bootstrap":
        interval = bootstrap_interval(differences, clusters, seed=seed, resamples=resamples, confidence=confidence)
        return Difference(interval, _sign_flip_p(differences, clusters, seed=seed, resamples=resamples))
    interval = mean_interval(differences, clusters, confidence=confidence, bounds=_bounds(first, second))
    return Difference(interval, _student_p(differences, clusters))


def non_inferiority(
    new: Sequence[float], old: Sequence[float], clusters: Sequence[object], *, margin: float, confidence: float = 0.95
) -> NonInferiority:
    """Whether ``new`` is not worse than ``old`` by ``margin`` or more (values: higher is better), by the one-sided lower limit of the paired difference.

    Plan the number of pairs with ``pairs_needed``: too few show nothing, whatever the truth.

    Raises:
        DataError: as ``paired_difference``, or a margin that is not above 0.
    """
    if not margin > 0:
        raise DataError(f"a margin of non-inferiority must lie above 0, found {margin}")
    differences = _differences(new, old)
    # A two-sided interval at 2 c - 1 has c above its lower limit.
    interval = mean_interval(differences, clusters, confidence=2 * confidence - 1, bounds=_bounds(new, old))
    value, error, degrees, _ = cluster_error(differences, clusters)
    if error > 0:
        p = 1 - student_cdf((value + margin) / error, degrees) if math.isfinite(error) else 1.0
    else:
        p = 1 - confidence if interval.low > -margin else 1.0  # no spread: all that is known is on which side of the confidence it lies
    return NonInferiority(value, interval.low, margin, confidence, p, interval.n, interval.clusters)


def pairs_needed(deviation: float, *, margin: float, difference: float = 0.0, confidence: float = 0.95, power: float = 0.8) -> int:
    """Independent pairs with which ``non_inferiority`` shows a true ``difference`` (new - old) with probability ``power``.

    n = ((z_confidence + z_power) deviation / (margin + difference))^2; Julious 2004, section 4. Multiply by the design effect of clusters.

    Args:
        deviation: standard deviation of a pair's difference.

    Raises:
        DataError: the true difference lies beyond the margin, so no number is enough.
    """
    if not margin + difference > 0 or not deviation > 0:
        raise DataError(f"a difference of {difference:g} with deviation {deviation:g} cannot be shown to lie within a margin of {margin:g}")
    return math.ceil(((normal_quantile(confidence) + normal_quantile(power)) * deviation / (margin + difference)) ** 2)


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    if len(first) != len(second):
        raise DataError(f"paired values must be equally many, found {len(first)} and {len(second)}")
    return np.asarray(first, np.float64) - np.asarray(second, np.float64)


def _bounds(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Differences of rights and wrongs lie in [-1, 1]; of other values nothing is known."""
    return (-1.0, 1.0) if {*np.unique(np.asarray(first, float)), *np.unique(np.asarray(second, float))} <= {0.0, 1.0} else None


def _student_p(differences: np.ndarray, clusters: Sequence[object]) -> float:
    value, error, degrees, _ = cluster_error(differences, clusters)
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return 2 * student_cdf(-abs(value) / error, degrees) if math.isfinite(error) else 1.0


def _sign_flip_p(differences: np.ndarray, clusters: Sequence[object], *, seed: int, resamples: int) -> float:
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    totals = np.bincount([names[c] for c in clusters], weights=differences)
    draws = Rng(seed).at("stats/sign-flip", 0)
    flipped = [abs(float(totals @ (2 * draws.generator(r).integers(2, size=len(totals)) - 1))) for r in range(resamples)]
    as_far = sum(f >= abs(float(totals.sum())) * (1 - 1e-12) for f in flipped)
    return (1 + as_far) / (1 + resamples)
