"""The survey of the stage `duplicates`: one look at the whole dataset, and two tables of what was found.

    losers.parquet  key, winner, kind ("exact", "near", "semantic") and distance, of every refused record, by key
    groups.parquet  key and size of every kept record that others were refused in favour of, by key

Memory: about 150 bytes a record and its key (15 GB for 10^8), and the pairs of similar hashes. Small pictures and embeddings are wanted of the records
that have candidates only, and lie in a scratch file, not in memory.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.io import FolderWriter
from ernie_data.duplicates.fingerprint import THUMB_BYTES
from ernie_data.duplicates.neighbours import near_pairs
from ernie_data.duplicates.semantic import refuse_semantic
from ernie_data.duplicates.verdicts import KEPT, KINDS, Candidates, Verdicts, refuse_exact, refuse_near
from ernie_data.engine.view import DatasetView
from ernie_data.tables import KEY, schema_of

LOSERS, GROUPS, SUMMARY = "losers.parquet", "groups.parquet", "summary.json"
LOSER_COLUMNS = {"key": "string", "winner": "string", "kind": "string", "distance": "float"}
GROUP_COLUMNS = {"key": "string", "size": "int"}
_SIZES = ("width", "height", "source_width", "source_height")
_ROW_GROUP = 1 << 14


class Survey:
    """
    Args:
        keep: columns of numbers, larger is better; "area" stands for width times height.
        hamming, distance, embedding_threshold: see ``DuplicatesConfig``.
    """

    def __init__(self, *, keep: Sequence[str], hamming: int, distance: float, embedding_threshold: float | None) -> None:
        self.keep = tuple(keep)
        self.hamming = hamming
        self.distance = distance
        self.embedding_threshold = embedding_threshold

    def write(self, dataset: DatasetView, out: FolderWriter) -> None:
        records = _Records(dataset, self.keep)
        verdicts = Verdicts.of(len(records.keys))
        refuse_exact(verdicts, records.sums_N2)
        compared = self._near(dataset, records, verdicts, out.folder)
        if self.embedding_threshold is not None:
            leaders = verdicts.leaders
            embeddings = records.fetch(dataset, "embedding", leaders, out.folder)
            refuse_semantic(verdicts, leaders, embeddings, threshold=self.embedding_threshold)
        verdicts.follow()
        losers, groups = _tables(records.keys, verdicts)
        out.add_file(LOSERS, lambda path: pq.write_table(losers, path, compression="zstd", row_group_size=_ROW_GROUP))
        out.add_file(GROUPS, lambda path: pq.write_table(groups, path, compression="zstd", row_group_size=_ROW_GROUP))
        counts = {kind: int((verdicts.kind_N == number).sum()) for number, kind in enumerate(KINDS) if kind}
        out.add_json(SUMMARY, {"records": len(records.keys), "groups": len(groups), "compared": compared, **counts})

    def _near(self, dataset: DatasetView, records: _Records, verdicts: Verdicts, scratch: Path) -> int:
        leaders = verdicts.leaders
        if self.distance == 0 or len(leaders) == 0:
            return 0
        hashes_U, number_L, count_U = np.unique(records.hashes_N[leaders], return_inverse=True, return_counts=True)
        found = [np.zeros((0, 2), np.int64), *near_pairs(hashes_U, self.hamming)]
        pairs_P2 = np.concatenate(found)
        busy_U = count_U > 1
        busy_U[pairs_P2.reshape(-1)] = True
        looked_at = leaders[busy_U[number_L]]
        hash_N = np.full(len(records.keys), -1)
        hash_N[leaders] = number_L
        thumbs = records.fetch(dataset, "thumb", looked_at, scratch)
        candidates = Candidates(hash_N, pairs_P2, hashes=len(hashes_U))
        return refuse_near(verdicts, candidates, looked_at, thumbs, records.sizes_N2[looked_at], within=self.distance)


class _Records:
    """Columns of all records in order of preference, and reading more of some."""

    def __init__(self, dataset: DatasetView, keep: Sequence[str]) -> None:
        columns = list(dict.fromkeys(("pixel_sha256", "phash", *_SIZES, *(name for name in keep if name != "area"))))
        keys, sums, hashes, sizes, wanted = [], [], [], [], []
        for table in dataset.tables(columns):
            keys.append(table.column(KEY).cast(pa.large_string()))
            sums.append(_hexadecimal(table.column("pixel_sha256"), 64)[:, :2])
            hashes.append(_hexadecimal(table.column("phash"), 16)[:, 0])
            sizes.append(_upright(*(table.column(name).to_numpy() for name in _SIZES)))
            area = pc.multiply(table.column("width"), table.column("height"))
            wanted.append({name: (area if name == "area" else table.column(name)).cast(pa.float64()) for name in keep})
        if not keys:
            raise DataError("no record has come to the stage `duplicates`")
        all_keys = pa.chunked_array([chunk for key in keys for chunk in key.chunks], pa.large_string())
        ranked = {name: pa.chunked_array([c for part in wanted for c in part[name].chunks], pa.float64()) for name in keep}
        order = [*((name, "descending") for name in keep), (KEY, "ascending")]
        self.order_N = pc.sort_indices(pa.table({**ranked, KEY: all_keys}), sort_keys=order).to_numpy()
        self.keys = all_keys.take(pa.array(self.order_N)).combine_chunks()
        self.sums_N2 = np.concatenate(sums)[self.order_N]
        self.hashes_N = np.concatenate(hashes)[self.order_N]
        self.sizes_N2 = np.concatenate(sizes)[self.order_N]

    def fetch(self, dataset: DatasetView, column: str, numbers: NDArray[np.int64], scratch: Path) -> NDArray:
        """A column's values of the records ``numbers``, one row each: bytes of small pictures, or embeddings."""
        place_N = np.full(len(self.keys), -1)  # by position in the dataset
        place_N[self.order_N[numbers]] = np.arange(len(numbers))
        found: NDArray | None = None
        start = 0
        for table in dataset.tables([column]):
            places = place_N[start : start + len(table)]
            start += len(table)
            chosen = np.flatnonzero(places >= 0)
            if len(chosen):
                values = _decoded(table.column(column).take(pa.array(chosen)), column, table.column(KEY))
                if found is None:
                    found = _scratch(scratch, (len(numbers), values.shape[1]), values.dtype)
                if values.shape[1] != found.shape[1]:
                    raise DataError(f"the column `{column}` has rows of {found.shape[1]} and of {values.shape[1]} values")
                found[places[chosen]] = values
        return found if found is not None else np.zeros((0, 1), np.uint8)


