"""Which prompts a step sees: a pure function of (seed, step), stratified by domain.

Of a batch of B, domain d with the part [low_d, high_d) of the line [0, B) gets the places k with low_d <= k + u < high_d, so B p_d rounded up or down.
u moves through [0, 1) by the golden ratio from step to step: which domains are rounded up rotates, and after any number of steps each has had its
share to a few prompts. Inside a domain, the prompts of epoch e come in the order of a permutation keyed by (seed, domain, e).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ernie_core.rng import Rng

Ints = NDArray[np.int64]
_BLOCK_STEPS = 1 << 12
_GOLDEN = 0.6180339887498949
_STREAM = "distill/prompts"


class PromptOrder:
    """The order for batches of one size.

    Args:
        rows: row numbers of each domain, none empty.
        shares: of each domain, above 0, in any unit.
        batch: number of prompts a step.
    """

    def __init__(self, rows: Mapping[str, Sequence[int]], shares: Mapping[str, float], *, batch: int, seed: int) -> None:
        self.domains = tuple(sorted(rows))
        self.batch_size, self._rng = batch, Rng(seed)
        self._rows = [np.asarray(rows[domain], np.int64) for domain in self.domains]
        share_D = np.array([shares[domain] for domain in self.domains], np.float64)
        self._edges = np.concatenate([[0.0], np.cumsum(share_D) / share_D.sum()]) * batch
        self._edges[-1] = batch
        self._start = float(self._rng.at(f"{_STREAM}/offset", 0).generator(0).random())
        self._drawn = [np.zeros(len(self.domains), np.int64)]  # of each domain before each block; a cache of a pure function
        self._lock = threading.Lock()
        self._permutation = lru_cache(maxsize=2 * len(self.domains) + 2)(self._epoch)

    def counts(self, step: int) -> Ints:
        """Prompts of each domain [D] in a step's batch; their sum is the batch size, each within one of its share."""
        return self._counts(np.array([step]))[0]

    def batch(self, step: int) -> Ints:
        """Rows [B] of a step, in an order that mixes the domains, so that every part of a batch is alike. Short domains go through several epochs."""
        block, within = divmod(step, _BLOCK_STEPS)
        counts_SD = self._counts(block * _BLOCK_STEPS + np.arange(within + 1))
        drawn_D = self._before(block) + counts_SD[:-1].sum(0)
        picked = []
        for domain, (rows, first, count) in enumerate(zip(self._rows, drawn_D, counts_SD[-1], strict=True)):
            epochs, places = np.divmod(first + np.arange(count), len(rows))
            picked += [rows[self._permutation(domain, int(epoch))[places[epochs == epoch]]] for epoch in np.unique(epochs)]
        mixed = self._rng.at(f"{_STREAM}/places", step).generator(0).permutation(self.batch_size)
        return np.concatenate(picked)[mixed]

    def _counts(self, steps: Ints) -> Ints:
        u_S1 = np.mod(self._start + steps * _GOLDEN, 1.0)[:, None]
        return np.diff(np.ceil(self._edges - u_S1).astype(np.int64), axis=1)

    def _before(self, block: int) -> Ints:
        with self._lock:
            while len(self._drawn) <= block:
                last = (len(self._drawn) - 1) * _BLOCK_STEPS
                self._drawn.append(self._drawn[-1] + self._counts(last + np.arange(_BLOCK_STEPS)).sum(0))
            return self._drawn[block]

    def _epoch(self, domain: int, epoch: int) -> Ints:
        return self._rng.at(f"{_STREAM}/{self.domains[domain]}", epoch).generator(0).permutation(len(self._rows[domain]))
