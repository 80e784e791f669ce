r"""The two-level distribution: which category, then which picture of it.

    A_c    = (n_c mean_c + kappa A) / (n_c + kappa)                      shrunk quality of category c; A: mean over all pictures
    w_c    = n_c^alpha exp((A_c - A) / tau_c),   P(c) = w_c / sum w      with w_c at least ``floor`` times the largest
    p(i|c) = (1 - u) softmax(z_i / tau_i) + u / n_c                      z_i: score normalised within c

Scores are normalised within each category because one style's raw scores would otherwise take everything; small categories are shrunk because the
mean of three pictures says little. How finely the taxonomy cuts matters: at equal A_c, a category split in two halves draws 2^(1 - alpha) times
its former weight, and nothing changes only at alpha = 1.

**Binning.** Pictures of a category are put in ``bins`` intervals of equal width between its least and greatest z; all pictures of a bin are drawn
with the probability of the bin's mean z. A table of (category, bin) then stands for any number of pictures. With h = (z_max - z_min) / bins,

    | log p_binned(i|c) - log p(i|c) |  <=  h / tau_i + h^2 / (8 tau_i^2)

(the first term: z_i against the bin's mean; the second: Hoeffding's lemma for the normaliser). 64 bins over a normal category of a million
pictures have h = 0.15. A category of equal scores, or with one picture, is exact.

Array names end in their axes: K categories, J bins, N pictures.
Source: ERNIE-Image report (arXiv 2605.25347), hierarchical data sampling; the defaults are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ernie_core.api import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 64


@dataclass(frozen=True)
class ClassTable:
    """All the distribution depends on.

    Attributes:
        rows_KJ: pictures of each category and score bin.
        z_KJ: their mean normalised score; 0 where a bin is empty.
        mean_K, std_K: of the raw scores; 0 for an empty category.
    """

    rows_KJ: Ints
    z_KJ: Floats
    mean_K: Floats
    std_K: Floats

    @property
    def rows_K(self) -> Ints:
        return self.rows_KJ.sum(1)

    @property
    def raw_KJ(self) -> Floats:
        """Mean raw score of each bin."""
        return self.mean_K[:, None] + self.std_K[:, None] * self.z_KJ

    @property
    def mean(self) -> float:
        """Mean raw score over all pictures."""
        rows_K = self.rows_K
        return float(np.sum(rows_K / rows_K.sum() * self.mean_K))


@dataclass(frozen=True)
class Law:
    """A distribution over pictures: ``row_KJ`` is the probability of each single picture of a category and bin, 0 where it is never drawn."""

    rows_KJ: Ints
    row_KJ: Floats

    @property
    def class_K(self) -> Floats:
        """P(c)."""
        return (self.rows_KJ * self.row_KJ).sum(1)


def hierarchical(table: ClassTable, *, alpha: float, tau_c: float, tau_i: float, uniform: float, kappa: float, floor: float) -> Law:
    """The distribution above, before caps.

    Raises:
        DataError: there is no picture.
    """
    overall = _nonempty(table).mean
    quality_K = shrunk_quality(table.rows_K, table.mean_K, overall, kappa=kappa)
    class_K = class_probabilities(table.rows_K, quality_K - overall, alpha=alpha, tau_c=tau_c, floor=floor)
    within_KJ = within_class(table.rows_KJ, table.z_KJ, tau_i=tau_i, uniform=uniform)
    return Law(table.rows_KJ, class_K[:, None] * within_KJ)


def shrunk_quality(rows_K: ArrayLike, mean_K: ArrayLike, overall: float, *, kappa: float) -> Floats:
    """A_c. An empty category gets the overall mean."""
    rows, mean = np.asarray(rows_K, np.float64), np.asarray(mean_K, np.float64)
    total = rows + kappa
    return np.where(rows > 0, (rows * mean + kappa * overall) / np.where(total > 0, total, 1.0), overall)


def class_probabilities(rows_K: ArrayLike, advantage_K: ArrayLike, *, alpha: float, tau_c: float, floor: float = 0.0) -> Floats:
    """P(c) from sizes n_c and A_c - A. Empty categories get 0, whatever alpha."""
    rows, advantage = np.asarray(rows_K, np.float64), np.asarray(advantage_K, np.float64)
    log_weight = np.full(rows.shape, -np.inf)
    some = rows > 0
    log_weight[some] = alpha * np.log(rows[some]) + advantage[some] / tau_c
    weight = np.exp(log_weight - log_weight.max())
    weight[some] = np.maximum(weight[some], floor)
    return weight / weight.sum()


def within_class(rows_KJ: ArrayLike, z_KJ: ArrayLike, *, tau_i: float, uniform: float) -> Floats:
    """p(i|c) of one picture of each category and bin; with one picture per bin this is the unbinned formula. 0 in empty bins."""
    rows, z = np.asarray(rows_KJ, np.float64), np.asarray(z_KJ, np.float64)
    logit = np.where(rows > 0, z / tau_i, -np.inf)
    top = logit.max(1, keepdims=True)
    weight = np.exp(logit - np.where(np.isfinite(top), top, 0.0))
    norm, count = (rows * weight).sum(1, keepdims=True), rows.sum(1, keepdims=True)
    filled = np.maximum(count, 1.0)
    mixed = (1 - uniform) * weight / np.where(norm > 0, norm, 1.0) + uniform / filled
    return np.where(rows > 0, mixed, 0.0)


def class_table(category_N: ArrayLike, score_N: ArrayLike, *, classes: int, bins: int = BINS) -> tuple[ClassTable, Ints]:
    """The table of pictures held in memory, and each picture's bin. The index builder does the same from a stream."""
    category, score = np.asarray(category_N, np.int64), np.asarray(score_N, np.float64)
    rows_K = np.bincount(category, minlength=classes)
    some_K = np.maximum(rows_K, 1)
    mean_K = np.bincount(category, weights=score, minlength=classes) / some_K
    low_K, high_K = np.full(classes, np.inf), np.full(classes, -np.inf)
    np.minimum.at(low_K, category, score)
    np.maximum.at(high_K, category, score)
    std_K = class_std(np.bincount(category, weights=(score - mean_K[category]) ** 2, minlength=classes), rows_K, low_K, high_K)
    bin_N = score_bins(score, low_K[category], high_K[category], bins)
    cell_N = category * bins + bin_N
    rows_KJ = np.bincount(cell_N, minlength=classes * bins).reshape(classes, bins)
    sums_KJ = np.bincount(cell_N, weights=score - mean_K[category], minlength=classes * bins).reshape(classes, bins)
    return ClassTable(rows_KJ, bin_mean_z(rows_KJ, sums_KJ, std_K), mean_K, std_K), bin_N


