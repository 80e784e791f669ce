"""How far a reading is from the truth: character error rates, by edit distance (Levenshtein 1966; Sellers 1980 for a text within a longer one)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SAME = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "，": ",",
        "：": ":",
        "；": ";",
        "！": "!",
        "？": "?",
        "（": "(",
        "）": ")",
        "—": "-",
        "–": "-",
    }
)
"""Variants of one mark that no reader can tell apart without the font."""


def plain(text: str) -> str:
    """What is compared: compatibility forms made one (NFKC), variants of quotes and punctuation made one, no white space."""
    return "".join(unicodedata.normalize("NFKC", text).translate(_SAME).split())


def distance(truth: str, found: str, *, within: bool = False) -> int:
    """Least number of insertions, deletions and substitutions of characters that make ``found`` of ``truth``.

    Args:
        within: of ``found``, any part may be compared: what stands before and after it costs nothing.
    """
    row = np.arange(len(truth) + 1)
    best = int(row[-1])
    wanted = np.array([ord(c) for c in truth], np.int64)
    for number, character in enumerate(found, start=1):
        row = _next_row(row, wanted != ord(character), 0 if within else number)
        best = min(best, int(row[-1]))
    return best if within else int(row[-1])


def _next_row(row: NDArray[np.int64], differs: NDArray[np.bool_], start: int) -> NDArray[np.int64]:
    """The distances of all beginnings of the truth to one character more.

    Deletions from the truth run along the row: d[j] = min over i <= j of (candidate[i] + j - i), a running minimum of candidate[i] - i.
    """
    candidate = np.concatenate([[start], np.minimum(row[1:] + 1, row[:-1] + differs)])
    places = np.arange(len(candidate))
    return np.minimum.accumulate(candidate - places) + places


def error_rate(truth: Sequence[str], found: Sequence[str]) -> float:
    """Character errors of all lines, joined in order, per character of the truth.

    Raises:
        ValueError: a truth without characters.
    """
    wanted = plain("".join(truth))
    if not wanted:
        raise ValueError("an error rate needs a truth with at least one character")
    return distance(wanted, plain("".join(found))) / len(wanted)
