"""SQL over all columns of a build, in a database that reaches nothing else.

Views: ``items`` (accepted records with the columns of all stages), ``rejected`` (the others, with ``stage``, ``error`` and ``detail``), ``stages``,
``units``, and one per stage with that stage's own table. Nothing is copied: a query reads the columns it uses, piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from ernie_core.api import ConfigError, DataError, Problem
from ernie_data.engine.piece import piece_table
from ernie_data.reading.arrow import StreamedDataset
from ernie_data.reading.dataset import Dataset
from ernie_data.sql import locked_connection, sql_message
from ernie_data.tables import ENGINE_COLUMNS, KEY, ROWS, schema_of

BATCH_ROWS = 1024
_NO_ITEM = ("error", "detail", "stage")  # null in every accepted record


def views(dataset: Dataset) -> dict[str, pa.Table | StreamedDataset]:
    """What a query sees, by name. A stage whose name is taken appears as ``stage_<name>``."""
    item_columns = {name: kind for name, kind in dataset.columns.items() if name not in _NO_ITEM}
    refused = {KEY: "string", "stage": "string", "error": "string", "detail": "string", **dataset.columns}
    made: dict[str, pa.Table | StreamedDataset] = {
        "items": StreamedDataset(schema_of(item_columns), lambda names: dataset.tables(names)),
        "rejected": StreamedDataset(schema_of(refused), lambda names: dataset.tables(names, which="rejected")),
        "stages": _stages(dataset),
        "units": _units(dataset),
    }
    for stage in dataset.stages:
        name = f"stage_{stage.name}" if stage.name.lower() in made else stage.name
        made[name] = _stage_table(dataset, stage.name, schema_of({**ENGINE_COLUMNS, **stage.columns}))
    return made


@contextmanager
def query(dataset: Dataset, sql: str, *, memory_mib: int = 2048, threads: int = 2) -> Iterator[pa.RecordBatchReader]:
    """Run one SELECT (or FROM, WITH, VALUES, DESCRIBE, SUMMARIZE) and stream its result.

    Raises:
        ConfigError: not one such statement, or one that DuckDB refuses or cannot finish; with DuckDB's message and the known columns.
        DataError: a table that is read is damaged.
    """
    tables = views(dataset)
    with locked_connection(tables, memory_mib=memory_mib, threads=threads) as connection:
        try:
            statements = connection.extract_statements(sql)
            kinds = [statement.type.name for statement in statements]
            if kinds != ["SELECT"]:
                found = f"{len(kinds)} statements" if len(kinds) != 1 else f"a statement of the kind {kinds[0]}"
                raise ConfigError(
                    [Problem("SQL", f"expected one SELECT, found {found}. A query only reads; it cannot write or change settings.")]
                )
            relation = connection.sql(statements[0])
            yield relation.to_arrow_reader(BATCH_ROWS) if hasattr(relation, "to_arrow_reader") else relation.fetch_arrow_reader(BATCH_ROWS)
        except BrokenPipeError:
            raise  # the reader of our output has gone: nothing is wrong with the query
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise _failure(error, tables) from None


def _failure(error: Exception, tables: Mapping[str, pa.Table | StreamedDataset]) -> Exception:
    damaged = next((t.failure for t in tables.values() if isinstance(t, StreamedDataset) and t.failure is not None), None)
    if damaged is not None:
        return DataError(str(damaged))
    message = sql_message(error) if isinstance(error, duckdb.Error) else str(error).split("\n")[0]
    known = "\n".join(f"  {_quoted(name)}: {', '.join(map(_quoted, table.schema.names))}" for name, table in tables.items())
    return ConfigError([Problem("SQL", f"{message}\nviews and their columns:\n{known}")])


def _quoted(name: str) -> str:
    return name if name.replace("_", "a").isalnum() and not name[0].isdigit() else '"' + name.replace('"', '""') + '"'


def _stage_table(dataset: Dataset, stage: str, schema: pa.Schema) -> StreamedDataset:
    def read(names: list[str]) -> Iterator[pa.Table]:
        part = pa.schema([schema.field(name) for name in names])
        for unit in dataset.units(stage):
            yield piece_table([unit.folder / ROWS], part)

    return StreamedDataset(schema, read)


def _stages(dataset: Dataset) -> pa.Table:
    rows = []
    for number, stage in enumerate(dataset.stages):
        entered, accepted, rejected = dataset.counts(stage.name)
        units = sum(1 for _ in dataset.units(stage.name))
        rows.append({"number": number, "stage": stage.name, "code": stage.code, "units": units, "entered": entered, "accepted": accepted})
        rows[-1] |= {"rejected": sum(rejected.values()), "reasons": list(rejected.items())}
    kinds = [("number", pa.int64()), ("stage", pa.string()), ("code", pa.string()), ("units", pa.int64()), ("entered", pa.int64())]
    kinds += [("accepted", pa.int64()), ("rejected", pa.int64()), ("reasons", pa.map_(pa.string(), pa.int64()))]
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def _units(dataset: Dataset) -> pa.Table:
    rows = [
        {
            "stage": u.stage,
            "unit": u.name,
            "piece": piece,
            "entered": u.receipt.entered,
            "accepted": u.receipt.accepted,
            "bytes": u.size_bytes,
        }
        for piece, units in enumerate(dataset.pieces)
        for u in units
    ]
    numbers = [(name, pa.int64()) for name in ("piece", "entered", "accepted", "bytes")]
    return pa.Table.from_pylist(rows, schema=pa.schema([("stage", pa.string()), ("unit", pa.string()), *numbers]))
