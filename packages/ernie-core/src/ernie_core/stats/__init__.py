"""Confidence intervals, paired comparisons and checks that something is not worse. Light: numpy alone."""

from ernie_core.stats.compare import Difference, NonInferiority, non_inferiority, paired_difference, pairs_needed
from ernie_core.stats.intervals import Interval, bootstrap_interval, clustered_interval, mean_interval, wilson_interval

__all__ = [
    "Difference",
    "Interval",
    "NonInferiority",
    "bootstrap_interval",
    "clustered_interval",
    "mean_interval",
    "non_inferiority",
    "paired_difference",
    "pairs_needed",
    "wilson_interval",
]
