"""One unit's work, from its inputs to its committed folder. Runs inside a worker of any backend; knows nothing of other units.

Every table is row-aligned with the source: one line per source record in every stage, which holds either the stage's columns, or ``error``,
``stage`` and (in the stage that refused) ``detail``. So nothing can be lost between two stages without the counts or keys telling.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from ernie_core import io
from ernie_core.api import DataError, StorageError
from ernie_data.engine.stage import DataStage, Item, Kept, Refuse, Surveyor
from ernie_data.engine.store import Receipt, receipt_of
from ernie_data.engine.unit import digest
from ernie_data.engine.view import DatasetView
from ernie_data.reasons import ReasonCode
from ernie_data.shards import INDEX, SHARD, Sample, ShardReader, index_bytes, member_id, write_ordered
from ernie_data.sources.place import Place, read_place
from ernie_data.tables import ENGINE_COLUMNS, ROWS, Row, content_sha256, encode_rows, joined, read_rows

Mark = Callable[[int], None]
"""Told the number of the row that work begins on, -1 outside of rows."""


class SurveyTask(msgspec.Struct, tag="survey"):
    """What a worker needs to make one stage's survey. ``previous``: for each piece the committed folders of the earlier stages."""

    stage: int
    stage_name: str
    unit: str
    target: str
    previous: list[list[str]]


class UnitTask(msgspec.Struct, tag="unit"):
    """What a worker needs to do one unit.

    Args:
        stage: the stage's number in the chain, ``stage_name`` its name.
        target: the folder to commit.
        places: where the source records are, one per row.
        previous: the committed folders of the earlier stages of the same rows.
        survey: the committed folder of the stage's survey, if it makes one.
        one_by_one: hand records to the stage one at a time, so that a crash can be told to be one record's.
        refused: row number -> reason and detail, of records that ended the process before.
    """

    stage: int
    stage_name: str
    unit: str
    target: str
    places: list[Place]
    previous: list[str]
    survey: str = ""
    one_by_one: bool = False
    refused: dict[int, tuple[str, str]] = {}


Task = UnitTask | SurveyTask


def run_survey(stage: Surveyor, task: SurveyTask) -> Receipt:
    """Make a survey and commit it; a folder that is already there is verified and adopted."""
    target = Path(task.target)
    if (receipt := _adopted(target)) is not None:
        return receipt
    with io.commit_folder(target) as folder:
        stage.survey(DatasetView(task.previous), folder)
        content = digest({name: fact["sha256"] for name, fact in folder.files.items()})
        facts = {"unit": task.unit, "content": content, "entered": 0, "accepted": 0, "rejected": {}}
        folder.facts["receipt"] = facts
    return Receipt(**facts, files=folder.files)


def _adopted(target: Path) -> Receipt | None:
    if target.exists():
        if io.verify_folder(target) is None:
            return receipt_of(target)
        io.remove_folder(target)
    return None


def run_unit(stage: DataStage, task: UnitTask, mark: Mark) -> Receipt:
    """Do the work and commit it; a folder that is already there is verified and adopted.

    Raises:
        DataError: inputs are damaged or do not belong together, or the stage gave other than one outcome per record.
        StorageError: the folder could not be written.
    """
    target = Path(task.target)
    if (receipt := _adopted(target)) is not None:
        return receipt
    rows = _inputs(task)
    live = [n for n, row in enumerate(rows) if "error" not in row]
    with ExitStack() as stack:
        load = _loader(task, stack)
        aside = stack.enter_context(_Aside(target.parent)) if stage.stores_pictures else None
        outcomes = _outcomes(stage, task, rows, live, load, mark, aside)
        mark(-1)
        table = [_line(row, outcomes.get(n), task.stage_name) for n, row in enumerate(rows)]
        rejected = Counter(str(o.reason) for o in outcomes.values() if isinstance(o, Refuse))
        counts = {"entered": len(live), "accepted": len(live) - rejected.total(), "rejected": dict(sorted(rejected.items()))}
        facts: dict[str, Any] = {"unit": task.unit, **counts}
        with io.commit_folder(target) as folder:
            pictures = ""
            if aside is not None:
                folder.add_bytes(INDEX, index_bytes(_write_pictures(folder, rows, outcomes, aside)))
                pictures = folder.files[SHARD]["sha256"]
            folder.add_bytes(ROWS, encode_rows(table, {**ENGINE_COLUMNS, **stage.columns}))
            facts["content"] = digest([content_sha256(table), pictures])
            folder.facts["receipt"] = facts
    return Receipt(**facts, files=folder.files)


