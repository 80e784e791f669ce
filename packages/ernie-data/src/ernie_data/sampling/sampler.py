"""Which rows a step sees, with replacement: a pure function of (seed, step, index in the global batch).

A global batch is of one bucket. The bucket follows from the step; then each sample draws a category of the bucket (alias table), a score bin of the
category there, and a row of the bin, with four uniform numbers. Sample i of a step uses block i of the counter-based generator keyed by (seed,
stream) at this step, so any rank may ask for any part of a batch, on any number of ranks, and any step is found at once.

Over steps a picture of probability p is expected p times per draw, whatever its bucket: a bucket's share of steps is its pictures' mass. Buckets
are drawn by a golden-ratio sequence whose places are permuted within blocks of ``BLOCK_STEPS``: after any number of blocks every bucket's share is
right to a few steps, where independent draws would be off by the square root.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.rng import Draws, Rng
from ernie_data.sampling.alias import AliasTable
from ernie_data.sampling.hierarchy import Floats, Ints, Law
from ernie_data.sampling.index import Tables

BLOCK_STEPS = 1024
_GOLDEN = 0.6180339887498949
_PORTION = 240  # draws at a time: arrays over 64 bins then stay below 128 KiB, which malloc reuses instead of mapping pages anew
_PAIRS = 4096


class Sampler:
    """Draws rows of an index by a law. Holds no state: all methods are pure.

    Args:
        tables: the index.
        law: over the same categories and bins.
        stream: names the draws, so that two samplers of one run differ.

    Raises:
        DataError: the law is of another table.
    """

    def __init__(self, tables: Tables, law: Law, *, seed: int, stream: str = "data/sampling") -> None:
        if not np.array_equal(law.rows_KJ, tables.classes.rows_KJ):
            raise DataError("the distribution was made for another index; make it from this one's table")
        self.tables, self.row_KJ = tables, law.row_KJ
        pair_P = _pair_masses(tables, law)
        self.first_pair = np.searchsorted(tables.pairs_P["bucket"], np.arange(len(tables.buckets) + 1))
        # Not reduceat, which gives an empty bucket its neighbour's first mass.
        self.bucket_B = np.array([float(pair_P[a:b].sum()) for a, b in zip(self.first_pair[:-1], self.first_pair[1:])])
        self.bucket_B /= self.bucket_B.sum()
        self.alias_B = [
            AliasTable.build(pair_P[a:b]) if mass > 0 else None
            for a, b, mass in zip(self.first_pair[:-1], self.first_pair[1:], self.bucket_B)
        ]
        self.rng, self.stream = Rng(seed), stream
        self._edges = np.cumsum(self.bucket_B)
        self._last = int(np.flatnonzero(self.bucket_B)[-1])
        self._start = float(self.rng.at(f"{stream}/buckets", 0).generator(0).random())
        self._places = lru_cache(maxsize=2)(self._block_places)

    def bucket(self, step: int) -> int:
        """The number of the bucket all samples of a step come from."""
        block, slot = divmod(step, BLOCK_STEPS)
        place = block * BLOCK_STEPS + int(self._places(block)[slot])
        u = (self._start + place * _GOLDEN) % 1.0
        return min(int(np.searchsorted(self._edges, u, side="right")), self._last)

    def rows(self, step: int, *, start: int, stop: int) -> Ints:
        """Rows of samples ``start`` to ``stop`` of the step's global batch. Their order is that of the batch."""
        bucket = self.bucket(step)
        generator = self.rng.at(self.stream, step).generator(0)
        generator.bit_generator.advance(start)  # one block of the generator is four 64-bit numbers: one sample
        return self._draw(bucket, generator.random((stop - start, 4)))

    def redraw(self, step: int, index: int, *, attempt: int) -> int:
        """Another row of the step's bucket for a sample that could not be read, the same after every restart. ``attempt`` counts from 1."""
        draws: Draws = self.rng.at(f"{self.stream}/redraw/{attempt}", step)
        generator = draws.generator(0)
        generator.bit_generator.advance(index)
        return int(self._draw(self.bucket(step), generator.random((1, 4)))[0])

    def _draw(self, bucket: int, uniform_N4: Floats) -> Ints:
        rows = np.empty(len(uniform_N4), np.int64)
        for at in range(0, len(rows), _PORTION):
            rows[at : at + _PORTION] = self._draw_portion(bucket, uniform_N4[at : at + _PORTION])
        return rows

    def _draw_portion(self, bucket: int, u_N4: Floats) -> Ints:
        table = self.alias_B[bucket]
        if table is None:
            raise DataError(f"bucket {bucket} holds nothing that is ever drawn")
        pair_N = self.first_pair[bucket] + table.draw(u_N4[:, 0], u_N4[:, 1])
        ends_NJ = self.tables.cells.ends(pair_N)
        count_NJ = np.diff(ends_NJ, axis=1, prepend=0)
        mass_NJ = np.cumsum(count_NJ * self.row_KJ[self.tables.pairs_P["category"][pair_N]], axis=1)
        bin_N = (mass_NJ <= (u_N4[:, 2] * mass_NJ[:, -1])[:, None]).sum(1)
        n = np.arange(len(pair_N))
        count_N = count_NJ[n, bin_N]
        inside_N = ends_NJ[n, bin_N] - count_N + (u_N4[:, 3] * count_N).astype(np.int64)
        return self.tables.pairs_P["first_row"][pair_N] + inside_N

    def _block_places(self, block: int) -> NDArray[np.int64]:
        return self.rng.at(f"{self.stream}/buckets", block + 1).generator(0).permutation(BLOCK_STEPS)


def row_probabilities(tables: Tables, law: Law) -> Floats:
    """The probability of every single row, for small indexes."""
    count_PJ = np.diff(tables.cells.ends(np.arange(len(tables.cells))), axis=1, prepend=0)
    return np.repeat(law.row_KJ[tables.pairs_P["category"]].ravel(), count_PJ.ravel())


def _pair_masses(tables: Tables, law: Law) -> Floats:
    """The mass of each (bucket, category), in portions so that a billion rows' table needs no copy."""
    mass_P = np.empty(len(tables.pairs_P))
    for at in range(0, len(mass_P), _PAIRS):
        part = np.arange(at, min(at + _PAIRS, len(mass_P)))
        count_XJ = np.diff(tables.cells.ends(part), axis=1, prepend=0)
        mass_P[part] = np.einsum("xj,xj->x", count_XJ, law.row_KJ[tables.pairs_P["category"][part]])
    return mass_P