def score_bins(score_N: Floats, low_N: Floats, high_N: Floats, bins: int) -> Ints:
    """The bin of each score between the least and greatest of its category."""
    width = high_N - low_N
    share = (score_N - low_N) / np.where(width > 0, width, 1.0)
    return np.minimum((share * bins).astype(np.int64), bins - 1)


def class_std(squares_K: Floats, rows_K: Ints, low_K: Floats, high_K: Floats) -> Floats:
    """Standard deviations from sums of squared deviations; exactly 0 where all scores are equal, although their mean is rounded."""
    return np.where(high_K > low_K, np.sqrt(squares_K / np.maximum(rows_K, 1)), 0.0)


def bin_mean_z(rows_KJ: Ints, deviation_KJ: Floats, std_K: Floats) -> Floats:
    """Mean z of each bin, from the sums of (score - category mean)."""
    mean = np.where(std_K[:, None] > 0, deviation_KJ, 0.0) / np.maximum(rows_KJ, 1)
    return mean / np.where(std_K > 0, std_K, 1.0)[:, None]


def effective_number(probability: Floats) -> float:
    """exp(entropy): how many equally likely outcomes would be as uncertain."""
    p = probability[probability > 0]
    return float(np.exp(-np.sum(p * np.log(p))))


def _nonempty(table: ClassTable) -> ClassTable:
    if not table.rows_KJ.any():
        raise DataError("there is no picture to sample from: every category is empty")
    return table
