"""A finished build as the source of another one: pictures are read by position out of its shards, captions and chosen columns are carried over.

Neither pictures nor columns are held here. A place says where both stand and what their hashes are, so that memory is a few hundred bytes per
record, and a build that changes its origin is told from one that does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from ernie_core.api import ConfigError, DataError, Problem
from ernie_data.engine.piece import piece_table
from ernie_data.reading.dataset import Dataset, open_dataset
from ernie_data.reading.query import query
from ernie_data.recipe import BuildInput, Input
from ernie_data.shards import INDEX, SHARD
from ernie_data.sources.place import Carried, Place
from ernie_data.tables import ENGINE_COLUMNS, KEY, ROWS, Row, content_sha256, read_rows, rows_of, schema_of

OWN = frozenset((*ENGINE_COLUMNS, "sha256", "bytes", "captions", "caption_error"))
"""What every build finds out by itself, or, as captions, takes over from any source."""
REMADE = ("decode", "size")
"""Stages whose columns are not carried unless they are named: the new build makes them again."""


def list_build(source: BuildInput) -> Iterator[Place]:
    """The accepted records of a build for which ``where`` holds, under ``<name>/<their key there>``.

    Raises:
        DataError: no build, or an unfinished or damaged one.
        ConfigError: ``where`` is no condition over the build's columns, or a column does not exist.
    """
    dataset = _finished(source)
    columns = carried_from(source, dataset)
    wanted = keys_where(dataset, source) if source.where else None
    schema = schema_of({KEY: "string", "error": "string", "captions": "map", "caption_error": "string", **columns})
    for number, units in enumerate(dataset.pieces):
        storing = dataset.storing(number)
        if storing is None:
            raise DataError(f"{source.path}: the build stores no pictures (no `decode` stage); nothing can be taken from it")
        index = {row["key"]: row for row in read_rows(storing.folder / INDEX)}
        tables = [str(unit.folder / ROWS) for unit in units]
        for place, row in enumerate(rows_of(piece_table([Path(table) for table in tables], schema))):
            if "error" in row or (wanted is not None and row[KEY] not in wanted):
                continue
            values = {name: row[name] for name in columns if name in row}
            stored = index[row[KEY]]
            yield Place(
                f"{source.name}/{row[KEY]}",
                str(storing.folder / SHARD),
                stored["offset"],
                stored["size"],
                captions=row.get("captions", {}),
                caption_error=row.get("caption_error", ""),
                sha256=stored["sha256"],
                carried=Carried(tables, place, columns, content_sha256([values])) if columns else None,
            )


def carried_columns(sources: Sequence[Input]) -> dict[str, str]:
    """Name -> type of every column that the sources bring along.

    Raises:
        DataError, ConfigError: see ``list_build``; or two builds give a column different types.
    """
    merged: dict[str, str] = {}
    for source in sources:
        if isinstance(source, BuildInput):
            for name, kind in carried_from(source, _finished(source)).items():
                if merged.setdefault(name, kind) != kind:
                    raise ConfigError(
                        f"source `{source.name}`: its column `{name}` is {kind}, that of an earlier source {merged[name]}; "
                        "list the `columns` to carry without it"
                    )
    return merged


def carried_from(source: BuildInput, dataset: Dataset) -> dict[str, str]:
    """Name -> type of the columns that one build brings along.

    Raises:
        ConfigError: a column that does not exist, or that the new build makes itself.
    """
    there = {name: kind for name, kind in dataset.columns.items() if name not in OWN}
    if source.columns is None:
        remade = {name for stage in dataset.stages if stage.name in REMADE for name in stage.columns}
        return {name: kind for name, kind in there.items() if name not in remade}
    problems = [
        Problem(f"source `{source.name}`", f"`columns`: {source.path} has no column `{name}` to carry; there are: {', '.join(there)}")
        for name in source.columns
        if name not in there
    ]
    if problems:
        raise ConfigError(problems)
    return {name: there[name] for name in source.columns}


def carried_values(carried: Carried) -> Row:
    """The columns of one record.

    Raises:
        DataError: the origin's tables are damaged, or other than they were when the build began.
    """
    row = _piece(tuple(carried.tables), tuple(carried.columns.items()))[carried.row]
    values = {name: row[name] for name in carried.columns if name in row}
    if content_sha256([values]) != carried.sha256:
        raise DataError(
            f"{carried.tables[-1]}: row {carried.row} is not what it was when this build began; the origin was built anew, run the same command again"
        )
    return values


@lru_cache(maxsize=2)
def _piece(tables: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> list[Row]:
    return rows_of(piece_table([Path(table) for table in tables], schema_of({KEY: "string", **dict(columns)})))


def _finished(source: BuildInput) -> Dataset:
    dataset = open_dataset(source.path)
    if not dataset.finished:
        raise DataError(f"{source.path}: the build is not finished (source `{source.name}`); run `ernie data build` on it first")
    return dataset


def keys_where(dataset: Dataset, source: BuildInput) -> set[str]:
    """Keys of the accepted records for which the source's condition holds.

    Raises:
        ConfigError: it is no condition over the build's columns.
    """
    try:
        with query(dataset, f"SELECT key FROM items WHERE (\n{source.where}\n)") as batches:
            return {key for batch in batches for key in batch.column(0).to_pylist()}
    except ConfigError as error:
        raise ConfigError([Problem(f"source `{source.name}`: `where`", problem.message) for problem in error.problems]) from None
