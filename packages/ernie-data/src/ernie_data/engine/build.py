"""The driver of a build: what is to be done, handing it out, recording what is done, and the description of the whole at the end.

The same command after a kill goes on where the manifest ends; a finished output tree does not tell how often that happened, in which order units were
done or by how many workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ernie_core import io
from ernie_core.api import DataError, ErnieError, PluginHost
from ernie_data.engine.chain import Chain, Link, Plugins, Workshop
from ernie_data.engine.local import LocalPool
from ernie_data.engine.store import Receipt, Store, write_json_once
from ernie_data.engine.task import SurveyTask, Task, UnitTask
from ernie_data.engine.unit import WorkUnit, chained, cut, digest
from ernie_data.loading.indexing import check_columns, write_indexes
from ernie_data.recipe import BuildInput, IndexOptions, Recipe, RunOptions
from ernie_data.sources.listing import Listing, list_sources
from ernie_data.sources.place import Place
from ernie_data.stages.entries import SCAN, ScanConfig
from ernie_data.tables import ENGINE_COLUMNS, ROWS, encode_rows, read_rows

PLAN = "plan.json"
DATASET = "dataset.json"
REJECTED = "rejected.parquet"
_FAILURES_NAMED = 10


class BuildFailed(ErnieError):
    """Some units failed; the others are done and will not be done again."""


class Backend(Protocol):
    """Runs tasks somewhere; see ``LocalPool.run``."""

    deaths: int

    def run(
        self,
        tasks: Sequence[Task],
        done: Callable[[Task, Receipt], Sequence[Task]],
        failed: Callable[[Task, str], None],
        tick: Callable[[], None],
    ) -> None: ...

    def close(self) -> None: ...


def backend_of(chain: Chain, limits: RunOptions, plugins: Plugins) -> Backend:
    """The backend that a recipe asks for."""
    if limits.backend == "ray":
        from ernie_data.engine.cluster import RayPool  # an extra

        return RayPool(chain, limits, plugins)
    return LocalPool(chain, limits, plugins)


@dataclass
class Progress:
    """How far a build is: for display only. Counts are per stage, in the order of the chain."""

    stages: tuple[str, ...]
    rows: int
    units: int
    units_done: list[int] = field(default_factory=list)
    rows_done: list[int] = field(default_factory=list)
    rows_reused: list[int] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    deaths: int = 0

    def __post_init__(self) -> None:
        self.units_done = [0] * len(self.stages)
        self.rows_done = [0] * len(self.stages)
        self.rows_reused = [0] * len(self.stages)


def links_of(recipe: Recipe, host: PluginHost) -> list[Link]:
    """The chain of a recipe: the scan, then its stages.

    Raises:
        ConfigError, DataError: a source is a build that cannot give the columns it is asked for.
    """
    carried = {}
    if any(isinstance(source, BuildInput) for source in recipe.inputs):
        from ernie_data.sources.origin import carried_columns  # reads builds, which this module makes

        carried = carried_columns(recipe.inputs)
    chosen = [(SCAN, ScanConfig(carried=carried)), *((host.entry("data_stages", stage.use), stage.options) for stage in recipe.stages)]
    times: Counter[str] = Counter()
    links = []
    for entry, options in chosen:
        times[entry.name] += 1
        name = entry.name if times[entry.name] == 1 else f"{entry.name}-{times[entry.name]}"
        links.append(msgspec.structs.replace(Link.of(entry, options if options is not None else entry.config()), name=name))
    return links


def build_dataset(
    recipe: Recipe,
    out: Path,
    *,
    links: Sequence[Link] | None = None,
    plugins: Plugins = Plugins(),  # noqa: B008  frozen
    verify: bool = False,
    only: Sequence[str] = (),
    tell: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Build or go on building; returns what is written to ``dataset.json``.

    Args:
        links: the chain, if not the recipe's.
        plugins: what the driver and its workers may load.
        verify: check the sha256 of everything that is there first, and rebuild what is damaged.
        only: names of units whose output is thrown away and made again.
        tell: called often with the state of things.

    Raises:
        ConfigError: a stage or the index needs a column that no earlier stage gives.
        DataError: sources are missing or empty; ``only`` names a unit that does not exist.
        RunFolderError: another build holds the folder; names its pid, host and start time.
        BuildFailed: units failed; names them.
        StorageError: the output cannot be written.
    """
    workshop = Workshop(plugins)
    chain = Chain(links if links is not None else links_of(recipe, workshop.host), workshop)
    if recipe.index is not None:
        check_columns(recipe.index, chain.columns)
    with io.FolderLock(out):
        listing = list_sources(recipe.inputs)
        store = Store(out)
        store.sweep()
        store.load()
        damaged = store.drop_damaged() if verify else []
        store.drop(only)
        run = _Run(chain, store, listing, recipe.unit_rows, tell or (lambda progress: None))
        write_json_once(out / PLAN, {"rows": len(listing.places), "units": len(run.pieces), "stages": chain.about()})
        with closing(backend_of(chain, recipe.run, plugins)) as backend:
            run.drive(backend)
        return {**run.finish(recipe.index), "repaired": damaged}


