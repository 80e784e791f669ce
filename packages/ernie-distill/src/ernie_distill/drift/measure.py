r"""Capability drift from scores: pure functions of arrays.

    R_d      = (S_d(student) - S_d(floor)) / (max_k S_d(E_k) - S_d(floor))    retention of a domain d, against the best teacher
    drift    = max_d (1 - R_d)                                                the worst domain
    spread   = std_d R_d                                                      how unevenly it was lost

S_d is the mean score over a domain's pictures; experts and the generalist E_0 all count for the best. Retention against the generalist has S_d(E_0) in the place
of the best. Intervals are percentiles over resampled clusters of prompts, the same ones for all models and all figures, so that what models have in common
cancels. In each resample the best teacher is chosen anew; that the best of several noisy scores is a little too high remains, and makes R_d too low.

Source: our definition, of which the ERNIE-Image report (arXiv 2605.25347) only says that experts' capabilities must not drift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_core.rng import Rng

CONFIDENCE = 0.95
FEW_CLUSTERS = 30
"""Percentile intervals over fewer clusters are too narrow."""


@dataclass(frozen=True)
class Estimate:
    """A value with its limits. ``reason``: why there is no value, or none of its limits."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def to_json(self) -> dict[str, float | str | None]:
        return {"value": self.value, "low": self.low, "high": self.high, **({"reason": self.reason} if self.reason else {})}


@dataclass(frozen=True)
class Resamples:
    """How often each prompt is in each resample.

    Attributes:
        counts_RP: float64 [R, P]; all prompts of a cluster come together.
        clusters: number of clusters.
    """

    counts_RP: NDArray[np.float64]
    clusters: int

    @classmethod
    def draw(cls, clusters: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Resamples:
        """``clusters``: the label of each prompt. Resample r is drawn from a generator keyed by (seed, r), as ``ernie_core.stats.bootstrap_interval``'s is."""
        names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        of_P = np.array([names[name] for name in clusters])
        draws = Rng(seed).at("stats/bootstrap", 0)
        groups = len(names)
        counts_RG = np.stack([np.bincount(draws.generator(r).integers(groups, size=groups), minlength=groups) for r in range(resamples)])
        return cls(counts_RG[:, of_P].astype(np.float64), groups)


@dataclass(frozen=True)
class Ratio:
    """A mean over pictures and what it is in each resample: ``sum_P totals / sum_P weights``."""

    value: float
    found_R: NDArray[np.float64]

    @classmethod
    def of(cls, totals_P: NDArray[np.float64], weights_P: NDArray[np.float64], resamples: Resamples) -> Ratio:
        """Without any weight, in the whole or in a resample: not a number."""
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(np.float64(totals_P.sum()) / weights_P.sum())
            return cls(value, (resamples.counts_RP @ totals_P) / (resamples.counts_RP @ weights_P))


def estimate(value: float | None, found_R: NDArray[np.float64], *, clusters: int, reason: str = "") -> Estimate:
    """A value with its percentile interval. No interval for a single cluster, or if the value does not exist in one resample of ten or more."""
    if value is None or not np.isfinite(value):
        return Estimate(None, reason=reason or "it is not defined")
    if clusters < 2:
        return Estimate(value, reason="no interval: all prompts are of one cluster")
    good_R = found_R[np.isfinite(found_R)]
    if len(good_R) < 0.9 * len(found_R):
        return Estimate(value, reason=f"no interval: it is not defined in {len(found_R) - len(good_R)} of {len(found_R)} resamples")
    low, high = np.quantile(good_R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Retention:
    """``value`` is None where no teacher is above the floor, and ``reason`` says so. ``teacher``: the best one."""

    value: float | None
    found_R: NDArray[np.float64]
    teacher: str
    reason: str = ""


def retention(student: Ratio, teachers: Mapping[str, Ratio], floor: Ratio | None) -> Retention:
    """R_d against the best of the teachers (one: against that one).

    Args:
        floor: None: 0.
    """
    under = floor.value if floor else 0.0
    under_R = floor.found_R if floor else np.zeros_like(student.found_R)
    best = max(teachers, key=lambda name: teachers[name].value)
    room, room_R = teachers[best].value - under, np.max([one.found_R for one in teachers.values()], axis=0) - under_R
    with np.errstate(invalid="ignore", divide="ignore"):
        found_R = np.where(room_R > 0, (student.found_R - under_R) / room_R, np.nan)
    if room > 0:
        return Retention((student.value - under) / room, found_R, best)
    who = f"`{best}`, the best teacher," if len(teachers) > 1 else f"`{best}`"
    return Retention(
        None, found_R, best, f"{who} scores {teachers[best].value:.4g}, not above the floor of {under:.4g}: there is nothing to retain"
    )


def over_domains(retained: Mapping[str, Retention], *, clusters: int) -> tuple[Estimate, Estimate, str | None]:
    """Drift, spread (of the population of domains) and the worst domain, over the domains that have a retention."""
    known = {name: one for name, one in retained.items() if one.value is not None}
    if not known:
        nothing = Estimate(None, reason="no domain has a retention")
        return nothing, nothing, None
    values_D, found_DR = np.array([one.value for one in known.values()], np.float64), np.stack([one.found_R for one in known.values()])
    worst = list(known)[int(np.argmin(values_D))]
    drift = estimate(float(np.max(1 - values_D)), np.max(1 - found_DR, axis=0), clusters=clusters)
    spread = estimate(float(values_D.std()), found_DR.std(axis=0), clusters=clusters)
    return drift, spread, worst


@dataclass(frozen=True)
class Regressions:
    """Shares of prompts where the student is below, or above, its teacher by more than delta."""

    worse: Estimate
    better: Estimate


def regressions(
    student_P: NDArray[np.float64],
    teacher_P: NDArray[np.float64],
    counted_P: NDArray[np.float64],
    resamples: Resamples,
    *,
    delta: float,
    clusters: int,
) -> Regressions:
    """From mean scores per prompt. The share that is better says how much of the share that is worse is the noise of sampling.

    Args:
        counted_P: 1 for the prompts that count, else 0.
    """

    def share(hit_P: NDArray[np.bool_]) -> Estimate:
        found = Ratio.of(counted_P * hit_P, counted_P, resamples)
        return estimate(found.value, found.found_R, clusters=clusters)

    gap_P = student_P - teacher_P
    return Regressions(share(gap_P < -delta - 1e-12), share(gap_P > delta + 1e-12))


def compared(
    student: Ratio, teacher: Ratio, *, clusters: int, by: Callable[..., NDArray[np.float64]] = np.divide, reason: str = ""
) -> Estimate:
    """The student's mean over (or, by ``np.subtract``, minus) its teacher's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate(
            float(by(np.float64(student.value), teacher.value)), by(student.found_R, teacher.found_R), clusters=clusters, reason=reason
        )
