"""The index on disk: from (bucket, category, score bin) to a row, and from a row to its bytes.

A folder, written once and whole (``ernie_core.io.commit_folder``, so ``manifest.json`` has the sha256 of every file). Numbers are little-endian.

| file | holds |
|---|---|
| ``index.json`` | format, version, counts, bucket sizes |
| ``categories.txt``, ``shards.txt`` | one name per line |
| ``classes.bin`` | per category: mean and standard deviation of the raw score (``f8``) |
| ``bins.bin`` | per category and bin: pictures (``i8``), mean normalised score (``f8``) |
| ``pairs.bin`` | per (bucket, category) that has pictures, sorted: bucket, category (``u4``), first row (``i8``) |
| ``narrow.bin``, ``wide.bin`` | per such pair of up to 65,535 pictures, and of more: the pictures up to and with each bin (``u2``, ``u4``) |
| ``records.bin`` | per row: shard, row in the shard's tables (``u4``), offset (``u8``), size in bytes (``u4``), sha256 (32 bytes) |

Rows are sorted by (bucket, category, bin), and within a cell by their order in the source, so a row's number is arithmetic on these counts.
Only they grow with the number of buckets and categories (mostly 128 bytes for each pair, with 64 bins), and they are mapped, so processes on one
machine share them. Records are read by position and never mapped: a billion of them take 52 GB on disk and nothing in memory.

A flipped bit in a table is found when the index is opened. One in a record is found when the picture is read: its bytes then have another sha256.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.io import MANIFEST, FolderWriter, commit_folder, read_manifest, sha256_file, verify_folder
from ernie_data.sampling.cells import Cells
from ernie_data.sampling.hierarchy import ClassTable, Ints

FORMAT, VERSION = "ernie-sampling-index", 1
RECORD = np.dtype([("shard", "<u4"), ("position", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("sha256", "V32")])
PAIR = np.dtype([("bucket", "<u4"), ("category", "<u4"), ("first_row", "<i8")])
TABLES = ("index.json", "categories.txt", "shards.txt", "classes.bin", "bins.bin", "pairs.bin", "narrow.bin", "wide.bin")
_COUNTS = ("rows", "bins", "categories", "pairs", "wide", "shards")


@dataclass(frozen=True)
class Tables:
    """All of an index but its records. K categories, J bins, P pairs.

    Attributes:
        buckets: (width, height) in pixels.
        pairs_P: of ``PAIR``, sorted by bucket and category.
        cells: running counts of pictures within each pair; no pair is empty.
    """

    buckets: tuple[tuple[int, int], ...]
    categories: tuple[str, ...]
    shards: tuple[str, ...]
    classes: ClassTable
    pairs_P: NDArray[Any]
    cells: Cells

    @property
    def rows(self) -> int:
        return int(self.pairs_P["first_row"][-1]) + int(self.cells.ends([len(self.cells) - 1])[0, -1])


def write_index(
    path: str | os.PathLike[str],
    tables: Tables,
    write_records: Callable[[Path], object],
    *,
    needed_bytes: int,
    describe: Callable[[FolderWriter], object] = lambda writer: None,
) -> None:
    """Write an index folder, whole or not at all.

    Args:
        write_records: creates a file of ``tables.rows`` records at the path it is given.
        needed_bytes: what the folder will take on disk; twice that must be free.
        describe: adds facts to the folder's manifest, when all files are there.

    Raises:
        StorageError: it exists already, or cannot be written.
        DataError: a name that does not fit on a line.
    """
    for name in (*tables.categories, *tables.shards):
        if name != name.strip() or not name or len(name.splitlines()) != 1:
            raise DataError(f"{name[:80]!r}: names of categories and shards are one line of text without blanks at its ends")
    rows_KJ, z_KJ = tables.classes.rows_KJ, tables.classes.z_KJ
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "rows": tables.rows,
        "bins": rows_KJ.shape[1],
        "categories": len(tables.categories),
        "pairs": len(tables.pairs_P),
        "wide": len(tables.cells.wide_YJ),
        "shards": len(tables.shards),
        "buckets": [list(size) for size in tables.buckets],
    }
    small = {
        "categories.txt": _lines(tables.categories),
        "shards.txt": _lines(tables.shards),
        "classes.bin": np.stack([tables.classes.mean_K, tables.classes.std_K], 1).astype("<f8").tobytes(),
        "bins.bin": rows_KJ.astype("<i8").tobytes() + z_KJ.astype("<f8").tobytes(),
        "pairs.bin": tables.pairs_P.astype(PAIR).tobytes(),
    }
    with commit_folder(path, needed_bytes=needed_bytes) as writer:
        writer.add_json("index.json", facts)
        for name, data in small.items():
            writer.add_bytes(name, data)
        writer.add_file("narrow.bin", lambda file: np.ascontiguousarray(tables.cells.narrow_XJ, "<u2").tofile(file))
        writer.add_file("wide.bin", lambda file: np.ascontiguousarray(tables.cells.wide_YJ, "<u4").tofile(file))
        writer.add_file("records.bin", write_records)
        describe(writer)


class Index:
    """An opened index; ``tables`` and access to records. Cheap to open again in every worker: mapped pages are shared.

    Args:
        verify: ``tables`` checks the sha256 of everything but the records, whose size is checked; ``all`` also reads every record.

    Raises:
        DataError: not an index, another version, or damaged; names the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, verify: Literal["tables", "all"] = "tables") -> None:
        self.path = Path(path)
        try:
            facts = _checked(self.path, verify)
            self.tables = _read_tables(self.path, facts)
            self._records = os.open(self.path / "records.bin", os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{error.filename or self.path}: cannot be read: {error.strerror}") from None
        self.rows = self.tables.rows

    def records(self, rows_N: Ints) -> NDArray[Any]:
        """The records of some rows, in their order, as an array of ``RECORD``.

        Raises:
            DataError: a row that does not exist, or whose record is empty.
        """
        rows = np.asarray(rows_N, np.int64)
        outside = rows[(rows < 0) | (rows >= self.rows)]
        if len(outside):
            raise DataError(f"{self.path}: row {outside[0]} does not exist; rows are 0 to {self.rows - 1}")
        size, file, pread = RECORD.itemsize, self._records, os.pread
        found = np.frombuffer(b"".join([pread(file, size, at) for at in (rows * size).tolist()]), RECORD)
        if len(found) != len(rows) or not found["size"].all():
            row = rows[len(found)] if len(found) != len(rows) else rows[np.flatnonzero(found["size"] == 0)[0]]
            raise DataError(f"{self.path / 'records.bin'}: row {row} has no record; build the index again")
        return found

    def close(self) -> None:
        if self._records >= 0:
            os.close(self._records)
            self._records = -1

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(folder: Path, verify: str) -> dict[str, Any]:
    """The facts in ``index.json``, after sums and sizes were checked."""
    again = "Build the index again."
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: not a sampling index (it has no {MANIFEST})")
    if verify == "all" and (problem := verify_folder(folder)):
        raise DataError(f"{problem}. {again}")
    try:
        files = {name: (int(fact["bytes"]), str(fact["sha256"])) for name, fact in read_manifest(folder)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / MANIFEST}: damaged ({error.__class__.__name__}: {error}). {again}") from None
    for name in (*TABLES, "records.bin"):
        file = folder / name
        if name not in files or not file.is_file():
            raise DataError(f"{file}: missing. {again if 'index.json' in files else 'This is not a sampling index.'}")
        size, digest = files[name]
        if file.stat().st_size != size:
            raise DataError(f"{file}: {file.stat().st_size} bytes, the manifest says {size}. {again}")
        if name in TABLES and (found := sha256_file(file)) != digest:
            raise DataError(f"{file}: sha256 differs from the manifest (expected {digest[:12]}..., found {found[:12]}...). {again}")
    facts = json.loads((folder / "index.json").read_bytes())
    if (facts.get("format"), facts.get("version")) != (FORMAT, VERSION):
        raise DataError(
            f"{folder / 'index.json'}: format {facts.get('format')!r} version {facts.get('version')!r}; this program reads {FORMAT!r} "
            f"version {VERSION}. Build the index again, or use the program that wrote it."
        )
    return facts


def _read_tables(folder: Path, facts: dict[str, Any]) -> Tables:
    rows, bins, classes, pairs, wide, shards = (int(facts[name]) for name in _COUNTS)
    expected = {
        "classes.bin": classes * 16,
        "bins.bin": classes * bins * 16,
        "pairs.bin": pairs * PAIR.itemsize,
        "narrow.bin": (pairs - wide) * bins * 2,
        "wide.bin": wide * bins * 4,
        "records.bin": rows * RECORD.itemsize,
    }
    for name, size in expected.items():
        if (found := (folder / name).stat().st_size) != size:
            raise DataError(f"{folder / name}: {found} bytes, index.json makes it {size}. Build the index again.")
    mean_std_K2 = np.fromfile(folder / "classes.bin", "<f8").reshape(classes, 2)
    rows_z = (folder / "bins.bin").read_bytes()
    half = len(rows_z) // 2
    table = ClassTable(
        np.frombuffer(rows_z[:half], "<i8").reshape(classes, bins),
        np.frombuffer(rows_z[half:], "<f8").reshape(classes, bins),
        mean_std_K2[:, 0].copy(),
        mean_std_K2[:, 1].copy(),
    )
    pairs_P = np.fromfile(folder / "pairs.bin", PAIR)
    return Tables(
        buckets=tuple((int(width), int(height)) for width, height in facts["buckets"]),
        categories=_names(folder / "categories.txt", classes),
        shards=_names(folder / "shards.txt", shards),
        classes=table,
        pairs_P=pairs_P,
        cells=Cells.of(
            _mapped(folder / "narrow.bin", "<u2", pairs - wide, bins),
            _mapped(folder / "wide.bin", "<u4", wide, bins),
            np.diff(pairs_P["first_row"], append=rows),
        ),
    )


def _mapped(path: Path, dtype: str, rows: int, columns: int) -> NDArray[Any]:
    """A read-only map of a file; an empty file cannot be mapped."""
    return np.memmap(path, dtype, mode="r", shape=(rows, columns)) if rows else np.empty((0, columns), dtype)


def _lines(names: Sequence[str]) -> bytes:
    return "".join(name + "\n" for name in names).encode()


def _names(path: Path, count: int) -> tuple[str, ...]:
    names = tuple(path.read_text(encoding="utf-8").splitlines())
    if len(names) != count:
        raise DataError(f"{path}: {len(names)} names, index.json says {count}. Build the index again.")
    return names
