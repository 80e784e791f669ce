"""The whole dataset as a survey sees it: columns of the records that are still in, piece by piece. Memory holds one piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ernie_core.api import DataError
from ernie_data.engine.piece import piece_table
from ernie_data.shards import INDEX, ShardReader
from ernie_data.tables import KEY, ROWS, read_table_schema


class DatasetView:
    """
    Args:
        pieces: for each piece the committed folders of the stages so far, in the order of the chain.
    """

    def __init__(self, pieces: Sequence[Sequence[str]]) -> None:
        self.pieces = [[Path(folder) for folder in folders] for folders in pieces]

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """For each piece ``key`` and the columns of its accepted records, in order. A column that no stage gave is null; where several gave it, the
        last value that is not null counts. Asking for no columns gives the keys.

        Raises:
            DataError: tables that are damaged or do not belong together.
        """
        for folders in self.pieces:
            yield accepted(folders, columns)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Key and stored bytes of every accepted record, verified."""
        for folders in self.pieces:
            stored = next((folder for folder in reversed(folders) if (folder / INDEX).exists()), None)
            if stored is None:
                raise DataError(f"{folders[0].parent.parent}: no stage has stored pictures yet; put the survey after `decode`")
            with ShardReader(stored) as reader:
                for key in accepted(folders, ()).column(KEY).to_pylist():
                    yield key, reader.read(key)


def accepted(folders: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """``key`` and columns of the records of one piece that no stage refused."""
    paths = [folder / ROWS for folder in folders]
    types = {field.name: field.type for path in paths for field in read_table_schema(path)}
    schema = pa.schema([pa.field(name, types.get(name, pa.null())) for name in (KEY, *columns)])
    return piece_table(paths, schema, "accepted")
