"""Tables of metadata on disk: Parquet, one row per record, in a fixed order. Everything that reads or writes rows goes through these functions.

A column's type is one of ``TYPES``; a stage declares its columns, so that every shard of a dataset has the same schema and any reader of Parquet can
put them together. Null means "this row has none", and such a column is absent from the row's dict. Equal rows give equal bytes with one version of
pyarrow; ``content_sha256`` is equal with every version.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ernie_core.api import DataError

ROWS = "rows.parquet"
KEY = "key"
ENGINE_COLUMNS = {"key": "string", "error": "string", "detail": "string", "stage": "string"}
"""What a stage may not name its own columns: a refused row has ``error`` (a ``ReasonCode``), ``detail`` and the ``stage`` that refused it."""
TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "strings": pa.list_(pa.string()),
    "floats": pa.list_(pa.float32()),
    "map": pa.map_(pa.string(), pa.string()),
    "json": pa.string(),
}
"""``floats`` may be given as a numpy array; ``json`` as any JSON value, which is stored as text."""
Row = dict[str, Any]
T = TypeVar("T")
Columns = Mapping[str, str]
_MARK = b"ernie.type"


def schema_of(columns: Columns) -> pa.Schema:
    """
    Raises:
        DataError: a type that does not exist.
    """
    for name, kind in columns.items():
        if kind not in TYPES:
            raise DataError(f"column `{name}`: there is no type {kind!r}; expected one of {', '.join(TYPES)}")
    return pa.schema([pa.field(name, TYPES[kind], metadata={_MARK: kind.encode()}) for name, kind in columns.items()])


def encode_rows(rows: Sequence[Mapping[str, Any]], columns: Columns) -> bytes:
    """Rows as a Parquet file, see ``table_of``."""
    sink = io.BytesIO()
    pq.write_table(table_of(rows, columns), sink, compression="zstd", row_group_size=max(1, len(rows)))
    return sink.getvalue()


def table_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> pa.Table:
    """Columns that a row lacks are null; ``columns`` must name all that it has.

    Raises:
        DataError: a column that is not declared, or a value that is not of its type, naming the row's key.
    """
    schema = schema_of(columns)
    for row in rows:
        if unknown := row.keys() - columns.keys():
            raise DataError(f"{row.get(KEY)!r}: the column `{min(unknown)}` was not declared; declared: {', '.join(columns)}")
    return pa.Table.from_arrays([_array(rows, name, kind) for name, kind in columns.items()], schema=schema)


def _array(rows: Sequence[Mapping[str, Any]], name: str, kind: str) -> pa.Array:
    values = [_stored(row.get(name), kind) for row in rows]
    try:
        array = pa.array(values, TYPES[kind])
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError, OverflowError):
        for row, value in zip(rows, values):
            try:
                pa.array([value], TYPES[kind])
            except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError, OverflowError) as error:
                raise DataError(f"{row.get(KEY)!r}: the column `{name}` must be {kind}, found {value!r:.80} ({error})") from None
        raise
    if kind == "float" and any(isinstance(value, float) and not math.isfinite(value) for value in values):
        row = next(row for row, value in zip(rows, values) if isinstance(value, float) and not math.isfinite(value))
        raise DataError(f"{row.get(KEY)!r}: the column `{name}` must be finite, found {row[name]!r}")
    return array


def _stored(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "map":
        return sorted(value.items())
    if kind == "json":
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if kind == "floats":
        return np.asarray(value, np.float32)
    return value


def content_sha256(rows: Iterable[Mapping[str, Any]]) -> str:
    """Hash of what rows say, whatever wrote them: names the work that reads them."""
    sums = hashlib.sha256()
    for row in rows:
        plain = {name: value for name, value in row.items() if value is not None}
        sums.update(json.dumps(plain, sort_keys=True, allow_nan=False, separators=(",", ":"), default=_bytes_of).encode() + b"\n")
    return sums.hexdigest()


def _bytes_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, "<f4").tobytes().hex()
    raise TypeError(f"{type(value).__name__} is no value of a column")


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """
    Raises:
        DataError: naming the file: unreadable, damaged, or without a key.
    """
    return _read(path, lambda file, names: file.read(columns=None if columns is None else [name for name in columns if name in names]))


def read_table_schema(path: Path) -> pa.Schema:
    """Columns and their types, without reading any.

    Raises:
        DataError: see ``read_table``.
    """
    return _read(path, lambda file, names: file.schema_arrow)


def _read(path: Path, use: Callable[[pq.ParquetFile, list[str]], T]) -> T:
    try:
        source = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); run `ernie data build` again") from error
    with source:
        try:
            with pq.ParquetFile(source) as file:
                names = file.schema_arrow.names
                if KEY in names:
                    return use(file, names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged ({str(error).splitlines()[0]}); remove its folder and build again") from None
    raise DataError(f"{path}: expected a column `key`, found {', '.join(names) or 'none'}")


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Rows as dicts, without what is null.

    Raises:
        DataError: see ``read_table``.
    """
    return rows_of(read_table(path, columns))


def rows_of(table: pa.Table) -> list[Row]:
    """Rows of a table that ``read_table`` gave or that has the schema of ``schema_of``, as dicts without what is null."""
    texts = [field.name for field in table.schema if (field.metadata or {}).get(_MARK) == b"json"]
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist(maps_as_pydicts="strict")]
    for row in rows:
        for name in texts:
            if name in row:
                row[name] = json.loads(row[name])
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
            if row[KEY] != other[KEY]:
                raise DataError(
                    f"{path}: row {number} has the key {other[KEY]!r}, but {first} has {row[KEY]!r} there: the two do not belong together"
                )
            row.update(other)
    return result