class _Aside:
    """Pictures of a unit until its shard can be written: in a nameless file, since a unit of large ones does not fit into a worker's memory."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=io.make_folder(folder), prefix=".tmp-")  # noqa: SIM115  closed on leaving
        self._spans: dict[int, tuple[int, int]] = {}
        self._end = 0

    def put(self, number: int, picture: bytes) -> None:
        try:
            self._file.seek(self._end)
            self._file.write(picture)
        except OSError as error:
            raise StorageError(f"{self._file.name}: {len(picture)} bytes of a picture cannot be set aside ({error.strerror})") from error
        self._spans[number] = (self._end, len(picture))
        self._end += len(picture)

    def __contains__(self, number: int) -> bool:
        return number in self._spans

    def get(self, number: int) -> bytes:
        offset, size = self._spans[number]
        self._file.seek(offset)
        return self._file.read(size)

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _inputs(task: UnitTask) -> list[Row]:
    """One row per source record with all columns so far."""
    if not task.previous:
        return [place.row() for place in task.places]
    tables = [(Path(folder) / ROWS, read_rows(Path(folder) / ROWS)) for folder in task.previous]
    rows = joined(tables)
    if len(rows) != len(task.places) or any(row["key"] != place.key for row, place in zip(rows, task.places)):
        raise DataError(f"{tables[0][0]}: its keys are not those of the source; the source has changed, run the same command again")
    return rows


def _loader(task: UnitTask, stack: ExitStack) -> Callable[[int, Row], bytes]:
    """Reads stored pictures if an earlier stage stored some, else the source."""
    stored = next((Path(folder) for folder in reversed(task.previous) if (Path(folder) / INDEX).exists()), None)
    if stored is None:
        return lambda number, row: read_place(task.places[number], expected_sha256=row.get("sha256"))
    reader = stack.enter_context(ShardReader(stored))
    return lambda number, row: reader.read(row["key"])


def _outcomes(
    stage: DataStage,
    task: UnitTask,
    rows: Sequence[Row],
    live: Sequence[int],
    load: Callable[[int, Row], bytes],
    mark: Mark,
    aside: _Aside | None,
) -> dict[int, Kept | Refuse]:
    """Outcomes by row; their pictures are set aside."""
    outcomes: dict[int, Kept | Refuse] = {n: Refuse(ReasonCode(r), detail) for n, (r, detail) in task.refused.items()}
    asked = [n for n in live if n not in outcomes]

    def items(numbers: Sequence[int]) -> Iterator[Item]:
        for number in numbers:
            mark(number)
            row = rows[number]
            yield Item(row["key"], row, lambda number=number, row=row: load(number, row))

    for numbers in [[n] for n in asked] if task.one_by_one else [asked]:
        given = 0
        for outcome in stage.process(items(numbers)):
            if given < len(numbers):
                number = numbers[given]
                if aside is not None and isinstance(outcome, Kept) and outcome.picture is not None:
                    aside.put(number, outcome.picture)
                    outcome = Kept(outcome.columns, suffix=outcome.suffix)
                outcomes[number] = outcome
            given += 1
        if given != len(numbers):
            raise DataError(
                f"stage {task.stage_name}: {given} outcomes for {len(numbers)} records; a stage must give one for each, in order"
            )
    return outcomes


def _line(row: Row, outcome: Kept | Refuse | None, stage: str) -> dict[str, Any]:
    if outcome is None:  # refused by an earlier stage
        return {"key": row["key"], "error": row["error"], "stage": row["stage"]}
    if isinstance(outcome, Refuse):
        return {"key": row["key"], "error": str(outcome.reason), "detail": outcome.detail, "stage": stage}
    if taken := ENGINE_COLUMNS.keys() & outcome.columns.keys():
        raise DataError(f"stage {stage}: the column names {', '.join(sorted(taken))} belong to the engine")
    return {"key": row["key"], **outcome.columns}


def _write_pictures(
    folder: io.FolderWriter, rows: Sequence[Row], outcomes: dict[int, Kept | Refuse], aside: _Aside
) -> list[dict[str, Any]]:
    kept = [(member_id(rows[n]["key"]), n, outcome.suffix) for n, outcome in outcomes.items() if isinstance(outcome, Kept) and n in aside]
    samples = (Sample(rows[n]["key"], aside.get(n), suffix, {"captions": rows[n].get("captions", {})}) for _, n, suffix in sorted(kept))
    index: list[dict[str, Any]] = []

    def write(path: Path) -> None:
        with path.open("wb") as file:  # durable: inside commit_folder, which syncs and renames
            index.extend(write_ordered(samples, file))

    folder.add_file(SHARD, write)
    return index
