"""Tables that are made piece by piece, in a form that DuckDB scans like a dataset of Parquet files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ernie_core.api import DataError

Read = Callable[[Sequence[str]], Iterator[pa.Table]]


class StreamedDataset(ds.Dataset):
    """Only the columns that a query uses are read, and one piece at a time is in memory. It may be scanned any number of times.

    DuckDB asks a dataset for ``schema`` and for ``scanner(columns=..., filter=...)``, of which it uses ``to_reader()``; both are answered here.

    Args:
        schema: of all columns.
        read: gives tables with the columns it is asked for, in this order.

    Attributes:
        failure: the error that ended a scan, which DuckDB passes on only in its own words.
    """

    def __init__(self, schema: pa.Schema, read: Read) -> None:
        self._columns = schema
        self._read = read
        self.failure: DataError | None = None

    @property
    def schema(self) -> pa.Schema:
        return self._columns

    def scanner(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None, **_: Any) -> _Scan:
        """What DuckDB calls for each scan; other options (batch sizes and the like) do not change the result."""
        return _Scan(self, list(self._columns.names if columns is None else columns), filter)

    def scan(self, columns: Sequence[str], condition: pc.Expression | None) -> Iterator[pa.RecordBatch]:
        # A condition may use columns that the query does not return. Expressions do not tell theirs; a name in its text that is none costs a read only.
        words = (
            set()
            if condition is None
            else {name for name in self._columns.names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(condition))}
        )
        read = [*columns, *sorted(words - set(columns))]
        try:
            for table in self._read(read):
                yield from (table if condition is None else table.filter(condition)).select(columns).to_batches()
        except DataError as error:
            self.failure = error
            raise


class _Scan:
    def __init__(self, dataset: StreamedDataset, columns: list[str], condition: pc.Expression | None) -> None:
        self.dataset = dataset
        self.columns = columns
        self.condition = condition

    def to_reader(self) -> pa.RecordBatchReader:
        schema = pa.schema([self.dataset.schema.field(name) for name in self.columns])
        return pa.RecordBatchReader.from_batches(schema, self.dataset.scan(self.columns, self.condition))
