"""The whole dataset as a survey sees it: columns of the records that are still in, piece by piece. Memory holds one piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ernie_core.api import DataError
from ernie_data.shards import INDEX, ShardReader
from ernie_data.tables import KEY, ROWS, read_table


class DatasetView:
    """
    Args:
        pieces: for each piece the committed folders of the stages so far, in the order of the chain.
    """

    def __init__(self, pieces: Sequence[Sequence[str]]) -> None:
        self.pieces = [[Path(folder) for folder in folders] for folders in pieces]

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """For each piece ``key`` and the columns of its accepted records, in order. A column that no stage gave is null; where several gave it, the
        last one counts. Asking for no columns gives the keys.

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
    last = read_table(folders[-1] / ROWS, [KEY, "error"])
    keys = last.column(KEY)
    found = {KEY: keys}
    for folder in folders:
        table = read_table(folder / ROWS, [KEY, *columns])
        if not table.column(KEY).equals(keys):
            raise DataError(f"{folder / ROWS}: its keys are not those of {folders[-1] / ROWS}: the two do not belong together")
        found.update({name: table.column(name) for name in table.column_names if name != KEY})
    found.update({name: pa.nulls(len(keys)) for name in columns if name not in found})
    kept = pc.is_null(last.column("error"))
    return pa.table({name: found[name] for name in (KEY, *columns)}).filter(kept)
