"""Which records a step sees: a pure function of (seed, step), without state and without replacement inside an epoch.

Buckets take turns in proportion to their number of records. Steps are grouped in blocks of ``BLOCK_STEPS``; block j gives bucket b the slots s with
``low_b <= s + u_j < high_b``, where [low_b, high_b) is the bucket's part of the line [0, BLOCK_STEPS) and u_j moves through [0, 1) by the golden
ratio: systematic sampling, so that after any number of blocks a bucket's share is right to about one step, however small it is. A seeded
permutation mixes the slots of a block. How often a bucket was drawn before a step is a sum over blocks, so that any step is found directly.

Inside a bucket the records of epoch e come in the order of a permutation keyed by (seed, stage size, bucket, e).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ernie_core.rng import Rng

BLOCK_STEPS = 1024
_GOLDEN = 0.6180339887498949


class EpochOrder:
    """The order of the records of one resolution stage.

    Args:
        rows_by_bucket: row numbers of each bucket (width, height); no bucket is empty.
        size_px: the stage's size, which keys the permutations.
    """

    def __init__(self, rows_by_bucket: Mapping[tuple[int, int], Sequence[int]], *, seed: int, size_px: int) -> None:
        self.buckets = tuple(sorted(rows_by_bucket))
        self.rows = tuple(np.asarray(rows_by_bucket[b], np.int64) for b in self.buckets)
        counts = np.array([len(r) for r in self.rows], np.float64)
        self.edges = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]) * BLOCK_STEPS
        self.edges[-1] = BLOCK_STEPS
        self.rng = Rng(seed)
        self.stream = f"data/order/{size_px}"
        self.start = float(self.rng.at(self.stream + "/blocks", 0).generator(0).random())
        # Per-instance caches of pure functions; lru_cache is thread-safe.
        self._block = lru_cache(maxsize=4)(self._block_slots)
        self._permutation = lru_cache(maxsize=2 * len(self.buckets) + 2)(self._epoch_permutation)

    def batch(self, step: int, global_batch: int) -> tuple[tuple[int, int], NDArray[np.int64]]:
        """The bucket of a step and its ``global_batch`` rows. A bucket smaller than the batch goes through several epochs in it."""
        block, slot = divmod(step, BLOCK_STEPS)
        slots = self._block(block)
        bucket = int(slots[slot])
        drawn_before = self._drawn_before(block, bucket) + int(np.count_nonzero(slots[:slot] == bucket))
        rows = self.rows[bucket]
        at = drawn_before * global_batch + np.arange(global_batch)
        picked = [
            rows[self._permutation(bucket, int(epoch))[at[at // len(rows) == epoch] % len(rows)]] for epoch in np.unique(at // len(rows))
        ]
        return self.buckets[bucket], np.concatenate(picked)

    def _offsets(self, blocks: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.mod(self.start + blocks * _GOLDEN, 1.0)

    def _drawn_before(self, block: int, bucket: int) -> int:
        u = self._offsets(np.arange(block))
        return int(np.sum(np.ceil(self.edges[bucket + 1] - u) - np.ceil(self.edges[bucket] - u)))

    def _block_slots(self, block: int) -> NDArray[np.int64]:
        """The bucket of each step of a block."""
        u = self._offsets(np.array([block]))[0]
        counts = np.diff(np.ceil(self.edges - u)).astype(np.int64)
        slots = np.repeat(np.arange(len(self.buckets)), counts)
        return slots[self.rng.at(self.stream + "/slots", block).generator(0).permutation(BLOCK_STEPS)]

    def _epoch_permutation(self, bucket: int, epoch: int) -> NDArray[np.int64]:
        width, height = self.buckets[bucket]
        return self.rng.at(f"{self.stream}/{width}x{height}", epoch).generator(0).permutation(len(self.rows[bucket]))
