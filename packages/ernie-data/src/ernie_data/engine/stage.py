"""What a curation stage is: it takes records and gives one outcome for each, in order. The engine does the rest.

A stage sees neither files nor processes: units, commits, crashes, time limits and resuming belong to the engine, which may run a stage on any
worker, several times, or one record at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ernie_data.reasons import ReasonCode

if TYPE_CHECKING:
    from ernie_core.io import FolderWriter
    from ernie_data.engine.view import DatasetView

DETAIL_CHARACTERS = 300


@dataclass(frozen=True)
class Item:
    """A record on its way through the stages.

    Args:
        columns: what earlier stages found out, by column name.
        load: the picture's encoded bytes: the source's own until a stage has stored pictures, the stored ones after; verified by sha256.
            Raises ``Refuse``, which a stage lets pass or yields as its outcome.
    """

    key: str
    columns: Mapping[str, Any]
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Kept:
    """New columns, of those the stage declares, and, from a stage that stores pictures, the encoded picture and its suffix such as "jpg"."""

    columns: Mapping[str, Any]
    picture: bytes | None = None
    suffix: str = ""


class Refuse(Exception):
    """A record is refused. Raised while working on it, or yielded as its outcome."""

    def __init__(self, reason: ReasonCode, detail: str = "") -> None:
        self.reason = reason
        self.detail = " ".join(detail.split())[:DETAIL_CHARACTERS]
        super().__init__(f"{reason}: {self.detail}")


class DataStage(Protocol):
    """What the engine asks of a stage. Derive from ``RecordStage`` or ``BatchStage``, which answer all but what is the stage's own.

    Attributes:
        code: every version that shapes the output; part of a unit's name. Read before ``setup``.
        columns: name and type (``ernie_data.tables.TYPES``) of each column it gives.
        needs: columns of earlier stages that it cannot do without; checked before any work.
        stores_pictures: its outcomes carry pictures, which later stages read instead of the source's.
        actor: it holds a model: it gets processes of its own, without the memory limit of the others and kept until the end.
        surveys: it looks at the whole dataset first, see ``Surveyor``.
    """

    code: str
    columns: Mapping[str, str]
    needs: Sequence[str]
    stores_pictures: bool
    actor: bool
    surveys: bool

    def setup(self) -> None:
        """Called once per worker process before the first unit: load a model here."""
        ...

    def teardown(self) -> None:
        """Called once before the worker ends in peace; a kill calls nothing."""
        ...

    def process(self, items: Iterable[Item]) -> Iterator[Kept | Refuse]:
        """One outcome per item, in order. Pure: neither time, order nor earlier items may show in an outcome.

        May take several items before it gives their outcomes (a batch for a model). Any exception but MemoryError fails the whole unit by name.
        """
        ...


class Surveyor(Protocol):
    """A stage with ``surveys = True``. When all records have come to the stage, its survey is made once, in one process and without a memory limit,
    and committed as a folder; then the stage is built again with ``context.survey`` set to that folder, and processes units like any other.
    """

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        """Write what the stage must know of the whole dataset, as files that depend on the dataset and the options alone."""
        ...


class _Stage:
    """The answers of a stage that needs nothing in particular."""

    code: str
    columns: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[Sequence[str]] = ()
    stores_pictures: ClassVar[bool] = False
    actor: ClassVar[bool] = False
    surveys: ClassVar[bool] = False

    def setup(self) -> None: ...

    def teardown(self) -> None: ...


class RecordStage(_Stage):
    """Base of stages that look at one record at a time: subclasses write ``one``."""

    def process(self, items: Iterable[Item]) -> Iterator[Kept | Refuse]:
        for item in items:
            try:
                outcome: Kept | Refuse = self.one(item)
            except Refuse as refusal:
                outcome = refusal
            yield outcome

    def one(self, item: Item) -> Kept:
        """
        Raises:
            Refuse: the record is refused.
        """
        raise NotImplementedError


class BatchStage(_Stage):
    """Base of stages that work on ``batch_size`` records at a time: subclasses write ``many``."""

    batch_size: int = 16

    def process(self, items: Iterable[Item]) -> Iterator[Kept | Refuse]:
        waiting: list[Item] = []
        for item in items:
            waiting.append(item)
            if len(waiting) == self.batch_size:
                yield from self.many(waiting)
                waiting = []
        if waiting:
            yield from self.many(waiting)

    def many(self, items: Sequence[Item]) -> Sequence[Kept | Refuse]:
        """One outcome per item, in order. The size of the batch must not show in an outcome."""
        raise NotImplementedError
