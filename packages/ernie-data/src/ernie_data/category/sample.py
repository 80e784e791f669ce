"""A bounded sample of a stream: the rows whose keys hash lowest. Which rows these are depends on keys alone, not on order or pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_data.category.kmeans import Ints, Vectors

Ranks = NDArray[np.uint64]


def ranks(keys: Iterable[str], seed: int) -> Ranks:
    """A uniform number of 64 bits for each key: a function of key and seed, as the draws of ``ernie_core.rng`` are of seed and counter."""
    prefix = f"{seed}\0".encode()
    digests = b"".join(hashlib.blake2b(prefix + key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


class Reservoir:
    """Keeps the ``capacity`` rows of lowest rank, each with a number of the caller's. Memory: these rows, and as much again in ``take``."""

    def __init__(self, capacity: int, width: int) -> None:
        self.count = 0
        self._x_ND = np.empty((capacity, width), np.float32)  # pages are taken as rows come in
        self._rank_N = np.empty(capacity, np.uint64)
        self._tag_N = np.empty(capacity, np.int64)

    def add(self, rank_M: Ranks, x_MD: Vectors, tag_M: Sequence[int] | Ints | None = None) -> None:
        tags = np.zeros(len(rank_M), np.int64) if tag_M is None else np.asarray(tag_M, np.int64)
        capacity, n = len(self._rank_N), self.count
        if n + len(rank_M) <= capacity:
            slots, chosen = np.arange(n, n + len(rank_M)), np.arange(len(rank_M))
        else:
            both = np.concatenate([self._rank_N[:n], rank_M])
            kept = np.argsort(both, kind="stable")[:capacity]
            chosen = np.sort(kept[kept >= n]) - n
            stays = np.zeros(n, bool)
            stays[kept[kept < n]] = True
            slots = np.concatenate([np.flatnonzero(~stays), np.arange(n, capacity)])
        self._x_ND[slots], self._rank_N[slots], self._tag_N[slots] = x_MD[chosen], rank_M[chosen], tags[chosen]
        self.count = min(capacity, n + len(rank_M))

    @property
    def last(self) -> int:
        """The highest rank that is in the sample; -1 if nothing is."""
        return int(self._rank_N[: self.count].max()) if self.count else -1

    def take(self) -> tuple[Ranks, Vectors, Ints]:
        """Ranks, rows and numbers, by rank: a random order that says nothing about the rows."""
        order = np.argsort(self._rank_N[: self.count], kind="stable")
        return self._rank_N[order], self._x_ND[order], self._tag_N[order]
