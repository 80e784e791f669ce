"""Tables of metadata on disk: one row per record, in a fixed order. Everything that reads or writes rows goes through these functions.

The format is JSON lines with sorted keys: equal rows give equal bytes, on every machine. Light.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ernie_core.api import DataError

ROWS = "rows.jsonl"
Row = dict[str, Any]


def encode_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Equal rows give equal bytes. Non-finite numbers are refused: they are not JSON."""
    return "".join(
        json.dumps(row, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n" for row in rows
    ).encode()


def read_rows(path: Path) -> list[Row]:
    """
    Raises:
        DataError: naming file and line.
    """
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); run `ernie data build` again") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not valid JSON ({error}); the file is damaged, remove its folder and build again") from None
        if not isinstance(row, dict) or not isinstance(row.get("key"), str):
            raise DataError(f"{path}:{number}: expected an object with a `key`; the file is damaged, remove its folder and build again")
        rows.append(row)
    return rows


def joined(tables: Iterable[tuple[Path, list[Row]]]) -> list[Row]:
    """Row-aligned tables side by side: row i of the result holds the columns of row i of each.

    Raises:
        DataError: another number of rows or another key, naming both files.
    """
    result: list[Row] = []
    first: Path | None = None
    for path, rows in tables:
        if first is None:
            first, result = path, [dict(row) for row in rows]
            continue
        if len(rows) != len(result):
            raise DataError(f"{path}: {len(rows)} rows, but {first} has {len(result)}: the two do not belong together")
        for number, (row, other) in enumerate(zip(result, rows), start=1):
            if row["key"] != other["key"]:
                raise DataError(
                    f"{path}:{number}: key {other['key']!r}, but {first} has {row['key']!r} there: the two do not belong together"
                )
            row.update(other)
    return result