class _Run:
    """One call of ``build_dataset``. ``receipts[piece][stage]`` fills up; a piece is a run of source records that share their units."""

    def __init__(self, chain: Chain, store: Store, listing: Listing, unit_rows: int, tell: Callable[[Progress], None]) -> None:
        self.chain = chain
        self.store = store
        self.listing = listing
        self.tell = tell
        self.pieces = cut(_distinct(listing.places), lambda place: place.key, rows=unit_rows)
        self.units: list[list[WorkUnit]] = [[] for _ in self.pieces]
        self.receipts: list[list[Receipt]] = [[] for _ in self.pieces]
        self.owner: dict[str, int] = {}  # unit -> piece
        self.surveys: dict[int, Receipt] = {}
        self.survey_units: dict[int, WorkUnit] = {}
        self.failures: list[str] = []
        self.reached: Counter[int] = Counter({0: len(self.pieces)})  # number of stages done -> pieces
        self.progress = Progress(tuple(link.name for link in chain.links), sum(map(len, self.pieces)), len(self.pieces))

    def drive(self, pool: Backend) -> None:
        """Do everything that is not yet done.

        Raises:
            BuildFailed: units failed; everything that did not need them is done.
        """
        tasks = self._all_next() or self._ready()
        self.tell(self.progress)

        def tick() -> None:
            self.progress.deaths = pool.deaths
            self.tell(self.progress)

        if tasks:
            pool.run(tasks, self._done, self._failed, tick)
        if self.failures:
            more = [f"... and {len(self.failures) - _FAILURES_NAMED} more"] if len(self.failures) > _FAILURES_NAMED else []
            raise BuildFailed(
                f"{self.store.out}: {len(self.failures)} units failed; all others are done and kept:\n"
                + "\n".join(f"  {line}" for line in sorted(self.failures)[:_FAILURES_NAMED] + more)
            )

    def finish(self, index: IndexOptions | None) -> dict[str, Any]:
        """Write the index, seal the manifest and describe the dataset."""
        ordered = [unit for stage in range(len(self.chain)) for unit in self._units_of(stage)]
        out = self.store.out
        self.store.sweep()  # of workers that were killed in this run
        rejected = encode_rows(list(self._rejected_rows()), ENGINE_COLUMNS)
        if not (out / REJECTED).exists() or (out / REJECTED).read_bytes() != rejected:
            io.write_bytes(out / REJECTED, rejected)
        about = self._about()
        if index is not None:
            contents = [self._content(piece) for piece in range(len(self.pieces))]
            units, about["index"] = write_indexes(self.store, self.units, contents, index)
            ordered += units
        write_json_once(out / DATASET, about)
        self.store.seal(ordered)
        return about

    def _next(self, piece: int) -> Task | None:
        """Take over what is done of a piece, and the task that comes next. None: it has come to its end, or waits for others."""
        receipts, places = self.receipts[piece], self.pieces[piece]
        while len(receipts) < len(self.chain):
            stage = len(receipts)
            survey = self.surveys.get(stage)
            if self.chain.surveys[stage] and survey is None:
                return None
            content = self._content(piece) if receipts else digest([place.identity() for place in places])
            unit = self.chain.unit(stage, content if survey is None else digest([content, survey.content]))
            self.units[piece].append(unit)
            self.owner[unit.name] = piece
            receipt = self.store.find(unit)
            if receipt is None:
                about = str(self.store.folder(unit.stage, survey.unit)) if survey is not None else ""
                target = str(self.store.folder(unit.stage, unit.name))
                return UnitTask(stage, unit.stage, unit.name, target, places, self._folders(piece), about)
            self._count(piece, stage, receipt, reused=True)
        return None

    def _content(self, piece: int) -> str:
        return chained([receipt.content for receipt in self.receipts[piece]])

    def _folders(self, piece: int) -> list[str]:
        """Committed folders of a piece."""
        return [str(self.store.folder(u.stage, u.name)) for u, _ in zip(self.units[piece], self.receipts[piece])]

    def _ready(self) -> list[Task]:
        """When every piece waits for one survey: the survey, or, if that is done, what all pieces do next."""
        while True:
            stage = len(self.receipts[0])
            if stage == len(self.chain) or not self.chain.surveys[stage] or stage in self.surveys:
                return []
            if self.reached[stage] != len(self.pieces):
                return []
            unit = self.chain.survey(stage, digest([self._content(piece) for piece in range(len(self.pieces))]))
            self.survey_units[stage] = unit
            receipt = self.store.find(unit)
            if receipt is None:
                previous = [self._folders(piece) for piece in range(len(self.pieces))]
                return [SurveyTask(stage, unit.stage, unit.name, str(self.store.folder(unit.stage, unit.name)), previous)]
            self.surveys[stage] = receipt
            if tasks := self._all_next():
                return tasks

    def _all_next(self) -> list[Task]:
        return [task for piece in range(len(self.pieces)) if (task := self._next(piece)) is not None]

    def _done(self, task: Task, receipt: Receipt) -> list[Task]:
        if isinstance(task, SurveyTask):
            self.store.record(self.survey_units[task.stage], receipt)
            self.surveys[task.stage] = receipt
            return self._all_next() or self._ready()
        piece = self.owner[task.unit]
        self.store.record(self.units[piece][task.stage], receipt)
        self._count(piece, task.stage, receipt, reused=False)
        following = self._next(piece)
        return self._ready() if following is None else [following]

    def _failed(self, task: Task, why: str) -> None:
        if isinstance(task, SurveyTask):
            self.failures.append(f"{task.stage_name}/{task.unit} (survey of the whole dataset): {why}")
            return
        self.failures.append(f"{task.stage_name}/{task.unit} ({task.places[0].key} to {task.places[-1].key}): {why}")

    def _count(self, piece: int, stage: int, receipt: Receipt, *, reused: bool) -> None:
        entered = self.receipts[piece][-1].accepted if self.receipts[piece] else len(self.pieces[piece])
        if receipt.entered != entered:
            raise DataError(f"{task_name(self.units[piece][stage])}: {receipt.entered} records entered, expected {entered}")
        self.receipts[piece].append(receipt)
        self.reached[stage] -= 1
        self.reached[stage + 1] += 1
        self.progress.units_done[stage] += 1
        self.progress.rows_done[stage] += len(self.pieces[piece])
        self.progress.rows_reused[stage] += len(self.pieces[piece]) if reused else 0
        self.progress.rejected.update(receipt.rejected)

    def _units_of(self, stage: int) -> list[WorkUnit]:
        return [*([self.survey_units[stage]] if stage in self.survey_units else []), *(units[stage] for units in self.units)]

    def _rejected_rows(self) -> Iterator[dict[str, Any]]:
        for units in self.units:
            for unit, receipt in zip(units, self.receipts[self.owner[units[0].name]]):
                if receipt.rejected:
                    rows = read_rows(self.store.folder(unit.stage, unit.name) / ROWS, list(ENGINE_COLUMNS))
                    yield from (row for row in rows if row.get("stage") == unit.stage)

    def _about(self) -> dict[str, Any]:
        stages = []
        for number, facts in enumerate(self.chain.about()):
            receipts = [receipts[number] for receipts in self.receipts]
            rejected: Counter[str] = Counter()
            for receipt in receipts:
                rejected.update(receipt.rejected)
            counts = {"entered": sum(r.entered for r in receipts), "accepted": sum(r.accepted for r in receipts)}
            stages.append({**facts, **counts, "rejected": dict(sorted(rejected.items()))})
        accepted = stages[-1]["accepted"]
        total = sum(sum(stage["rejected"].values()) for stage in stages)
        if self.progress.rows != accepted + total:
            raise DataError(f"{self.store.out}: {self.progress.rows} records in, but {accepted} accepted and {total} rejected")
        return {
            "records": self.progress.rows,
            "accepted": accepted,
            "rejected": total,
            "ignored_files": dict(sorted(self.listing.ignored.items())),
            "captions_not_used": sum(bool(place.caption_error) for place in self.listing.places),
            "stages": stages,
            "units": [[unit.name for unit in units] for units in self.units],
            "surveys": {self.chain.links[stage].name: unit.name for stage, unit in sorted(self.survey_units.items())},
        }


def task_name(unit: WorkUnit) -> str:
    return f"{unit.stage}/{unit.name}"


def _distinct(places: Sequence[Place]) -> list[Place]:
    """Keys are unique in every table: the second of two equal ones is refused under a key of its own."""
    distinct: list[Place] = []
    count = 0
    for place in places:
        if distinct and distinct[-1 - count].key == place.key:
            count += 1
            key = f"{place.key}#{count + 1}"
            distinct.append(msgspec.structs.replace(place, key=key, error="duplicate_key", detail="two records have this key"))
        else:
            count = 0
            distinct.append(place)
    return distinct
