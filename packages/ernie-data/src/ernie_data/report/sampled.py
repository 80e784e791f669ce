"""What sampling will do to the accepted records: each category's share of the draws, and how often each record is expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_data.report.facts import Facts
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import Floats, class_table, effective_number
from ernie_data.sampling.strategies import build_law


@dataclass(frozen=True)
class Sampled:
    """K categories, N accepted records.

    Attributes:
        found_K, drawn_K: share of the records, and of the draws.
        rows_K: records.
        expected_N: how often each record is drawn, over ``config.draws`` draws, or over as many draws as there are records.
    """

    config: SamplingConfig
    categories: tuple[str, ...]
    rows_K: NDArray[np.int64]
    found_K: Floats
    drawn_K: Floats
    expected_N: Floats

    @property
    def effective_found(self) -> float:
        return effective_number(self.found_K)

    @property
    def effective_drawn(self) -> float:
        return effective_number(self.drawn_K)


def sample_law(facts: Facts, config: SamplingConfig) -> Sampled | None:
    """None without categories or scores to sample by. A record without a score counts with the mean of the others.

    Raises:
        ConfigError: see ``build_law``.
    """
    score_N = facts.score_N
    if not facts.accepted or (score_N is None and not facts.categories):
        return None
    category_N = facts.category_N if facts.categories else np.zeros(facts.accepted, np.int64)
    names = facts.categories or ("all",)
    filled_N = np.zeros(facts.accepted) if score_N is None else np.where(np.isnan(score_N), np.nanmean(score_N), score_N)
    table, bin_N = class_table(category_N, filled_N, classes=len(names))
    law = build_law(table, config, names)
    rows_K = table.rows_K
    return Sampled(
        config, names, rows_K, rows_K / rows_K.sum(), law.class_K, (config.draws or facts.accepted) * law.row_KJ[category_N, bin_N]
    )
