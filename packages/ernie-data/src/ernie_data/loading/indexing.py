"""The last step of a build: from the records that passed all stages to what training draws from, as work units like any other.

``OUT/rows/<unit>/`` holds the records' texts (``loading.rows``), ``OUT/index/<unit>/`` one sampling index per training size. Units are named by the
records' content, by where pictures lie, and by the options that shape them; a kill leaves nothing behind, and doing it again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ernie_core import io
from ernie_core.api import ConfigError, DataError
from ernie_data.buckets import bucket_sizes
from ernie_data.engine.store import Receipt, Store
from ernie_data.engine.unit import WorkUnit, digest
from ernie_data.engine.view import accepted
from ernie_data.loading.aspects import nearest_buckets
from ernie_data.loading.rows import RowFacts, read_about, write_rows
from ernie_data.recipe import IndexOptions
from ernie_data.sampling.build import Chunk, build_index
from ernie_data.shards import INDEX, SHARD
from ernie_data.tables import KEY, read_table

INDEX_STAGE, ROWS_STAGE = "index", "rows"
CODE = "1"
_NUMBERS = ("float", "int")


def check_columns(options: IndexOptions, stages: Sequence[Mapping[str, str]]) -> None:
    """Before any work.

    Raises:
        ConfigError: a column that no stage gives, or of a type that does not fit.
    """
    known = {name: kind for columns in stages for name, kind in columns.items()}
    wanted = [
        ("category", options.category, ("string",)),
        ("score", options.score, _NUMBERS),
        *(("scores", s, _NUMBERS) for s in options.scores),
    ]
    for key, column, kinds in wanted:
        if column and column not in known:
            more = f' or leave it out with index.{key} = ""' if key != "scores" else ""
            raise ConfigError(
                f"index.{key}: no stage gives a column `{column}`; add the stage that does,{more}. Columns: {', '.join(sorted(known))}"
            )
        if column and known[column] not in kinds:
            raise ConfigError(f"index.{key}: the column `{column}` is {known[column]}, expected {' or '.join(kinds)}")
    if missing := [name for name in ("width", "height", "captions") if name not in known]:
        raise ConfigError(f"index: no stage gives the columns {', '.join(missing)}; the first stage must be `decode`")


@dataclass(frozen=True)
class Piece:
    """The committed folders of one piece, in the order of the chain, and of them the one that holds its pictures."""

    folders: tuple[Path, ...]
    pictures: Path

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the accepted records, with ``offset``, ``size`` and ``sha256`` of their pictures.

        Raises:
            DataError: damaged tables, or a record without a picture.
        """
        table = accepted(self.folders, columns)
        pictures = read_table(self.pictures / INDEX, [KEY, "offset", "size", "sha256"])
        at = pc.index_in(table.column(KEY), value_set=pictures.column(KEY))
        if at.null_count:
            key = table.column(KEY).filter(pc.is_null(at))[0].as_py()
            raise DataError(f"{self.pictures}: holds no picture of {key!r}; run `ernie data build --verify` again")
        for name in ("offset", "size", "sha256"):
            table = table.append_column(f"picture_{name}", pictures.column(name).take(at))
        return table


def write_indexes(
    store: Store, pieces: Sequence[Sequence[WorkUnit]], contents: Sequence[str], options: IndexOptions
) -> tuple[list[WorkUnit], dict[str, Any]]:
    """Make what is not there yet; returns all units and what ``dataset.json`` says of them.

    Args:
        pieces: for each piece its units, in the order of the chain.
        contents: hash of what each piece's units hold.

    Raises:
        DataError: no record is left, or one without a category, score or caption that the options ask for.
        StorageError: the folders cannot be written.
    """
    placed = [_piece(store, units) for units in pieces]
    content = digest([list(contents), [[f"{unit.stage}/{unit.name}" for unit in units] for units in pieces]])
    what = {name: getattr(options, name) for name in ("category", "score")}
    rows = WorkUnit(ROWS_STAGE, content, digest({**what, "scores": options.scores, "allow_empty": options.allow_empty}), CODE)
    if store.find(rows) is None:
        with io.commit_folder(store.folder(ROWS_STAGE, rows.name)) as folder:
            write_rows(folder, (_facts(piece, options) for piece in placed))
            _sign(folder, rows)
        store.record(rows, _receipt(store, rows))
    about = read_about(store.folder(ROWS_STAGE, rows.name))
    if not about.rows:
        raise DataError(f"{store.out}: no record passed all stages, so there is nothing to index")
    units = {}
    for size_px in options.size_px:
        facts = {**what, "size_px": size_px, **{name: getattr(options, name) for name in ("bins", "multiple_px", "max_aspect")}}
        unit = units[size_px] = WorkUnit(INDEX_STAGE, content, digest(facts), CODE)
        if store.find(unit) is None:
            _write_index(store, unit, placed, sorted(about.categories), options, size_px)
            store.record(unit, _receipt(store, unit))
    named = {"rows": rows.name, "sizes": {str(size_px): unit.name for size_px, unit in units.items()}}
    return [rows, *units.values()], {**named, "options": msgspec.to_builtins(options)}


