"""The path of one record through the stages: what each added, who refused it and why, and where its picture lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ernie_data.reading.dataset import Dataset
from ernie_data.reasons import ReasonCode
from ernie_data.shards import INDEX, SHARD
from ernie_data.tables import ENGINE_COLUMNS, KEY, ROWS, read_rows

_MEASURE = ", distance "


@dataclass(frozen=True)
class Step:
    """One stage. ``row``: its number in the unit's table, from 0. ``outcome``: "accepted", "refused" or "not asked" (refused before)."""

    stage: str
    unit: str
    row: int
    outcome: str
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """Where a picture's bytes are."""

    shard: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Trail:
    """``refused_by``, ``reason``, ``detail``: empty if no stage has refused the record. ``winner``: the key of the record that a duplicate lost to."""

    key: str
    steps: tuple[Step, ...]
    waiting: tuple[str, ...]
    refused_by: str
    reason: str
    detail: str
    winner: str | None
    stored: Stored | None

    def verdict(self) -> str:
        if self.refused_by:
            return f"refused by {self.refused_by}: {self.reason}" + (f" ({self.detail})" if self.detail else "")
        return f"waiting for {', '.join(self.waiting)}" if self.waiting else "accepted"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def trail_of(dataset: Dataset, key: str) -> Trail | None:
    """None: no such record.

    Raises:
        DataError: tables that are damaged.
    """
    number = dataset.locate([key]).get(key)
    if number is None:
        return None
    steps, refusal = [], {}
    for unit in dataset.pieces[number]:
        rows = read_rows(unit.folder / ROWS)
        at = next(n for n, row in enumerate(rows) if row[KEY] == key)
        row = rows[at]
        outcome = "accepted" if "error" not in row else "refused" if row["stage"] == unit.stage else "not asked"
        if outcome == "refused":
            refusal = row
        columns = {name: value for name, value in row.items() if name not in ENGINE_COLUMNS}
        steps.append(Step(unit.stage, unit.name, at, outcome, columns))
    waiting = () if refusal else tuple(stage.name for stage in dataset.stages[len(steps) :])
    reason, detail = refusal.get("error", ""), refusal.get("detail", "")
    winner = winner_of(dataset, detail) if reason == ReasonCode.DUPLICATE else None
    return Trail(key, tuple(steps), waiting, refusal.get("stage", ""), reason, detail, winner, _stored(dataset, number, key))


def winner_of(dataset: Dataset, detail: str) -> str | None:
    """The key that the detail of a refused duplicate names; None where it names none (a very long key is cut there)."""
    words = named_in(detail)
    known = dataset.locate(words)
    return next((word for word in words if word in known), None)


def named_in(detail: str) -> list[str]:
    """What may be a key in a detail such as "near of folder/a b.png, distance 0.02": what follows a blank, without and with what follows it. The first
    that is a key is meant."""
    tails = [detail, *(detail[i + 1 :] for i, character in enumerate(detail) if character == " ")]
    return [*(tail[: tail.rindex(_MEASURE)] for tail in tails if _MEASURE in tail), *tails]


def _stored(dataset: Dataset, piece: int, key: str) -> Stored | None:
    unit = dataset.storing(piece)
    if unit is None:
        return None
    row = next((row for row in read_rows(unit.folder / INDEX) if row[KEY] == key), None)
    return None if row is None else Stored(str(unit.folder / SHARD), row["offset"], row["size"], row["sha256"])
