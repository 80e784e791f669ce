r"""Hierarchical k-means: a tree of centroids whose leaves are the categories.

Level l of L has about leaves^(l/L) nodes, so that a picture is compared with L leaves^(1/L) centroids and not with all. Within a level, a node gets
children in proportion to its inertia (the sum of squared distances to its centroid): a crowd of near-equal pictures is not cut finer than what it
shows, and pictures far from everything keep nodes of their own.

Each node is k-means (Lloyd 1982) on its own rows, begun by greedy k-means++ (Arthur and Vassilvitskii 2007) on the first of them; after 128 seeds
several are drawn in one round, as in k-means|| (Bahmani et al. 2012). A cluster that runs empty moves to the row farthest from its centroid.

Everything is a function of the rows in their order, and of the seed. Distances are compared in float64 wherever float32 could not tell, so an
assignment depends neither on how rows are put into batches nor on the BLAS; seeds may differ between machines where two rows' chances differ by
rounding, which is why a taxonomy is a file that is kept.

Array names end in their axes: N rows, K centroids, D numbers of an embedding.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.rng import Rng
from ernie_data.sampling.reservoir import weighted_order

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK_CELLS = 1 << 22
_SEED_ROWS = 16  # rows per seed among which seeds are looked for
_TRIALS = 4  # rows tried for each seed, of which the one is taken that leaves the least inertia
_ONE_BY_ONE = 128  # so many seeds are drawn one by one
_FLOAT32_DOUBT = 1e-5  # relative to |x|^2 + |c|^2: what float32 products of a thousand numbers cannot tell apart


@dataclass(frozen=True)
class Tree:
    """Centroids level by level; the last level's are the leaves. The children of a node lie together.

    Attributes:
        centroids: per level ``[K, D]``, float32.
        parents: per level the number ``[K]`` of each node's parent in the level above, rising; zeros in the first.
    """

    centroids: tuple[Vectors, ...]
    parents: tuple[Ints, ...]

    @property
    def leaves(self) -> int:
        return len(self.centroids[-1])

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.centroids[0].shape[1]

    def assign(self, x_ND: Vectors) -> tuple[Ints, Floats]:
        """The leaf of each row, found by going down to the nearest child, and the distance to its centroid.

        Raises:
            DataError: embeddings of another length.
        """
        if x_ND.shape[1] != self.width:
            raise DataError(
                f"embeddings have {x_ND.shape[1]} numbers, and the taxonomy was built from {self.width}: use the embedder it was built with, or "
                "build a taxonomy of these"
            )
        node_N, squared_N = nearest(x_ND, self.centroids[0])
        for centroids_KD, parents_K in zip(self.centroids[1:], self.parents[1:]):
            child_N = np.empty_like(node_N)
            for parent in np.unique(node_N):
                rows = np.flatnonzero(node_N == parent)
                first, stop = np.searchsorted(parents_K, [parent, parent + 1])
                found, squared_N[rows] = nearest(x_ND[rows], centroids_KD[first:stop])
                child_N[rows] = first + found
            node_N = child_N
        return node_N, np.sqrt(squared_N)

    def ancestors(self, level: int) -> Ints:
        """The node of ``level`` above each leaf."""
        above = np.arange(self.leaves)
        for parents_K in reversed(self.parents[level + 1 :]):
            above = parents_K[above]
        return above


def grow_tree(x_ND: Vectors, *, leaves: int, levels: int, seed: int, iterations: int) -> Tree:
    """
    Args:
        x_ND: rows in an order that says nothing about them: seeds are looked for among the first.
        leaves: how many; fewer where rows do not differ enough.

    Raises:
        DataError: no rows.
    """
    if not len(x_ND):
        raise DataError("there is no embedding to build a taxonomy from")
    counts = [min(round(leaves ** (level / levels)), len(x_ND)) for level in range(1, levels + 1)]
    centroids: list[Vectors] = []
    parents: list[Ints] = []
    members = [np.arange(len(x_ND))]
    inertia = [1.0]
    for level, count in enumerate(counts):
        children = shares(inertia, [len(m) for m in members], max(count, len(members)))
        found: list[Vectors] = []
        parent: list[int] = []
        inner: list[Ints] = []
        spread: list[float] = []
        for node, (rows, k) in enumerate(zip(members, children)):
            part_ND = x_ND[rows]
            c_KD, label_N, squared_N = kmeans(part_ND, k, rng=Rng(seed).at(f"kmeans-{level}", node).generator(0), iterations=iterations)
            found.append(c_KD)
            parent += [node] * len(c_KD)
            inner += [rows[label_N == k] for k in range(len(c_KD))]
            spread += np.bincount(label_N, weights=squared_N, minlength=len(c_KD)).tolist()
        centroids.append(np.concatenate(found))
        parents.append(np.array(parent, np.int64))
        members, inertia = inner, spread
    return Tree(tuple(centroids), tuple(parents))


def shares(weights: Sequence[float], most: Sequence[int], total: int) -> list[int]:
    """``total`` seats by highest averages (D'Hondt): one each first, the rest in proportion to the weights, none above its ``most``.

    Seats that nobody may take, or nobody has weight for, stay empty.
    """
    seats = [1] * len(weights)
    queue = [(-weight / 2, n) for n, weight in enumerate(weights) if weight > 0 and most[n] > 1]
    heapq.heapify(queue)
    left = total - len(seats)
    while left > 0 and queue:
        _, n = heapq.heappop(queue)
        seats[n] += 1
        left -= 1
        if seats[n] < most[n]:
            heapq.heappush(queue, (-weights[n] / (seats[n] + 1), n))
    return seats


def kmeans(x_ND: Vectors, count: int, *, rng: np.random.Generator, iterations: int) -> tuple[Vectors, Ints, Floats]:
    """At most ``count`` centroids, the largest cluster first, none empty; each row's cluster and squared distance."""
    c_KD = _seeds(x_ND, count, rng)
    label_N, squared_N = nearest(x_ND, c_KD)
    for _ in range(iterations if len(c_KD) > 1 else 1):
        c_KD = _means(x_ND, label_N, squared_N, c_KD)
        before_N = label_N
        label_N, squared_N = nearest(x_ND, c_KD)
        if np.array_equal(label_N, before_N):
            break
    size_K = np.bincount(label_N, minlength=len(c_KD))
    order = np.argsort(-size_K, kind="stable")[: np.count_nonzero(size_K)]
    place_K = np.empty(len(c_KD), np.int64)
    place_K[order] = np.arange(len(order))
    return c_KD[order], place_K[label_N], squared_N


def nearest(x_ND: Vectors, c_KD: Vectors) -> tuple[Ints, Floats]:
    """The nearest centroid of each row, of equal ones the first, and the squared distance: exact to float64 whatever the BLAS.

    A float32 matrix product finds the candidates; where it leaves several, float64 decides.
    """
    label_N = np.empty(len(x_ND), np.int64)
    squared_N = np.empty(len(x_ND))
    c2_K = np.einsum("kd,kd->k", c_KD, c_KD)
    step = max(1, _CHUNK_CELLS // max(len(c_KD), x_ND.shape[1]))
    for first in range(0, len(x_ND), step):
        x_MD = x_ND[first : first + step]
        here = slice(first, first + len(x_MD))
        score_MK = x_MD @ c_KD.T
        score_MK *= -2
        score_MK += c2_K
        best_M = score_MK.argmin(1)
        doubt_M = _FLOAT32_DOUBT * (np.einsum("md,md->m", x_MD, x_MD) + c2_K.max())
        limit_M = score_MK[np.arange(len(x_MD)), best_M] + doubt_M
        near_MK = score_MK <= limit_M[:, None]
        unsure = np.flatnonzero(np.count_nonzero(near_MK, 1) > 1)
        if len(unsure):
            best_M[unsure] = _decide(x_MD, c_KD, near_MK, unsure)
        label_N[here] = best_M
        squared_N[here] = _squared(x_MD, c_KD[best_M])
    return label_N, squared_N


def _decide(x_MD: Vectors, c_KD: Vectors, near_MK: NDArray[np.bool_], unsure: Ints) -> Ints:
    """For each unsure row the nearest of its candidates, in float64."""
    row_P, k_P = np.nonzero(near_MK[unsure])
    squared_P = np.empty(len(row_P))
    step = max(1, _CHUNK_CELLS // x_MD.shape[1])
    for first in range(0, len(row_P), step):
        pairs = slice(first, first + step)
        squared_P[pairs] = _squared(x_MD[unsure[row_P[pairs]]], c_KD[k_P[pairs]])
    order = np.lexsort((k_P, squared_P, row_P))
    firsts = np.searchsorted(row_P[order], np.arange(len(unsure)))
    return k_P[order][firsts]


def _squared(x_MD: Vectors, c_MD: Vectors) -> Floats:
    """Row by row, so that a row's value does not depend on the others."""
    difference = x_MD.astype(np.float64) - c_MD
    return (difference * difference).sum(1)


def _seeds(x_ND: Vectors, count: int, rng: np.random.Generator, *, everywhere: bool = False) -> Vectors:
    """Up to ``count`` different rows, far from each other. Fewer where there are no more different ones."""
    x_MD = x_ND if everywhere else x_ND[: max(_SEED_ROWS * count, 1024)]
    chosen = [int(rng.integers(len(x_MD)))]
    far_M = _far(x_MD, chosen)[:, 0]
    while len(chosen) < count and far_M.any():
        differ = int(np.count_nonzero(far_M))
        if len(chosen) < _ONE_BY_ONE:
            tried = weighted_order(far_M, rng.random(len(x_MD)), count=min(_TRIALS, differ)).tolist()
            left_MT = np.minimum(far_M[:, None], _far(x_MD, tried))
            best = int(left_MT.sum(0, dtype=np.float64).argmin())
            chosen.append(tried[best])
            far_M = left_MT[:, best]
        else:
            several = min(count - len(chosen), len(chosen) // 8, differ)
            new = weighted_order(far_M, rng.random(len(x_MD)), count=several).tolist()
            chosen += new
            far_M = np.minimum(far_M, _far(x_MD, new).min(1))
    if len(chosen) < count and len(x_MD) < len(x_ND):
        return _seeds(x_ND, count, rng, everywhere=True)
    return x_MD[chosen].copy()


def _far(x_MD: Vectors, rows: Sequence[int]) -> Vectors:
    """Squared distances ``[M, K]`` to some of the rows; 0 for equal rows, although float32 would round."""
    c_KD = x_MD[rows]
    x2_M1 = np.einsum("md,md->m", x_MD, x_MD)[:, None]
    both_MK = x2_M1 + x2_M1[rows, 0]
    squared_MK = both_MK - 2 * (x_MD @ c_KD.T)
    squared_MK[squared_MK <= _FLOAT32_DOUBT / 8 * both_MK] = 0
    return squared_MK


def _means(x_ND: Vectors, label_N: Ints, squared_N: Floats, c_KD: Vectors) -> Vectors:
    """The mean of each cluster, summed in the order of the rows. Empty clusters move to the rows that are farthest from their centroid."""
    order = np.argsort(label_N, kind="stable")
    bounds = np.searchsorted(label_N[order], np.arange(len(c_KD) + 1))
    means_KD = c_KD.copy()
    empty = []
    for k, (first, stop) in enumerate(pairwise(bounds)):
        if first == stop:
            empty.append(k)
        else:
            means_KD[k] = x_ND[order[first:stop]].sum(0, dtype=np.float64) / (stop - first)
    farthest = np.argsort(-squared_N, kind="stable")[: len(empty)]
    for k, row in zip(empty, farthest):
        if squared_N[row] > 0:
            means_KD[k] = x_ND[row]
    return means_KD
