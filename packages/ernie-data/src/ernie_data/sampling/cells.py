"""How many pictures each (bucket, category) has up to each score bin, in as few bytes as that takes.

Most pairs of bucket and category have few pictures, so pairs of up to 65,535 are held in two bytes per bin and only larger ones in four: with 75
buckets, 10,000 categories and 64 bins a billion pictures take 97 MB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NARROW = 2**16 - 1
WIDE = 2**32 - 1
"""Most pictures of one pair."""


@dataclass(frozen=True)
class Cells:
    """Running counts of P pairs over J bins; the last is the pair's size.

    Attributes:
        narrow_XJ, wide_YJ: uint16 and uint32, of the pairs up to and above ``NARROW`` pictures, in their order. May be mapped files.
        is_wide_P, place_P: which of the two holds a pair, and where.
    """

    narrow_XJ: NDArray[np.uint16]
    wide_YJ: NDArray[np.uint32]
    is_wide_P: NDArray[np.bool_]
    place_P: NDArray[np.int32]

    @classmethod
    def of(cls, narrow_XJ: NDArray[np.uint16], wide_YJ: NDArray[np.uint32], size_P: ArrayLike) -> Cells:
        """From both arrays and the size of every pair."""
        is_wide_P = np.asarray(size_P) > NARROW
        place_P = np.where(is_wide_P, np.cumsum(is_wide_P), np.cumsum(~is_wide_P)) - 1
        return cls(narrow_XJ, wide_YJ, is_wide_P, place_P.astype(np.int32))

    @classmethod
    def pack(cls, ends_PJ: NDArray[np.integer]) -> Cells:
        """From running counts of at most ``WIDE``."""
        size_P = ends_PJ[:, -1]
        is_wide_P = size_P > NARROW
        return cls.of(ends_PJ[~is_wide_P].astype(np.uint16), ends_PJ[is_wide_P].astype(np.uint32), size_P)

    def __len__(self) -> int:
        return len(self.place_P)

    def ends(self, pairs_N: ArrayLike) -> NDArray[np.int64]:
        """Running counts of some pairs, [N, J]."""
        pairs = np.asarray(pairs_N)
        wide = self.is_wide_P[pairs]
        ends_NJ = np.empty((len(pairs), self.narrow_XJ.shape[1]), np.int64)
        ends_NJ[~wide] = self.narrow_XJ[self.place_P[pairs[~wide]]]
        ends_NJ[wide] = self.wide_YJ[self.place_P[pairs[wide]]]
        return ends_NJ

    @property
    def nbytes(self) -> int:
        return self.narrow_XJ.nbytes + self.wide_YJ.nbytes
