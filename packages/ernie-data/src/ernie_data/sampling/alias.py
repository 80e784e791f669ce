"""Alias tables: a draw from any discrete distribution with two uniform numbers and one look-up (Walker 1977; Vose 1991).

Built without a loop: Vose's pairing of light and heavy outcomes, done in order, is a merge of two running sums (Huebschle-Schneider and Sanders
2022, "Parallel weighted random sampling").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ernie_core.api import DataError


@dataclass(frozen=True)
class AliasTable:
    """Slot s gives outcome s with probability ``keep_N[s]``, and ``other_N[s]`` otherwise; all slots are equally likely."""

    keep_N: NDArray[np.float64]
    other_N: NDArray[np.uint32]

    @classmethod
    def build(cls, weights: ArrayLike) -> AliasTable:
        """
        Raises:
            DataError: no weight is positive, or one is negative or not finite; names its place.
        """
        weight = np.asarray(weights, np.float64)
        bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
        if len(bad):
            raise DataError(f"weight {bad[0]} of {len(weight)} is {weight[bad[0]]}: expected finite numbers >= 0")
        if not weight.size or not weight.max() > 0:
            raise DataError(f"none of {weight.size} weights is positive: there is nothing to draw")
        n = len(weight)
        scaled = weight / weight.max()  # first, so that sums of tiny or huge weights neither vanish nor overflow
        scaled *= n / float(scaled.sum(dtype=np.longdouble))
        light, heavy = np.flatnonzero(scaled < 1), np.flatnonzero(scaled >= 1)
        keep, other = np.ones(n), np.arange(n, dtype=np.uint32)
        if len(light) and len(heavy):  # otherwise all are alike up to rounding
            # Running sums lose digits over many outcomes; extended precision, where the machine has it, keeps them.
            missing = np.cumsum(1 - scaled[light], dtype=np.longdouble)
            spare = np.cumsum(scaled[heavy] - 1, dtype=np.longdouble)
            # A light slot is filled by the first heavy outcome that the light slots before it have not used up.
            filler = np.searchsorted(spare, np.concatenate([np.zeros(1, missing.dtype), missing[:-1]]), side="right")
            keep[light], other[light] = scaled[light], heavy[np.minimum(filler, len(heavy) - 1)]
            # A heavy outcome gives a little too much to the last light slot it fills; the next heavy one makes up for it in its own slot.
            last = np.searchsorted(missing, spare, side="left")
            used = (spare > 0) & (last < len(light)) & (np.arange(len(heavy)) < len(heavy) - 1)
            h = np.flatnonzero(used)
            keep[heavy[h]] = np.clip(1 + spare[h] - missing[last[h]], 0.0, 1.0)
            other[heavy[h]] = heavy[h + 1]
        return cls(keep, other)

    def draw(self, place: NDArray[np.float64], coin: NDArray[np.float64]) -> NDArray[np.int64]:
        """Outcomes from two independent arrays of uniform numbers in [0, 1)."""
        slot = (place * len(self.keep_N)).astype(np.int64)
        return np.where(coin < self.keep_N[slot], slot, self.other_N[slot])

    def probabilities(self) -> NDArray[np.float64]:
        """What the table draws, exactly."""
        n = len(self.keep_N)
        return (self.keep_N + np.bincount(self.other_N, weights=1 - self.keep_N, minlength=n)) / n
