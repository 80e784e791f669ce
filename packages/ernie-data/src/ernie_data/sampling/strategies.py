"""Named ways to weigh pictures: the two-level distribution and what it is compared with.

A strategy is a function from the table of (category, score bin) and the config to a ``Law``; caps are applied to all alike. Further comparators,
such as Seedream 3's two axes (balance of visual clusters times long-tail weight of captions) or Qwen-Image's staged filters and domain mix, are
added to ``STRATEGIES``. What they need beyond categories and scores enters as categories: visual clusters are a taxonomy, and a stage of filters is
a selection that the index is built from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

import numpy as np

from ernie_core.api import ConfigError, DataError
from ernie_data.sampling.caps import apply_caps
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import ClassTable, Law, hierarchical

Strategy = Callable[[ClassTable, SamplingConfig], Law]


def build_law(table: ClassTable, config: SamplingConfig) -> Law:
    """The distribution a config asks for, capped if ``draws`` is known.

    Raises:
        ConfigError: an unknown strategy, or caps that cannot be met.
        DataError: nothing is left to draw.
    """
    if config.strategy not in STRATEGIES:
        close = difflib.get_close_matches(config.strategy, STRATEGIES, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else "."
        raise ConfigError(f'`strategy`: nothing is called "{config.strategy}"{hint} Known: {", ".join(STRATEGIES)}')
    if not table.rows_KJ.any():
        raise DataError("there is no picture to sample from: every category is empty")
    law = STRATEGIES[config.strategy](table, config)
    return apply_caps(law, draws=config.draws, max_repeats=config.max_repeats) if config.draws else law


def two_levels(table: ClassTable, config: SamplingConfig) -> Law:
    return hierarchical(
        table,
        alpha=config.alpha,
        tau_c=config.tau_c,
        tau_i=config.tau_i,
        uniform=config.uniform,
        kappa=config.kappa,
        floor=config.floor,
    )


def uniform_image(table: ClassTable, config: SamplingConfig) -> Law:
    """Every picture alike."""
    return Law(table.rows_KJ, np.where(table.rows_KJ > 0, 1.0 / table.rows_KJ.sum(), 0.0))


def class_balanced(table: ClassTable, config: SamplingConfig) -> Law:
    """Every category that has pictures alike, and every picture within it."""
    rows_K1 = table.rows_K[:, None]
    share = 1.0 / np.count_nonzero(rows_K1)
    return Law(table.rows_KJ, np.where(table.rows_KJ > 0, share / np.maximum(rows_K1, 1), 0.0))


def hard_threshold(table: ClassTable, config: SamplingConfig) -> Law:
    """Every picture alike whose score bin has a mean raw score of at least ``min_score``; the others never.

    The cut follows bins: a picture nearer to ``min_score`` than its bin is wide may fall on the other side.
    """
    kept_KJ = (table.rows_KJ > 0) & (table.raw_KJ >= config.min_score)
    count = int(table.rows_KJ[kept_KJ].sum())
    if not count:
        best = float(table.raw_KJ[table.rows_KJ > 0].max())
        raise DataError(
            f"`min_score` = {config.min_score:g} keeps no picture: the best score bin has a mean of {best:.6g}. Lower `min_score`."
        )
    return Law(table.rows_KJ, np.where(kept_KJ, 1.0 / count, 0.0))


STRATEGIES: Mapping[str, Strategy] = {
    "hierarchical": two_levels,
    "uniform-image": uniform_image,
    "class-balanced": class_balanced,
    "hard-threshold": hard_threshold,
}
