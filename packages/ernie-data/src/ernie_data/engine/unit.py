"""Work units: which work there is and what its output is called. Pure functions; nothing is read or written.

A unit is named by what determines its output (stage, content of the input, config, code), so that doing it twice gives the same name, a finished
output is recognised on any machine, and a changed config, input or stage asks for other names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def digest(value: Any) -> str:
    """sha256 of a JSON-able value: equal values, equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class WorkUnit:
    """One piece of work of one stage.

    Args:
        stage: the stage's name.
        input: hash of the content the stage reads.
        config: hash of the stage's options.
        code: the stage's own version and those of the libraries that shape its output, e.g. "1 pillow 12.2.0".
    """

    stage: str
    input: str
    config: str
    code: str

    @property
    def name(self) -> str:
        """Name of the output folder: 128 bits of the hash of all four."""
        return digest([self.stage, self.input, self.config, self.code])[:32]


def cut(items: Iterable[T], key: Callable[[T], str], *, rows: int) -> list[list[T]]:
    """Cut a sorted sequence into pieces of about ``rows``, at least half and at most twice as many (the last may be smaller).

    Where a piece begins depends on keys, not on positions: with a new item only the piece around it changes, and the cuts after it come back
    to where they were, as in content-defined chunking (Muthitacharoen et al. 2001).
    """
    pieces: list[list[T]] = []
    piece: list[T] = []
    least, most = max(1, rows // 2), 2 * rows
    for item in items:
        if piece and (len(piece) >= most or (len(piece) >= least and _begins(key(item), max(1, rows - least)))):
            pieces.append(piece)
            piece = []
        piece.append(item)
    return [*pieces, piece] if piece else pieces


def _begins(key: str, one_in: int) -> bool:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") % one_in == 0


def chained(contents: Sequence[str]) -> str:
    """Input hash of a stage that reads outputs of earlier ones: what they hold, whatever units made them."""
    return digest(list(contents))
