"""``ernie data inspect`` of a build's output: its stages and units, the rows of one unit, or everything that is known of one record."""

from __future__ import annotations

import argparse
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core import io
from ernie_core.api import ConfigError, DataError
from ernie_data.reading.dataset import Dataset, Unit, open_dataset
from ernie_data.reading.trail import Trail, trail_of
from ernie_data.tables import ROWS, read_rows

if TYPE_CHECKING:
    from ernie_core.api import App

_UNITS_LISTED = 12
_WORD_SHOWN = 128
_LIST_SHOWN = 8


def inspect_build(arguments: argparse.Namespace, app: App) -> int:
    """
    Raises:
        DataError: no such key or unit, or damaged tables.
        ConfigError: options that do not go together.
    """
    if arguments.save is not None and arguments.key is None:
        raise ConfigError("--save saves the picture of one record: name it with --key")
    dataset = open_dataset(Path(arguments.folder))
    if arguments.key is not None:
        return _record(dataset, arguments, app)
    if arguments.unit is not None:
        return _unit(dataset, arguments.unit, app)
    return _overview(dataset, arguments.json, app)


def _overview(dataset: Dataset, as_json: bool, app: App) -> int:
    stages = []
    for stage in dataset.stages:
        entered, accepted, rejected = dataset.counts(stage.name)
        units = list(dataset.units(stage.name))
        stages.append((stage, entered, accepted, rejected, units))
    if as_json:
        report = {
            "finished": dataset.finished,
            "records": dataset.records,
            "pieces": len(dataset.pieces),
            "stages": [
                {
                    "stage": stage.name,
                    "code": stage.code,
                    "columns": dict(stage.columns),
                    "entered": entered,
                    "accepted": accepted,
                    "rejected": rejected,
                    "units": [_unit_facts(unit) for unit in units],
                }
                for stage, entered, accepted, rejected, units in stages
            ],
        }
        app.out(json.dumps(report, ensure_ascii=False))
        return 0
    state = "finished" if dataset.finished else "not finished"
    app.out(f"{dataset.out}: {state}, {dataset.records} records in {len(dataset.pieces)} pieces")
    for stage, entered, accepted, rejected, units in stages:
        reasons = "".join(f", {reason} {n}" for reason, n in rejected.items())
        app.out(f"{stage.name}: {len(units)} units, {_size(sum(u.size_bytes for u in units))}, {entered} in, {accepted} accepted{reasons}")
        if stage.columns:
            app.out(f"  columns: {', '.join(f'{name} ({kind})' for name, kind in stage.columns.items())}")
        for unit in units[:_UNITS_LISTED]:
            app.out(f"  {unit.name}  {unit.receipt.entered:>7} in  {unit.receipt.accepted:>7} accepted  {_size(unit.size_bytes):>10}")
        if len(units) > _UNITS_LISTED:
            app.out(f"  ... and {len(units) - _UNITS_LISTED} more; --json lists all")
    return 0


def _unit_facts(unit: Unit) -> dict[str, Any]:
    receipt = unit.receipt
    return {
        "unit": unit.name,
        "entered": receipt.entered,
        "accepted": receipt.accepted,
        "rejected": dict(receipt.rejected),
        "bytes": unit.size_bytes,
    }


def _unit(dataset: Dataset, name: str, app: App) -> int:
    units = {unit.name: unit for stage in dataset.stages for unit in dataset.units(stage.name)}
    if name not in units:
        raise DataError(f"{dataset.out}: there is no unit {name!r}; `ernie data inspect {dataset.out} --json` lists all")
    for row in read_rows(units[name].folder / ROWS):
        app.out(json.dumps(row, ensure_ascii=False))
    return 0


def _record(dataset: Dataset, arguments: argparse.Namespace, app: App) -> int:
    trail = trail_of(dataset, arguments.key)
    if trail is None:
        raise DataError(_no_such_key(dataset, arguments.key))
    if arguments.json:
        app.out(json.dumps(trail.to_json(), ensure_ascii=False))
    else:
        _print_trail(trail, app)
    if arguments.save is not None:
        stored = dict(dataset.pictures([arguments.key]))
        if not stored:
            raise DataError(f"{arguments.key!r}: no picture of it was stored, so {arguments.save} was not written")
        io.write_bytes(arguments.save, stored[arguments.key])
        app.err(f"saved {len(stored[arguments.key])} bytes to {arguments.save}")
    return 0


def _print_trail(trail: Trail, app: App) -> None:
    app.out(f"{_printable(trail.key)}: {_printable(trail.verdict())}")
    for step in trail.steps:
        app.out(f"{step.stage}: {step.outcome}  (unit {step.unit}, row {step.row})")
        for name, value in step.columns.items():
            app.out(f"  {name}: {_value(value)}")
    if trail.winner is not None:
        app.out(f"a duplicate of: {_printable(trail.winner)}")
    if trail.stored is None:
        app.out("picture: not stored")
    else:
        app.out(f"picture: {trail.stored.shard}, {trail.stored.size} bytes at {trail.stored.offset}, sha256 {trail.stored.sha256}")


def _value(value: Any) -> str:
    if isinstance(value, list) and len(value) > _LIST_SHOWN:
        return f"{json.dumps(value[:_LIST_SHOWN], ensure_ascii=False)[:-1]}, ...] ({len(value)} values)"
    text = _printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if " " not in text and len(text) > _WORD_SHOWN:  # a picture or a hash, nothing to read
        return f"{text[:_WORD_SHOWN]}... ({len(text)} characters)"
    return text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _no_such_key(dataset: Dataset, key: str) -> str:
    known = (k for table in dataset.tables(["key"], which="all") for k in table.column("key").to_pylist())
    close = difflib.get_close_matches(key, (k for _, k in zip(range(20_000), known)), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f'`ernie data query {dataset.out} "SELECT key FROM items"` lists them.'
    return f"{dataset.out}: there is no record {key!r}; {hint}"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