def _piece(store: Store, units: Sequence[WorkUnit]) -> Piece:
    folders = tuple(store.folder(unit.stage, unit.name) for unit in units)
    pictures = next((folder for folder in reversed(folders) if (folder / INDEX).exists()), None)
    if pictures is None:
        raise DataError(f"{folders[0]}: no stage has stored pictures")
    return Piece(folders, pictures)


def _facts(piece: Piece, options: IndexOptions) -> Iterator[RowFacts]:
    columns = ["captions", *filter(None, (options.category,))]
    numbers = list(dict.fromkeys(filter(None, (options.score, *options.scores))))
    for row in piece.table([*columns, *numbers]).to_pylist(maps_as_pydicts="strict"):
        captions = row["captions"] or {}
        if not any(captions.values()):
            if not options.allow_empty:
                raise DataError(
                    f"{row[KEY]!r} has no caption. Caption it, refuse such records by a selection, or set index.allow_empty = true, which trains the "
                    "unconditional model on them."
                )
            captions = captions or {"text": ""}
        scores = {name: float(row[name]) for name in numbers if row[name] is not None}
        category = _category(row[KEY], row[options.category], options.category) if options.category else ""
        yield RowFacts(row[KEY], row["picture_sha256"], captions, category, scores)


def _category(key: str, name: str | None, column: str) -> str:
    if name is None or name != name.strip() or len(name.splitlines()) != 1:
        raise DataError(f"{key!r}: the column `{column}` must be one line of text without blanks at its ends, found {name!r:.80}")
    return name


def _write_index(
    store: Store, unit: WorkUnit, pieces: Sequence[Piece], categories: Sequence[str], options: IndexOptions, size_px: int
) -> None:
    sizes = bucket_sizes(size_px, multiple_px=options.multiple_px, max_aspect=options.max_aspect)
    names = pa.array(categories, pa.string())
    columns = ["width", "height", *filter(None, (options.category, options.score))]

    def chunks() -> Iterator[Chunk]:
        for number, piece in enumerate(pieces):
            table = piece.table(columns)
            if len(table):
                yield _chunk(table, number, sizes, names, options)

    build_index(
        store.folder(INDEX_STAGE, unit.name),
        chunks,
        buckets=sizes,
        categories=[name or "all" for name in categories],
        shards=[(piece.pictures / SHARD).relative_to(store.out).as_posix() for piece in pieces],
        bins=options.bins,
        describe=lambda folder: _sign(folder, unit),
    )


def _chunk(table: pa.Table, shard: int, sizes: Sequence[tuple[int, int]], categories: pa.Array, options: IndexOptions) -> Chunk:
    count = len(table)
    zeros = np.zeros(count, np.int64)
    category = zeros
    if options.category:
        category = pc.index_in(table.column(options.category), value_set=categories).to_numpy().astype(np.int64)
    score = np.zeros(count)
    if options.score:
        column = table.column(options.score)
        if column.null_count:
            key = table.column(KEY).filter(pc.is_null(column))[0].as_py()
            raise DataError(f'{key!r} has no `{options.score}`. Score it, refuse such records by a selection, or set index.score = "".')
        score = column.to_numpy().astype(np.float64)
    return Chunk(
        bucket_N=nearest_buckets(table.column("width").to_numpy(), table.column("height").to_numpy(), sizes),
        category_N=category,
        score_N=score,
        shard_N=np.full(count, shard),
        position_N=np.arange(count),
        offset_N=table.column("picture_offset").to_numpy(),
        size_N=table.column("picture_size").to_numpy(),
        sha256_N32=np.frombuffer(bytes.fromhex("".join(table.column("picture_sha256").to_pylist())), np.uint8).reshape(count, 32),
    )


def _sign(folder: io.FolderWriter, unit: WorkUnit) -> None:
    """The receipt in the folder's manifest, by which a committed folder without a line is adopted."""
    content = digest({name: fact["sha256"] for name, fact in folder.files.items()})
    folder.facts["receipt"] = {"unit": unit.name, "content": content, "entered": 0, "accepted": 0, "rejected": {}}


def _receipt(store: Store, unit: WorkUnit) -> Receipt:
    manifest = io.read_manifest(store.folder(unit.stage, unit.name))
    return msgspec.convert({**manifest["receipt"], "files": manifest["files"]}, Receipt)
