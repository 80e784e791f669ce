"""Embeddings as a matrix, from the column of a table or of one record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from ernie_core.api import DataError
from ernie_data.category.kmeans import Vectors
from ernie_data.engine.view import DatasetView
from ernie_data.tables import KEY

EMBEDDING = "embedding"


def embedded(dataset: DatasetView, columns: Sequence[str] = (), *, normalise: bool) -> Iterator[tuple[pa.Table, Vectors]]:
    """For each piece the records that have an embedding, with the columns asked for, and their embeddings as a matrix.

    Raises:
        DataError: embeddings of several lengths, or with values that are not finite.
    """
    width = 0
    for table in dataset.tables([EMBEDDING, *columns]):
        kept = table.filter(pc.is_valid(table.column(EMBEDDING)))
        if not len(kept):
            continue
        x_ND = matrix(kept.column(EMBEDDING), first_key=str(kept.column(KEY)[0]))
        if width and x_ND.shape[1] != width:
            raise DataError(f"{kept.column(KEY)[0]}: an embedding of {x_ND.shape[1]} numbers, and others have {width}")
        width = x_ND.shape[1]
        yield kept.drop_columns([EMBEDDING]), scaled(x_ND, normalise=normalise)


def matrix(column: pa.ChunkedArray, *, first_key: str) -> Vectors:
    """A column without nulls as ``[N, D]``."""
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise DataError(
            f"{first_key} and those after it: embeddings have {', '.join(map(str, sorted(lengths)))} numbers; expected one length"
        )
    flat = np.asarray(pc.list_flatten(column).to_numpy(), np.float32)
    if not np.isfinite(flat).all():
        raise DataError(f"{first_key} and those after it: an embedding holds values that are not finite")
    return flat.reshape(-1, lengths[0])


def scaled(x_ND: ArrayLike, *, normalise: bool) -> Vectors:
    """Rows scaled to length 1, where asked; a row of zeros stays one. Row by row, so that batches do not show."""
    x: NDArray[np.float32] = np.ascontiguousarray(x_ND, np.float32)
    if not normalise:
        return x
    wide = x.astype(np.float64)
    length_N1 = np.sqrt((wide * wide).sum(1, keepdims=True))
    return (wide / np.where(length_N1 > 0, length_N1, 1.0)).astype(np.float32)
