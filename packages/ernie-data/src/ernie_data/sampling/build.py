"""Builds an index from a stream of rows, in three passes of a counting sort: no shuffle, and memory for counts only.

Pass 1 finds each category's size, mean, least and greatest score; pass 2 its standard deviation and the pictures of every (bucket, category, bin);
then each row's place is known, and pass 3 writes its record there. Sums are added row by row in the source's order, so that the bytes written do
not depend on how the stream is cut into chunks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.io import FolderWriter
from ernie_data.sampling.cells import WIDE, Cells
from ernie_data.sampling.hierarchy import BINS, ClassTable, Floats, Ints, bin_mean_z, class_std, score_bins
from ernie_data.sampling.index import PAIR, RECORD, Tables, write_index

_MAX_BYTES = 2**32 - 1


@dataclass(frozen=True)
class Chunk:
    """Some rows, as columns of equal length.

    Attributes:
        bucket_N, category_N: numbers into the index's lists.
        score_N: raw score, finite.
        shard_N, position_N: number of the shard, and of the row in the shard's tables.
        offset_N, size_N: where the picture's bytes lie in the shard.
        sha256_N32: of these bytes, uint8 [N, 32].
    """

    bucket_N: Ints
    category_N: Ints
    score_N: Floats
    shard_N: Ints
    position_N: Ints
    offset_N: Ints
    size_N: Ints
    sha256_N32: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.bucket_N)


Chunks = Callable[[], Iterable[Chunk]]


def build_index(
    path: str | os.PathLike[str],
    chunks: Chunks,
    *,
    buckets: Sequence[tuple[int, int]],
    categories: Sequence[str],
    shards: Sequence[str],
    bins: int = BINS,
    describe: Callable[[FolderWriter], object] = lambda writer: None,
) -> None:
    """Write the index of all rows.

    Args:
        chunks: called three times; must give the same rows in the same order each time.
        describe: see ``write_index``.

    Raises:
        DataError: a value out of its range, no rows, or a source that changed between the passes.
        StorageError: see ``write_index``.
    """
    statistics = _Statistics(len(categories))
    sizes = (len(buckets), len(categories), len(shards))
    for chunk in chunks():
        _check(chunk, sizes, first=statistics.count)
        statistics.add(chunk)
    if not statistics.count:
        raise DataError(f"{path}: there are no rows to index")
    counts = _Counts(statistics, len(buckets), bins)
    for chunk in chunks():
        counts.add(chunk)
    if int(counts.count_C.sum()) != statistics.count:
        raise DataError(f"{path}: the source gave {statistics.count} rows when read first and {int(counts.count_C.sum())} when read again")
    tables = Tables(tuple(buckets), tuple(categories), tuple(shards), counts.class_table(), *counts.pairs())
    needed = statistics.count * RECORD.itemsize + tables.cells.nbytes + 16 * tables.classes.z_KJ.size
    write_index(path, tables, lambda file: _place(file, chunks, counts), needed_bytes=needed, describe=describe)


class _Statistics:
    """Pass 1, per category."""

    def __init__(self, classes: int) -> None:
        self.count = 0
        self.rows_K = np.zeros(classes, np.int64)
        self.sum_K = np.zeros(classes)
        self.low_K, self.high_K = np.full(classes, np.inf), np.full(classes, -np.inf)

    def add(self, chunk: Chunk) -> None:
        self.count += len(chunk)
        np.add.at(self.rows_K, chunk.category_N, 1)
        np.add.at(self.sum_K, chunk.category_N, chunk.score_N)
        np.minimum.at(self.low_K, chunk.category_N, chunk.score_N)
        np.maximum.at(self.high_K, chunk.category_N, chunk.score_N)

    @property
    def mean_K(self) -> Floats:
        return self.sum_K / np.maximum(self.rows_K, 1)


class _Counts:
    """Pass 2: pictures of each cell; C = buckets x categories x bins, in this order."""

    def __init__(self, statistics: _Statistics, buckets: int, bins: int) -> None:
        self.statistics, self.bins, self.classes = statistics, bins, len(statistics.rows_K)
        self.mean_K = statistics.mean_K
        self.squares_K = np.zeros(self.classes)
        self.deviation_KJ = np.zeros((self.classes, bins))
        self.count_C = np.zeros(buckets * self.classes * bins, np.int64)

    def of(self, chunk: Chunk) -> tuple[Ints, Ints]:
        """Each row's bin and cell."""
        c, s = chunk.category_N, self.statistics
        if bool(((chunk.score_N < s.low_K[c]) | (chunk.score_N > s.high_K[c])).any()):
            raise DataError("the source gave other scores when it was read again")
        bin_N = score_bins(chunk.score_N, s.low_K[c], s.high_K[c], self.bins)
        return bin_N, (chunk.bucket_N * self.classes + c) * self.bins + bin_N

    def add(self, chunk: Chunk) -> None:
        bin_N, cell_N = self.of(chunk)
        deviation_N = chunk.score_N - self.mean_K[chunk.category_N]
        np.add.at(self.squares_K, chunk.category_N, deviation_N**2)
        np.add.at(self.deviation_KJ, (chunk.category_N, bin_N), deviation_N)
        np.add.at(self.count_C, cell_N, 1)

    def class_table(self) -> ClassTable:
        rows_KJ = self.count_C.reshape(-1, self.classes, self.bins).sum(0)
        s = self.statistics
        std_K = class_std(self.squares_K, s.rows_K, s.low_K, s.high_K)
        return ClassTable(rows_KJ, bin_mean_z(rows_KJ, self.deviation_KJ, std_K), self.mean_K, std_K)

    def pairs(self) -> tuple[NDArray[Any], Cells]:
        """``pairs_P`` and ``cells`` of the pairs that have pictures."""
        count_QJ = self.count_C.reshape(-1, self.bins)
        size_Q = count_QJ.sum(1)
        if int(size_Q.max()) > WIDE:
            raise DataError(f"a category has {int(size_Q.max())} pictures in one bucket; at most {WIDE} fit, so split the category")
        q = np.flatnonzero(size_Q)
        pairs_P = np.zeros(len(q), PAIR)
        pairs_P["bucket"], pairs_P["category"] = q // self.classes, q % self.classes
        pairs_P["first_row"] = np.cumsum(size_Q[q]) - size_Q[q]
        return pairs_P, Cells.pack(np.cumsum(count_QJ[q], axis=1))


