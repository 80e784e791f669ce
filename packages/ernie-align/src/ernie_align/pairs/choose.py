"""Which of a prompt's pictures become pairs, by scores alone: pure functions of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ernie_align.pairs.pair import Reason

THUMBNAIL_PX = 16


@dataclass(frozen=True)
class Rules:
    """See ``pair_config.PairBuildConfig``, which holds the same with its reasons."""

    min_margin: float
    quantile: float
    min_agreement: float
    min_difference: float
    pairs_per_prompt: int
    reuse_pictures: bool


@dataclass(frozen=True)
class Chosen:
    """Two pictures of prompt ``prompt`` by their number among its pictures."""

    prompt: int
    winner: int
    loser: int
    margin: float
    agreement: float


@dataclass
class Choice:
    """``pairs`` in the order of prompts and falling margins; every other candidate, two pictures of one prompt, is counted in ``left_out``."""

    pairs: list[Chosen] = field(default_factory=list)
    left_out: Counter[Reason] = field(default_factory=Counter)


def combined(scores_PNK: NDArray[np.float64], weights_K: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One score per picture.

    A single scorer's is its own. Several are in units that cannot be compared, so each is divided by its standard deviation among the pictures of a
    prompt (pooled over prompts) and the weighted mean is taken; a scorer that tells no pictures of a prompt apart has no say.

    Args:
        scores_PNK: prompt, picture, scorer.

    Returns:
        score_PN, and the units_K by which they were divided.
    """
    if scores_PNK.shape[2] == 1:
        return scores_PNK[:, :, 0], np.ones(1)
    spread_K = np.sqrt(scores_PNK.var(axis=1, ddof=1).mean(axis=0))
    units_K = np.where(spread_K > 0, spread_K, np.inf)
    weight_K = np.asarray(weights_K, np.float64) / np.sum(weights_K)
    return (scores_PNK / units_K) @ weight_K, np.where(spread_K > 0, spread_K, 0.0)


def choose(scores_PNK: NDArray[np.float64], thumbnails: Sequence[NDArray[np.uint8]], *, weights_K: Sequence[float], rules: Rules) -> Choice:
    """Choose among all pairs of pictures of each prompt.

    Args:
        thumbnails: for each prompt [N, t, t, 3], see ``difference``.
    """
    choice, chosen = Choice(), []
    score_PN, _ = combined(scores_PNK, weights_K)
    for prompt in range(len(score_PN)):
        candidates = _candidates(prompt, score_PN[prompt], scores_PNK[prompt], thumbnails[prompt], weights_K, rules, choice.left_out)
        used: set[int] = set()
        taken = 0
        for pair in sorted(candidates, key=lambda p: (-p.margin, p.winner, p.loser)):
            if taken == rules.pairs_per_prompt or (not rules.reuse_pictures and used & {pair.winner, pair.loser}):
                choice.left_out[Reason.PROMPT_FULL] += 1
                continue
            chosen.append(pair)
            used |= {pair.winner, pair.loser}
            taken += 1
    threshold = np.quantile([pair.margin for pair in chosen], rules.quantile) if chosen else 0.0
    choice.pairs = [pair for pair in chosen if pair.margin >= threshold]
    choice.left_out[Reason.SMALL_QUANTILE] += len(chosen) - len(choice.pairs)
    choice.left_out = +choice.left_out
    return choice


def _candidates(
    prompt: int,
    score_N: NDArray[np.float64],
    scores_NK: NDArray[np.float64],
    thumbnails_Ntt3: NDArray[np.uint8],
    weights_K: Sequence[float],
    rules: Rules,
    left_out: Counter[Reason],
) -> list[Chosen]:
    found = []
    for first in range(len(score_N)):
        for second in range(first + 1, len(score_N)):
            winner, loser = (first, second) if score_N[first] > score_N[second] else (second, first)
            margin = float(score_N[winner] - score_N[loser])
            share = agreement(scores_NK[winner], scores_NK[loser], weights_K)
            if margin == 0:
                left_out[Reason.TIE] += 1
            elif margin < rules.min_margin:
                left_out[Reason.SMALL_MARGIN] += 1
            elif share < rules.min_agreement - 1e-9:
                left_out[Reason.DISAGREEMENT] += 1
            elif difference(thumbnails_Ntt3[winner], thumbnails_Ntt3[loser]) < rules.min_difference:
                left_out[Reason.NEAR_IDENTICAL] += 1
            else:
                found.append(Chosen(prompt, winner, loser, margin, share))
    return found


def agreement(winner_K: NDArray[np.float64], loser_K: NDArray[np.float64], weights_K: Sequence[float]) -> float:
    """Share of the scorers, by weight, that prefer the winner; one that finds both equal counts half."""
    vote_K = np.where(winner_K > loser_K, 1.0, np.where(winner_K == loser_K, 0.5, 0.0))
    return float(vote_K @ np.asarray(weights_K, np.float64) / np.sum(weights_K))


def thumbnail(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    return np.array(Image.fromarray(pixels_HW3).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX), np.uint8)


def difference(first_tt3: NDArray[np.uint8], second_tt3: NDArray[np.uint8]) -> float:
    """Root mean square difference of two thumbnails as a share of the range: 0 for equal ones, 1 for black and white."""
    return float(np.sqrt(np.mean((first_tt3.astype(np.float64) - second_tt3) ** 2)) / 255)
