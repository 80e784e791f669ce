"""Pictures whose embeddings point the same way: looked for inside clusters of k-means, as SemDeDup does (Abbas et al. 2023, arXiv 2303.09540).

A pair across the border of two clusters is missed: up to ``CLUSTER_ROWS`` records there is one cluster and nothing is missed.

N: records in order of preference, D: dimensions of an embedding, C: clusters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.rng import Rng
from ernie_data.category.kmeans import kmeans, nearest
from ernie_data.duplicates.verdicts import SEMANTIC, Verdicts

CLUSTER_ROWS = 8192
_SAMPLE_PER_CLUSTER = 64
_ROUNDS = 10
_BLOCK = 512


def refuse_semantic(verdicts: Verdicts, numbers: NDArray[np.int64], embeddings_ND: NDArray[np.float32], *, threshold: float) -> None:
    """Of the records ``numbers`` (ascending, all leaders) those whose embedding has at least this cosine with a better one's; the nearest wins.

    Embeddings are brought to length 1 in place.

    Raises:
        DataError: an embedding that is zero or not finite.
    """
    _make_unit(embeddings_ND)
    cluster_N = clusters(embeddings_ND)
    for cluster in range(int(cluster_N.max(initial=-1)) + 1):
        members = np.flatnonzero(cluster_N == cluster)
        for loser, winner, cosine in _leaders(embeddings_ND[members], threshold):
            verdicts.refuse(int(numbers[members[loser]]), int(numbers[members[winner]]), SEMANTIC, 1 - cosine)


def clusters(unit_ND: NDArray[np.float32]) -> NDArray[np.int64]:
    """The cluster of each record: k-means on a sample, then the nearest centre."""
    count = -(-len(unit_ND) // CLUSTER_ROWS)
    if count <= 1:
        return np.zeros(len(unit_ND), np.int64)
    generator = Rng(0).at("duplicates/clusters", 0).generator(0)
    chosen = np.sort(generator.choice(len(unit_ND), min(len(unit_ND), count * _SAMPLE_PER_CLUSTER), replace=False))
    centres_CD, _, _ = kmeans(unit_ND[chosen], count, rng=generator, iterations=_ROUNDS)
    parts = range(0, len(unit_ND), CLUSTER_ROWS)
    return np.concatenate([nearest(unit_ND[start : start + CLUSTER_ROWS], centres_CD)[0] for start in parts])


def _make_unit(vectors_ND: NDArray[np.float32]) -> None:
    """In place: they may lie in a file."""
    for start in range(0, len(vectors_ND), CLUSTER_ROWS):
        part = vectors_ND[start : start + CLUSTER_ROWS]
        norm = np.linalg.norm(part, axis=1, keepdims=True)
        if not (np.isfinite(norm) & (norm > 0)).all():
            raise DataError("the column `embedding` holds vectors that are zero or not finite: no angle can be taken between them")
        part /= norm


def _leaders(unit_ND: NDArray[np.float32], threshold: float) -> list[tuple[int, int, float]]:
    """(loser, winner, cosine) in order of preference: whoever does not resemble an earlier leader becomes one."""
    refused: list[tuple[int, int, float]] = []
    leaders: list[int] = []
    for start in range(0, len(unit_ND), _BLOCK):
        block = range(start, min(start + _BLOCK, len(unit_ND)))
        numbers = np.array([*leaders, *block], np.int64)
        cosines = unit_ND[start : start + _BLOCK] @ unit_ND[numbers].T
        leads = np.zeros(len(numbers), bool)
        leads[: len(leaders)] = True
        known = len(leaders)
        for place, number in enumerate(block):
            cosine = np.where(leads, cosines[place], -np.inf)
            best = int(cosine.argmax())
            if cosine[best] >= threshold:
                refused.append((number, int(numbers[best]), float(cosine[best])))
            else:
                leads[known + place] = True
                leaders.append(number)
    return refused