def _place(path: Path, chunks: Chunks, counts: _Counts) -> None:
    """Pass 3: every record to its row."""
    total = int(counts.count_C.sum())
    next_C = np.cumsum(counts.count_C) - counts.count_C
    stop_C = next_C + counts.count_C
    records = np.memmap(path, RECORD, mode="w+", shape=(total,))  # durable: commit_folder syncs it
    placed = 0
    for chunk in chunks():
        cell_N = counts.of(chunk)[1]
        order = np.argsort(cell_N, kind="stable")  # rows of one cell lie together and keep the source's order
        found, first, count = np.unique(cell_N[order], return_index=True, return_counts=True)
        if bool((next_C[found] + count > stop_C[found]).any()):
            raise DataError("the source gave other rows when it was read again")
        row_N = np.repeat(next_C[found] - first, count) + np.arange(len(order))
        next_C[found] += count
        part = np.zeros(len(order), RECORD)
        for name in ("shard", "position", "offset", "size"):
            part[name] = getattr(chunk, f"{name}_N")[order]
        part["sha256"] = np.ascontiguousarray(chunk.sha256_N32[order]).view("V32")[:, 0]
        records[row_N] = part
        placed += len(order)
    if placed != total:
        raise DataError(f"the source gave {total} rows when it was read first and {placed} when read again")
    records.flush()


def _check(chunk: Chunk, sizes: tuple[int, int, int], *, first: int) -> None:
    """``first``: number of the chunk's first row in the source, for messages."""
    buckets, categories, shards = sizes
    lengths = {name: len(column) for name, column in vars(chunk).items()}
    if len(set(lengths.values())) > 1 or chunk.sha256_N32.shape != (len(chunk), 32):
        raise DataError(f"columns of one chunk differ in length: {lengths}, sha256 is {chunk.sha256_N32.shape}")
    limits = (
        ("bucket", chunk.bucket_N, 0, buckets - 1),
        ("category", chunk.category_N, 0, categories - 1),
        ("shard", chunk.shard_N, 0, shards - 1),
        ("position", chunk.position_N, 0, 2**32 - 1),
        ("offset", chunk.offset_N, 0, 2**63 - 1),
        ("size", chunk.size_N, 1, _MAX_BYTES),
    )
    for name, column, low, high in limits:
        wrong = np.flatnonzero((column < low) | (column > high))
        if len(wrong):
            raise DataError(f"row {first + wrong[0]}: {name} is {column[wrong[0]]}, expected {low} to {high}")
    wrong = np.flatnonzero(~np.isfinite(chunk.score_N))
    if len(wrong):
        raise DataError(
            f"row {first + wrong[0]}: score is {chunk.score_N[wrong[0]]}; every row needs a finite score, so score it or leave it out"
        )
