"""``PairRecord``: what methods that train on preferences receive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ernie_core.api import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PairRecord(Record):
    """A prompt and two pictures of one shape. As a ``Record`` it is its chosen picture, so that validation and fine-tuning read it as such.

    Attributes:
        lose_pixels: the rejected picture, uint8 [H, W, 3], of the same shape as ``pixels``.
        lose_pixels_id: as ``pixels_id``, of the rejected picture.
        margin: how much more the annotator preferred ``pixels``, >= 0, in the annotator's unit.
        annotator: who chose: scorers' names, or a person's or study's.
        pair_id: row number in the source's folders, one after the other as they are listed; ``min_margin`` does not change it.
    """

    lose_pixels: NDArray = field(kw_only=True)
    lose_pixels_id: str = field(kw_only=True)
    margin: float = field(kw_only=True)
    annotator: str = field(kw_only=True)
    pair_id: int = field(kw_only=True)
