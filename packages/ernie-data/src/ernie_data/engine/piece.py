"""The row-aligned tables of one piece side by side, as one Arrow table of the columns that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ernie_core.api import DataError
from ernie_data.tables import KEY, read_table

Which = Literal["accepted", "rejected", "all"]
_ERROR = "error"


def piece_table(paths: Sequence[Path], schema: pa.Schema, which: Which = "all") -> pa.Table:
    """Columns of ``schema`` from the tables of one piece's stages. A column that no table has is null; where several have it, each row has the last
    value that is not null, as the stages saw it.

    Args:
        paths: of the tables, in the order of the chain; at least one.
        which: rows that no stage refused, those that one did, or all.

    Raises:
        DataError: tables that are damaged or do not belong together, naming both files.
    """
    names = list(dict.fromkeys([KEY, _ERROR, *schema.names]))
    found: dict[str, pa.Array] = {}
    keys = read_table(paths[0], [KEY]).column(KEY).combine_chunks()
    for path in paths:
        table = read_table(path, names)
        column = table.column(KEY).combine_chunks()
        if not column.equals(keys):
            raise DataError(f"{path}: its keys are not those of {paths[0]}: the two do not belong together")
        for name in table.column_names:
            values = table.column(name).combine_chunks()
            if name in schema.names and values.type != schema.field(name).type:
                continue  # another stage gave the column another type, and the last one counts
            found[name] = values if name not in found else _later_or_earlier(values, found[name])
    rejected = pc.is_valid(found[_ERROR]) if _ERROR in found else pa.array(np.zeros(len(keys), bool))
    arrays = [found[field.name] if field.name in found else pa.nulls(len(keys), field.type) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    if which == "all":
        return table
    return table.filter(rejected if which == "rejected" else pc.invert(rejected))


def _later_or_earlier(later: pa.Array, earlier: pa.Array) -> pa.Array:
    """``coalesce``, which Arrow does not offer for maps and lists."""
    if later.null_count == 0:
        return later
    if later.null_count == len(later):
        return earlier
    rows = np.arange(len(later))
    there = np.asarray(pc.is_valid(later))
    return pa.concat_arrays([later, earlier]).take(pa.array(np.where(there, rows, rows + len(later))))
