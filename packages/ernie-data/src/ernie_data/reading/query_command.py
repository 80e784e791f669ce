"""``ernie data query``: a table for people, or CSV or JSON lines for programs, which are written row by row."""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from ernie_data.reading.dataset import open_dataset
from ernie_data.reading.query import query

if TYPE_CHECKING:
    from ernie_core.api import App

_TABLE_ROWS = 40
_CELL_CHARACTERS = 60
_LINES_AT_ONCE = 256


def run(arguments: argparse.Namespace, app: App) -> int:
    """Exit code 0, or 2 with DuckDB's message.

    Raises:
        ConfigError, DataError: see ``ernie_data.reading.query.query``.
    """
    dataset = open_dataset(arguments.folder)
    for_programs = arguments.json or arguments.csv
    limit = arguments.limit if arguments.limit is not None or for_programs else _TABLE_ROWS
    with query(dataset, arguments.sql, memory_mib=max(arguments.memory, 64)) as reader:
        names = distinct(reader.schema.names)
        rows = _rows(reader)
        shown = rows if limit is None else islice(rows, limit)
        if arguments.json:
            _print((as_json(dict(zip(names, row))) for row in shown), app)
        elif arguments.csv:
            _print(chain([_csv_line(names)], (_csv_line([_text(value) for value in row]) for row in shown)), app)
        else:
            held = [[_cell(value) for value in row] for row in shown]
            for line in _table(names, held):
                app.out(line)
            more = limit is not None and next(rows, None) is not None
            app.out(f"({len(held)} rows{'; there are more: --limit N, --csv or --json' if more else ''})")
    return 0


def _print(lines: Iterator[str], app: App) -> None:
    """Some lines at a time: each write to a pipe costs more than a line."""
    while some := list(islice(lines, _LINES_AT_ONCE)):
        app.out("\n".join(some))


def distinct(names: Sequence[str]) -> list[str]:
    """Column names with ``_2``, ``_3`` ... after those that occurred before."""
    seen: Counter[str] = Counter()
    result: list[str] = []
    for name in names:
        seen[name] += 1
        fresh = name if seen[name] == 1 else f"{name}_{seen[name]}"
        while fresh in result:
            seen[name] += 1
            fresh = f"{name}_{seen[name]}"
        result.append(fresh)
    return result


def as_json(value: Any) -> str:
    """A value as JSON: maps are objects, NaN and infinities null, bytes base64, times ISO 8601, other kinds text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def _rows(reader: pa.RecordBatchReader) -> Iterator[list[Any]]:
    for batch in reader:
        yield from map(list, zip(*map(_values, batch.columns)))


def _values(column: pa.Array) -> list[Any]:
    """``to_pylist``, which takes a microsecond for each number of an embedding."""
    if (
        not (pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type))
        or column.null_count
        or column.flatten().null_count
    ):
        return column.to_pylist(maps_as_pydicts="lossy")
    numbers, ends = column.flatten().to_numpy().tolist(), np.cumsum(np.diff(column.offsets.to_numpy())).tolist()
    return [numbers[start:end] for start, end in zip([0, *ends], ends)]


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value).strip('"')


def _cell(value: Any) -> str:
    """One line without control characters: captions and file names are not trusted to a terminal."""
    text = "".join(c if c.isprintable() else " " for c in _text(value)) if value is not None else "-"
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 3] + "..."


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(names, *rows)]
    for line in (names, ["-" * width for width in widths], *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
