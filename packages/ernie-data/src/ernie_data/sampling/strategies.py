"""Named ways to weigh pictures: the two-level distribution and what it is compared with.

A strategy is a function from the table of (category, score bin), the config and the categories' names to a ``Law``; caps are applied to all alike.
A law knows a picture by its category and score bin only, so what a comparator needs beyond these must be one of them when the index is built: visual
clusters are a taxonomy's categories, a caption's rarity is the score (the column ``caption_rarity`` of the stage ``rarity``), and filters that look at
something else than the score are a selection that the index is built from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from ernie_core.api import ConfigError, DataError
from ernie_data.sampling.caps import apply_caps
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import ClassTable, Floats, Ints, Law, hierarchical

Strategy = Callable[[ClassTable, SamplingConfig, Sequence[str]], Law]
_NAMED = 5


def build_law(table: ClassTable, config: SamplingConfig, names: Sequence[str] = ()) -> Law:
    """The distribution a config asks for, capped if ``draws`` is known.

    Args:
        names: of the table's categories; needed where ``config.domains`` speaks of them.

    Raises:
        ConfigError: an unknown strategy, caps that cannot be met, or domains that leave categories out.
        DataError: nothing is left to draw.
    """
    if config.strategy not in STRATEGIES:
        close = difflib.get_close_matches(config.strategy, STRATEGIES, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else "."
        raise ConfigError(f'`strategy`: nothing is called "{config.strategy}"{hint} Known: {", ".join(STRATEGIES)}')
    if not table.rows_KJ.any():
        raise DataError("there is no picture to sample from: every category is empty")
    law = STRATEGIES[config.strategy](table, config, names)
    return apply_caps(law, draws=config.draws, max_repeats=config.max_repeats) if config.draws else law


def two_levels(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> Law:
    return hierarchical(
        table,
        alpha=config.alpha,
        tau_c=config.tau_c,
        tau_i=config.tau_i,
        uniform=config.uniform,
        kappa=config.kappa,
        floor=config.floor,
    )


def uniform_image(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> Law:
    """Every picture alike."""
    return Law(table.rows_KJ, np.where(table.rows_KJ > 0, 1.0 / table.rows_KJ.sum(), 0.0))


def class_balanced(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> Law:
    """Every category that has pictures alike, and every picture within it."""
    rows_K1 = table.rows_K[:, None]
    share = 1.0 / np.count_nonzero(rows_K1)
    return Law(table.rows_KJ, np.where(table.rows_KJ > 0, share / np.maximum(rows_K1, 1), 0.0))


def hard_threshold(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> Law:
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


def dual_axis(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> Law:
    r"""Balance of visual clusters times a long-tail weight of captions, as Seedream 3.0 describes it.

        P(i) ~ n_c^(alpha - 1) exp(t_i / tau_i)

    with c the visual cluster of picture i, and t_i how rare the words of its caption are over the whole dataset, in nats. alpha = 1 leaves clusters as
    found, 0 gives all of them the same weight before captions are looked at; tau_i = 1 counts a caption by the geometric mean of its words' inverse
    frequencies, inf ignores captions.

    The index must have been built with visual clusters as categories and with the caption's rarity as the score (`index.score = "caption_rarity"` in the
    recipe of a build with the stage `rarity`); t_i is then the mean of its bin.

    Source: Seedream 3.0 technical report (arXiv 2504.11346), section 2.1: "dual-axis collaborative sampling" by hierarchical clustering and by TF-IDF.
    The report gives no formula; this one is ours. Its cross-modal retrieval is no law of sampling and is not modelled.
    """
    live_KJ = table.rows_KJ > 0
    logit_KJ = np.where(live_KJ, (config.alpha - 1) * np.log(np.maximum(table.rows_K, 1))[:, None] + table.raw_KJ / config.tau_i, -np.inf)
    weight_KJ = np.exp(logit_KJ - logit_KJ.max())
    return Law(table.rows_KJ, weight_KJ / (table.rows_KJ * weight_KJ).sum())


def staged_filters(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> Law:
    """Filters that tighten with the resolution, and a fixed share for each domain, as Qwen-Image describes its data.

    Of the score bins whose mean raw score reaches the filter of the stage ``size_px``, every picture of a domain is drawn alike, and each domain gets
    its share of ``domains``: nature 55, design 27, people 13, synthetic 5 in the report.

    Source: Qwen-Image technical report (arXiv 2508.02324), section 3: seven stages S1 to S7 and the mix of domains. Its filters on resolution, on
    rotation, on the agreement of caption and picture and the like are selections when the index is built; what is modelled here is the score's.
    """
    domain_K, share_G = _domains(table, config, names)
    least = max((score for size, score in config.filters if size <= config.size_px), default=-np.inf)
    kept_KJ = (table.rows_KJ > 0) & (table.raw_KJ >= least)
    rows_G = np.bincount(domain_K, weights=np.where(kept_KJ, table.rows_KJ, 0).sum(1), minlength=len(share_G))
    patterns = list(config.domains) or ["*"]
    if empty := [pattern for pattern, rows in zip(patterns, rows_G) if not rows]:
        raise DataError(
            f"the filter of {config.size_px} px (raw score {least:.6g}) leaves no picture of the domain {empty[0]!r}; lower it, or leave the domain out"
        )
    return Law(table.rows_KJ, np.where(kept_KJ, (share_G / rows_G)[domain_K][:, None], 0.0))


def _domains(table: ClassTable, config: SamplingConfig, names: Sequence[str]) -> tuple[Ints, Floats]:
    """The domain of each category, and each domain's share of the draws."""
    if not config.domains:
        return np.zeros(len(table.rows_K), np.int64), np.ones(1)
    if len(names) != len(table.rows_K):
        raise ConfigError("`domains` speaks of categories by name, and their names are not known here")
    patterns = list(config.domains)
    found = [next((g for g, pattern in enumerate(patterns) if fnmatchcase(name, pattern)), -1) for name in names]
    if left := [name for name, g, rows in zip(names, found, table.rows_K) if g < 0 and rows]:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        raise ConfigError(
            f'`domains`: {", ".join(map(repr, left[:_NAMED]))}{more} fit none of {", ".join(map(repr, patterns))}; add a pattern, such as "*" at the end'
        )
    share_G = np.array(list(config.domains.values()), np.float64)
    drawable = {g for g, rows in zip(found, table.rows_K) if rows}
    if unused := [pattern for g, pattern in enumerate(patterns) if g not in drawable]:
        raise ConfigError(
            f"`domains`: {', '.join(map(repr, unused))} fit no category that an earlier pattern leaves; categories are {', '.join(map(repr, names[:_NAMED]))}"
            + (", ..." if len(names) > _NAMED else "")
        )
    return np.maximum(np.array(found, np.int64), 0), share_G / share_G.sum()


STRATEGIES: Mapping[str, Strategy] = {
    "hierarchical": two_levels,
    "uniform-image": uniform_image,
    "class-balanced": class_balanced,
    "hard-threshold": hard_threshold,
    "dual-axis": dual_axis,
    "staged-filters": staged_filters,
}
KNOBS_OF: Mapping[str, tuple[str, ...]] = {
    "hierarchical": ("alpha", "tau_c", "tau_i", "uniform", "kappa", "floor"),
    "uniform-image": (),
    "class-balanced": (),
    "hard-threshold": ("min_score",),
    "dual-axis": ("alpha", "tau_i"),
    "staged-filters": ("filters", "size_px", "domains"),
}
"""The options of a config that have an effect, beside ``draws`` and ``max_repeats``, which always have."""
