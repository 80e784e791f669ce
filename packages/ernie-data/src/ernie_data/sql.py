"""SQL from a user's config or command line, in a DuckDB that can reach nothing but the tables it was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

_LOCKED = {
    "enable_external_access": "false",  # no files, no ATTACH, COPY, INSTALL; Python variables are no tables
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "allow_persistent_secrets": "false",
    "temp_directory": "",  # nothing is spilled: a query that needs more memory than it may have fails
    "preserve_insertion_order": "true",
}


def locked_connection(tables: Mapping[str, pa.Table | ds.Dataset], *, memory_mib: int = 512, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """An in-memory database with ``tables`` as views. A ``pyarrow.dataset.Dataset`` of Parquet files is read as queries need it, column by column.

    Neither files nor network nor extensions can be reached, and no setting can be changed any more. Queries may still create tables, in memory.
    Close it after use: it is a context manager.
    """
    connection = duckdb.connect(":memory:", config={**_LOCKED, "memory_limit": f"{memory_mib}MiB", "threads": str(threads)})
    for name, table in tables.items():
        connection.register(name, table)
    connection.execute("SET lock_configuration = true")
    return connection


def sql_message(error: duckdb.Error) -> str:
    """What DuckDB says, in one line without its sketch of the query."""
    lines = [line.strip() for line in str(error).split("\nLINE ")[0].splitlines()]
    return " ".join(line for line in lines if line)