def _hexadecimal(column: pa.ChunkedArray, digits: int) -> NDArray[np.uint64]:
    """[rows, digits / 16] big-endian words."""
    text = "".join(column.to_pylist())
    if len(text) != digits * len(column):
        raise DataError(f"expected {digits} hexadecimal digits in every row of `pixel_sha256` and `phash`")
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64).reshape(len(column), digits // 16)


def _upright(width: NDArray, height: NDArray, source_width: NDArray, source_height: NDArray) -> NDArray[np.int64]:
    """The source's (width, height), turned as the stored picture is: what a crop can be told by, also where pictures were reduced to one area."""
    turned = (width > height) & (source_width < source_height) | (width < height) & (source_width > source_height)
    return np.where(turned[:, None], np.stack([source_height, source_width], -1), np.stack([source_width, source_height], -1)).astype(
        np.int64
    )


def _decoded(values: pa.ChunkedArray, column: str, keys: pa.ChunkedArray) -> NDArray:
    if values.null_count:
        raise DataError(f"a record of the piece that begins with {keys[0].as_py()!r} has no `{column}`")
    if column == "embedding":
        rows = values.to_pylist()
        if len({len(row) for row in rows}) != 1:
            raise DataError("the column `embedding` has rows of different lengths")
        return np.array(rows, np.float32)
    return np.frombuffer(b"".join(map(base64.b64decode, values.to_pylist())), np.uint8).reshape(-1, THUMB_BYTES)


def _scratch(folder: Path, shape: tuple[int, int], dtype: np.dtype) -> NDArray:
    """An array in a file without a name, which is gone with this process."""
    with tempfile.TemporaryFile(dir=folder) as file:  # durable: scratch, never read by another process
        return np.memmap(file, dtype, "w+", shape=shape)


def _tables(keys: pa.Array, verdicts: Verdicts) -> tuple[pa.Table, pa.Table]:
    lost = np.flatnonzero(verdicts.kind_N != KEPT)
    winners, sizes = np.unique(verdicts.winner_N[lost], return_counts=True)
    losers = {
        "key": keys.take(pa.array(lost)),
        "winner": keys.take(pa.array(verdicts.winner_N[lost])),
        "kind": pa.array(KINDS).take(pa.array(verdicts.kind_N[lost])),
        "distance": pa.array(verdicts.distance_N[lost].astype(np.float64).round(6)),
    }
    groups = {"key": keys.take(pa.array(winners)), "size": pa.array(sizes + 1)}
    return (
        pa.table(losers).cast(schema_of(LOSER_COLUMNS)).sort_by(KEY),
        pa.table(groups).cast(schema_of(GROUP_COLUMNS)).sort_by(KEY),
    )


def rows_between(path: Path, first: str, last: str) -> Iterator[dict]:
    """Rows of a table sorted by key, from one key to another: only what holds them is read."""
    yield from pq.read_table(path, filters=[(KEY, ">=", first), (KEY, "<=", last)]).to_pylist()
