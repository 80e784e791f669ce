"""Which pairs a step sees: a pure function of (seed, step), without replacement inside an epoch of a bucket.

Step s belongs to the bucket in whose part of [0, 1), as long as its share of the pairs, frac(r + s * golden ratio) falls: a low-discrepancy sequence, so
that after any number of steps a bucket has had its share to a few steps. Inside a bucket the pairs of epoch e come in the order of a permutation
keyed by (seed, stage size, bucket, e).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ernie_core.rng import Rng

_BLOCK_STEPS = 1 << 14
_GOLDEN = 0.6180339887498949


class PairOrder:
    """The order of the pairs of one resolution stage.

    Args:
        rows_by_bucket: row numbers of each bucket (width, height); no bucket is empty.
        size_px: the stage's size, which keys the permutations.
    """

    def __init__(self, rows_by_bucket: Mapping[tuple[int, int], Sequence[int]], *, seed: int, size_px: int) -> None:
        self.buckets = tuple(sorted(rows_by_bucket))
        self.rows = tuple(np.asarray(rows_by_bucket[bucket], np.int64) for bucket in self.buckets)
        lengths = np.array([len(rows) for rows in self.rows], np.float64)
        self.edges = np.cumsum(lengths)[:-1] / lengths.sum()
        self.rng = Rng(seed)
        self.stream = f"align/pairs/{size_px}"
        self.start = float(self.rng.at(self.stream + "/buckets", 0).generator(0).random())
        self._drawn = [
            np.zeros(len(self.buckets), np.int64)
        ]  # how often each bucket was drawn before each block; a cache of a pure function
        self._lock = threading.Lock()
        self._permutation = lru_cache(maxsize=2 * len(self.buckets) + 2)(self._epoch_permutation)

    def batch(self, step: int, global_batch: int) -> tuple[tuple[int, int], NDArray[np.int64]]:
        """The bucket of a step and its ``global_batch`` rows. A bucket smaller than the batch goes through several epochs in it."""
        block, within = divmod(step, _BLOCK_STEPS)
        steps = self._buckets_of(block)
        bucket = int(steps[within])
        drawn_before = int(self._drawn_before(block)[bucket]) + int(np.count_nonzero(steps[:within] == bucket))
        rows = self.rows[bucket]
        epochs, places = np.divmod(drawn_before * global_batch + np.arange(global_batch), len(rows))
        return self.buckets[bucket], np.concatenate(
            [rows[self._permutation(bucket, int(e))[places[epochs == e]]] for e in np.unique(epochs)]
        )

    def _buckets_of(self, block: int) -> NDArray[np.int64]:
        """The bucket of each step of a block."""
        steps = block * _BLOCK_STEPS + np.arange(_BLOCK_STEPS)
        return np.searchsorted(self.edges, np.mod(self.start + steps * _GOLDEN, 1.0), side="right")

    def _drawn_before(self, block: int) -> NDArray[np.int64]:
        with self._lock:
            while len(self._drawn) <= block:
                last = self._buckets_of(len(self._drawn) - 1)
                self._drawn.append(self._drawn[-1] + np.bincount(last, minlength=len(self.buckets)))
            return self._drawn[block]

    def _epoch_permutation(self, bucket: int, epoch: int) -> NDArray[np.int64]:
        width, height = self.buckets[bucket]
        return self.rng.at(f"{self.stream}/{width}x{height}", epoch).generator(0).permutation(len(self.rows[bucket]))
