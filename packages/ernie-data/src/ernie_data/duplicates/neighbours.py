"""All pairs of 64-bit hashes within a Hamming distance, without comparing all pairs.

Bits are cut into ``distance + k`` blocks. Two hashes that differ in at most ``distance`` bits differ in at most so many blocks, so at least k blocks are
equal: sorting by every choice of k blocks brings every such pair side by side in at least one of the sorts, and none is missed. (Manku, Jain and
Das Sarma 2007, "Detecting near-duplicates for web crawling", section 3; each sort replaces one of their tables.) Larger k means more sorts with fewer
candidates in each; the cheapest is chosen. Memory: four arrays of 8 bytes per hash, 3.2 GB for 10^8 hashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

BITS = 64
_SORT_NS, _COMPARE_NS = 60.0, 12.0  # per hash and sort, per candidate: measured on one core, only their ratio matters
_CHUNK = 1 << 22


def near_pairs(hashes_U: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.int64]]:
    """Positions [pairs, 2] of all pairs with 1 to ``distance`` different bits; each pair once, in several arrays.

    Args:
        hashes_U: ascending, each once.
    """
    if distance < 1 or len(hashes_U) < 2:
        return
    blocks, equal = plan_blocks(len(hashes_U), distance)
    ends = np.linspace(0, BITS, blocks + 1).round().astype(int).tolist()
    spans = list(pairwise(ends))
    masks = np.array([((1 << (b - a)) - 1) << a for a, b in spans], np.uint64)
    for chosen in combinations(range(blocks), equal):
        order = [spans[block] for block in (*chosen, *(block for block in range(blocks) if block not in chosen))]
        moved_U = _moved(hashes_U, order)
        moved_U.sort()
        free = np.uint64(BITS - sum(b - a for a, b in order[:equal]))
        for one, other in _within(moved_U, moved_U >> free, distance):
            one, other = _moved_back(one, order), _moved_back(other, order)
            mine = _first_equal(one ^ other, masks, equal) == _code(chosen)  # the pair stands side by side in other sorts too
            found = np.stack([np.searchsorted(hashes_U, one[mine]), np.searchsorted(hashes_U, other[mine])], axis=-1)
            if len(found):
                yield np.sort(found, axis=1)


def plan_blocks(count: int, distance: int) -> tuple[int, int]:
    """Number of blocks, and how many of them are equal in each sort."""

    def cost(equal: int) -> float:
        blocks = distance + equal
        candidates = count**2 / 2 / 2.0 ** (BITS * equal // blocks)
        return math.comb(blocks, equal) * (count * _SORT_NS + candidates * _COMPARE_NS)

    equal = min(range(1, 1 + min(8, BITS // 2 - distance)), key=cost)
    return distance + equal, equal


def _moved(hashes_U: NDArray[np.uint64], order: Sequence[tuple[int, int]]) -> NDArray[np.uint64]:
    """The same bits with the given spans [from, to) from the top downwards."""
    moved, top = np.zeros_like(hashes_U), BITS
    for low, high in order:
        top -= high - low
        moved |= ((hashes_U >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)) << np.uint64(top)
    return moved


def _moved_back(moved_P: NDArray[np.uint64], order: Sequence[tuple[int, int]]) -> NDArray[np.uint64]:
    hashes, top = np.zeros_like(moved_P), BITS
    for low, high in order:
        top -= high - low
        hashes |= ((moved_P >> np.uint64(top)) & np.uint64((1 << (high - low)) - 1)) << np.uint64(low)
    return hashes


def _within(
    sorted_U: NDArray[np.uint64], keys_U: NDArray[np.uint64], distance: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
    """Pairs with equal keys within the distance: every hash with the next, with the next but one, and so on while keys are equal."""
    for start in range(0, len(sorted_U), _CHUNK):
        live = np.arange(start, min(start + _CHUNK, len(sorted_U) - 1))
        offset = 1
        while len(live := live[: np.searchsorted(live, len(sorted_U) - offset)]):
            live = live[keys_U[live] == keys_U[live + offset]]
            near = live[np.bitwise_count(sorted_U[live] ^ sorted_U[live + offset]) <= distance]
            if len(near):
                yield sorted_U[near], sorted_U[near + offset]
            offset += 1


def _first_equal(different_P: NDArray[np.uint64], masks: NDArray[np.uint64], equal: int) -> NDArray[np.int64]:
    """The first blocks that are equal, as many as a sort has, as a set of bits."""
    found, code = np.zeros(len(different_P), np.int64), np.zeros(len(different_P), np.int64)
    for block, mask in enumerate(masks):
        same = ((different_P & mask) == 0) & (found < equal)
        code |= same.astype(np.int64) << block
        found += same
    return code


def _code(chosen: Sequence[int]) -> int:
    return sum(1 << block for block in chosen)
