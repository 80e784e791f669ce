"""A build's output as one dataset: its stages, its units in the order of the chain, and its rows with the columns of all stages side by side.

An unfinished build is read too: what its manifest says is done. Units are named by what went into them, so a piece's units are found by following
the hashes from stage to stage, as the driver does. Nothing is written, no lock is taken, and memory holds one piece at a time.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ernie_core.api import DataError
from ernie_data.engine.build import DATASET, PLAN
from ernie_data.engine.piece import Which, piece_table
from ernie_data.engine.store import Line, Receipt, Store
from ernie_data.engine.unit import WorkUnit, chained, digest
from ernie_data.shards import INDEX, ShardReader
from ernie_data.tables import ENGINE_COLUMNS, KEY, ROWS, Row, read_table, rows_of, schema_of


@dataclass(frozen=True)
class StageFacts:
    """A stage of the chain. ``columns``: name -> type (``tables.TYPES``) of what it adds."""

    name: str
    code: str
    columns: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """One committed unit of work: the rows of one piece after one stage."""

    stage: str
    name: str
    folder: Path
    receipt: Receipt

    @property
    def size_bytes(self) -> int:
        return sum(fact["bytes"] for fact in self.receipt.files.values())


@dataclass(frozen=True)
class Dataset:
    """
    Args:
        pieces: for each piece its units, in the order of the chain; those of an unfinished build may end early.
        surveys: stage -> folder of its survey.
        records: that the build's sources have; an unfinished build has read fewer so far.
        about: ``dataset.json`` of a finished build, else empty.
    """

    out: Path
    stages: tuple[StageFacts, ...]
    pieces: tuple[tuple[Unit, ...], ...]
    surveys: Mapping[str, Path]
    records: int
    about: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return bool(self.about)

    @cached_property
    def columns(self) -> dict[str, str]:
        """Name -> type of every column: the engine's, then those of the stages in order."""
        merged = dict(ENGINE_COLUMNS)
        for stage in self.stages:
            merged.update(stage.columns)
        return merged

    def units(self, stage: str) -> Iterator[Unit]:
        """The units of a stage in the order of the pieces."""
        return (unit for units in self.pieces for unit in units if unit.stage == stage)

    def counts(self, stage: str) -> tuple[int, int, dict[str, int]]:
        """Of what is done of a stage: records that entered, that were accepted, and that were rejected, by reason."""
        receipts = [unit.receipt for unit in self.units(stage)]
        rejected: Counter[str] = Counter()
        for receipt in receipts:
            rejected.update(receipt.rejected)
        return sum(r.entered for r in receipts), sum(r.accepted for r in receipts), dict(sorted(rejected.items()))

    def tables(self, columns: Sequence[str] | None = None, *, which: Which = "accepted") -> Iterator[pa.Table]:
        """For each piece the columns of its records, in their order. Where several stages gave a column, the last value that is not null counts.

        Args:
            columns: names; None: all.
            which: records that no stage has refused so far, those that one has, or all.

        Raises:
            DataError: a name that no stage gives, or tables that are damaged or do not belong together.
        """
        schema = schema_of(self._chosen(columns))
        for units in self.pieces:
            yield piece_table([unit.folder / ROWS for unit in units], schema, which)

    def table(self, columns: Sequence[str], *, which: Which = "accepted") -> pa.Table:
        """The chosen columns of the whole dataset in memory: for columns that are small."""
        return pa.concat_tables(self.tables(columns, which=which)) if self.pieces else schema_of(self._chosen(columns)).empty_table()

    def rows(self, columns: Sequence[str] | None = None, *, which: Which = "accepted") -> Iterator[Row]:
        """The same as dicts, without what is null."""
        for table in self.tables(columns, which=which):
            yield from rows_of(table)

    def piece_rows(self, piece: int, columns: Sequence[str], *, which: Which = "all") -> list[Row]:
        """The rows of one piece."""
        return rows_of(piece_table([unit.folder / ROWS for unit in self.pieces[piece]], schema_of(self._chosen(columns)), which))

    def locate(self, keys: Iterable[str]) -> dict[str, int]:
        """The number of the piece that holds each key; keys that no piece holds are left out."""
        wanted, found = set(keys), {}
        for number, units in enumerate(self.pieces):
            if len(found) == len(wanted):
                break
            column = read_table(units[0].folder / ROWS, [KEY]).column(KEY)
            found.update((key, number) for key in column.to_pylist() if key in wanted)
        return found

    def pictures(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Key and stored bytes of those records among ``keys`` whose picture was stored, verified; in the order of the pieces.

        Raises:
            DataError: a shard is damaged.
        """
        by_piece: dict[int, list[str]] = {}
        for key, number in self.locate(keys).items():
            by_piece.setdefault(number, []).append(key)
        for number, wanted in sorted(by_piece.items()):
            if (unit := self.storing(number)) is not None:
                with ShardReader(unit.folder) as reader:
                    for key in sorted(key for key in wanted if key in reader.index):
                        yield key, reader.read(key)

    def storing(self, piece: int) -> Unit | None:
        """The last unit of a piece that stores pictures."""
        return next((unit for unit in reversed(self.pieces[piece]) if INDEX in unit.receipt.files), None)

    def _chosen(self, columns: Sequence[str] | None) -> dict[str, str]:
        if columns is None:
            return self.columns
        if unknown := [name for name in columns if name not in self.columns]:
            raise DataError(f"{self.out}: no stage gives a column `{unknown[0]}`; there are: {', '.join(self.columns)}")
        return {name: self.columns[name] for name in columns}


def is_build(out: Path) -> bool:
    """Whether a folder is the output of a build."""
    return (out / PLAN).is_file()


def open_dataset(out: str | Path) -> Dataset:
    """
    Raises:
        DataError: not a build's output, or its description is damaged or names units that are gone.
    """
    place = Path(out)
    if not is_build(place):
        raise DataError(f"{place}: no build output (no {PLAN}); expected a folder made by `ernie data build`")
    plan = _read_json(place / PLAN)
    store = Store(place)
    store.load()
    about = _finished(place, plan, store.lines)
    try:
        stages = tuple(StageFacts(s["stage"], s["code"], s["columns"], s["options"]) for s in (about or plan)["stages"])
        chains = _chains(store, about["units"]) if about else _unfinished(store, stages)
        surveys = {stage: store.folder(stage, name) for stage, name in about["surveys"].items()} if about else {}
        records = int(plan["rows"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place / (DATASET if about else PLAN)}: not the description of a build ({error!r}); build again") from None
    pieces = tuple(tuple(Unit(x.stage, x.receipt.unit, store.folder(x.stage, x.receipt.unit), x.receipt) for x in c) for c in chains)
    return Dataset(place, stages, pieces, surveys, records, about)


def _finished(out: Path, plan: Mapping[str, Any], lines: Mapping[str, Line]) -> dict[str, Any]:
    """``dataset.json`` if it describes what the plan asks for and the manifest holds, else nothing: a later build has begun."""
    if not (out / DATASET).is_file():
        return {}
    about = _read_json(out / DATASET)
    made = [{name: stage.get(name) for name in ("stage", "options", "code", "columns")} for stage in about.get("stages", ())]
    if made != plan.get("stages") or about.get("records") != plan.get("rows"):
        return {}
    named = {name for units in about.get("units", ()) for name in units}
    chain = {stage["stage"] for stage in made}
    there = {name for name, line in lines.items() if line.stage in chain and ROWS in line.receipt.files}
    if there - named:
        return {}
    if gone := named - there:
        raise DataError(f"{out}: {DATASET} names the unit {min(gone)}, which is not there or incomplete; run `ernie data build` again")
    return about


def _chains(store: Store, units: Sequence[Sequence[str]]) -> list[list[Line]]:
    return [[store.lines[name] for name in names] for names in units]


def _unfinished(store: Store, stages: Sequence[StageFacts]) -> list[list[Line]]:
    """The units of each piece as far as they are done, by following the hashes that name them. Pieces are in the order of their keys."""
    made_by = [(stage.name, digest(stage.options), stage.code) for stage in stages]
    surveys: dict[str, list[str]] = {stage.name: [] for stage in stages}
    for line in store.lines.values():
        if ROWS not in line.receipt.files and line.stage in surveys:
            surveys[line.stage].insert(0, line.receipt.content)
    chains = []
    for first in store.lines.values():
        if (first.stage, first.config, first.code) != made_by[0]:
            continue
        chain = [first]
        for stage, config, code in made_by[1:]:
            content = chained([line.receipt.content for line in chain])
            inputs = (content, *(digest([content, survey]) for survey in surveys[stage]))
            names = (WorkUnit(stage, given, config, code).name for given in inputs)
            found = next((store.lines[name] for name in names if name in store.lines), None)
            if found is None:
                break
            chain.append(found)
        chains.append(chain)
    return _without_stale(store, chains)


def _without_stale(store: Store, chains: Sequence[list[Line]]) -> list[list[Line]]:
    """Where keys of two pieces overlap, the sources have changed in between, and the piece recorded later is the one that counts."""
    placed: list[tuple[str, str, list[Line]]] = []  # none overlaps another, so only neighbours need to be looked at
    for chain in reversed(chains):
        keys = read_table(store.folder(chain[0].stage, chain[0].receipt.unit) / ROWS, [KEY]).column(KEY)
        first, last = keys[0].as_py(), keys[-1].as_py()
        at = bisect_right(placed, last, key=lambda p: p[0])
        if at == 0 or placed[at - 1][1] < first:
            placed.insert(at, (first, last, chain))
    return [chain for _, _, chain in placed]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run `ernie data build` again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, found {type(value).__name__}; run `ernie data build` again")
    return value
