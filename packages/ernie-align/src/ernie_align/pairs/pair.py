"""What a pair is made of, in files and before it is in one, and why one is not used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ernie_core.api import DataError


class Reason(StrEnum):
    """Why something was not made a pair. The text goes into counts that users read."""

    EMPTY_PROMPT = "missing or empty prompt"
    MISSING_PICTURE = "picture missing"
    UNREADABLE = "picture damaged, cut off or of another format"
    TOO_LARGE = "picture too large"
    DIFFERENT_SHAPES = "winner and loser of different shapes"
    SAME_FILE = "winner equal to loser"
    SAME_PIXELS = "winner and loser of identical pixels"
    BAD_MARGIN = "margin negative or not a number"
    WRONG_SIGN = "score of the winner not above the loser's"
    TIE = "tie"
    NO_LABEL = "no label"
    BAD_LABEL = "labels that contradict each other"
    BAD_ROW = "row that cannot be read"
    NEAR_IDENTICAL = "pictures nearly identical"
    DISAGREEMENT = "scorers disagree"
    SMALL_MARGIN = "margin below min_margin"
    PROMPT_FULL = "prompt has better pairs"
    SMALL_QUANTILE = "margin below the quantile"


class Unusable(DataError):
    """One pair that cannot be trained on, with the reason it is counted under."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True)
class Picture:
    """A picture of a pair folder: where its bytes are and what they must be. ``score`` is what the margin was made from, ``scores`` each scorer's own."""

    shard: str
    offset: int
    size: int
    sha256: str
    pixel_sha256: str
    width: int
    height: int
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A row of ``pairs.parquet``."""

    prompt: str
    style: str | None
    winner: Picture
    loser: Picture
    source: str
    margin: float
    annotator: str
    agreement: float | None


@dataclass(frozen=True)
class NewPicture:
    """A picture to be written: its encoded bytes, and what to call it in messages."""

    data: bytes
    where: str
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NewPair:
    """A pair to be written.

    Attributes:
        margin: how much the winner is preferred, >= 0, in the annotator's unit; votes without a strength have 1.
        annotator: who chose: scorers' names, or a person's or study's.
        source: where the pictures are from, such as a checkpoint or an imported file.
        style: the prompt's caption style, if it has one.
        agreement: share of the scorers or voters that prefer the winner, in [0, 1], if it is known.
    """

    prompt: str
    winner: NewPicture
    loser: NewPicture
    margin: float
    annotator: str
    source: str
    style: str | None = None
    agreement: float | None = None


def is_text(text: str) -> bool:
    """False for a text with half of a surrogate pair, which JSON can write and no file of ours can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_new(pair: NewPair) -> None:
    """
    Raises:
        Unusable: what can be told without decoding the pictures.
    """
    where = f"{pair.winner.where} and {pair.loser.where}"
    texts = {"prompt": pair.prompt, "style": pair.style or "", "annotator": pair.annotator, "source": pair.source}
    if odd := [name for name, text in texts.items() if not is_text(text)]:
        raise Unusable(Reason.BAD_ROW, f"{where}: {odd[0]} holds half of a surrogate pair, which is no text")
    if not pair.prompt.strip():
        raise Unusable(Reason.EMPTY_PROMPT, f"{where}: no prompt")
    if not (math.isfinite(pair.margin) and pair.margin >= 0):
        raise Unusable(Reason.BAD_MARGIN, f"{where}: a margin of {pair.margin}; expected a number >= 0 (is the loser the better one?)")
    scores = pair.winner.score, pair.loser.score
    if scores[0] is not None and scores[1] is not None and not scores[0] > scores[1]:
        raise Unusable(Reason.WRONG_SIGN, f"{where}: the winner scored {scores[0]}, the loser {scores[1]}")
    if pair.winner.data == pair.loser.data:
        raise Unusable(Reason.SAME_FILE, f"{where}: both are the same file")
