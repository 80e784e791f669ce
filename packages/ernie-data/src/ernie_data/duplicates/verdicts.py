"""Who is refused in whose favour. Records are numbered by preference: 0 is the best record of the dataset, and a smaller number always wins.

A record is refused only in favour of one that is kept and that it was itself compared with (a leader): where A resembles B and B resembles C, but A not C,
and A is the best, B is refused and C is kept. So groups do not grow along chains. The one exception is stated in ``follow``.

N: records, in order of preference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_data.duplicates.compare import distances
from ernie_data.duplicates.fingerprint import THUMB_PX

KEPT, EXACT, NEAR, SEMANTIC = range(4)
KINDS = ("", "exact", "near", "semantic")


@dataclass
class Verdicts:
    """``winner_N``: in whose favour a record is refused, itself if it is kept; ``kind_N``: one of the four above; ``distance_N``: to the winner."""

    winner_N: NDArray[np.int64]
    kind_N: NDArray[np.int8]
    distance_N: NDArray[np.float32]

    @classmethod
    def of(cls, count: int) -> Verdicts:
        return cls(np.arange(count), np.zeros(count, np.int8), np.zeros(count, np.float32))

    @property
    def leaders(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.kind_N == KEPT)

    def refuse(self, loser: int, winner: int, kind: int, distance: float) -> None:
        self.winner_N[loser], self.kind_N[loser], self.distance_N[loser] = winner, kind, distance

    def follow(self) -> None:
        """A record whose winner was refused later (an exact copy of a near duplicate, a near duplicate of a semantic one) follows it: it is refused for
        what its winner was refused for, and the distance is the winner's.
        """
        while (moved := self.kind_N[self.winner_N] != KEPT).any():
            via = self.winner_N[moved]
            self.kind_N[moved], self.distance_N[moved], self.winner_N[moved] = self.kind_N[via], self.distance_N[via], self.winner_N[via]


def refuse_exact(verdicts: Verdicts, sums_N2: NDArray[np.uint64]) -> None:
    """Of records with equal sums all but the best."""
    _, first, member = np.unique(sums_N2, axis=0, return_index=True, return_inverse=True)
    winner_N = first[member.reshape(-1)]
    lost = winner_N != np.arange(len(winner_N))
    verdicts.winner_N[lost], verdicts.kind_N[lost] = winner_N[lost], EXACT


class Candidates:
    """Which hashes are near which.

    Args:
        hash_N: for each record the number of its hash.
        pairs_P2: pairs of near hashes, each once.
        hashes: how many there are.
    """

    def __init__(self, hash_N: NDArray[np.int64], pairs_P2: NDArray[np.int64], *, hashes: int) -> None:
        self.hash_N = hash_N
        one, other = np.concatenate([pairs_P2, pairs_P2[:, ::-1]]).T
        self._near = other[np.argsort(one, kind="stable")]
        self._ends = np.concatenate([[0], np.cumsum(np.bincount(one, minlength=hashes))])

    def near(self, number: int) -> list[int]:
        """The neighbours of a hash, without itself."""
        return self._near[self._ends[number] : self._ends[number + 1]].tolist()


def refuse_near(
    verdicts: Verdicts,
    candidates: Candidates,
    looked_at: NDArray[np.int64],
    thumbs: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    *,
    within: float,
) -> int:
    """Of the leaders, those whose picture resembles that of a better one; the nearest wins.

    Args:
        looked_at: leaders with candidates, ascending; ``thumbs`` [looked_at, bytes] and ``sizes`` [looked_at, 2] are theirs.

    Returns:
        how many pictures were compared.
    """
    by_hash: dict[int, list[int]] = {}
    compared = 0
    for place, number in enumerate(looked_at.tolist()):
        own = int(candidates.hash_N[number])
        rivals = [rival for near in (own, *candidates.near(own)) for rival in by_hash.get(near, ())]
        if rivals:
            rivals.sort()
            compared += len(rivals)
            found = distances(_picture(thumbs[place]), tuple(sizes[place].tolist()), _pictures(thumbs[rivals]), sizes[rivals])
            best = int(found.argmin())
            if found[best] <= within:
                verdicts.refuse(number, int(looked_at[rivals[best]]), NEAR, float(found[best]))
                continue
        by_hash.setdefault(own, []).append(place)
    return compared


def _picture(thumb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return thumb.reshape(THUMB_PX, THUMB_PX, 3)


def _pictures(thumbs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return thumbs.reshape(-1, THUMB_PX, THUMB_PX, 3)
