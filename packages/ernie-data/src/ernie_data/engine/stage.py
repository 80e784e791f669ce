"""What a curation stage is: it takes records and gives one outcome for each, in order. The engine does the rest.

A stage sees neither files nor processes: units, commits, crashes, time limits and resuming belong to the engine, which may run a stage on any
worker, several times, or one record at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ernie_data.reasons import ReasonCode

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
    """New columns (JSON values) and, from a stage that stores pictures, the encoded picture and its suffix such as "jpg"."""

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
    """``code`` names every version that shapes the output; it is part of a unit's name. Read before ``setup``."""

    code: str
    stores_pictures: bool

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


class RecordStage:
    """Base of stages that look at one record at a time: subclasses write ``one``."""

    code: ClassVar[str]
    stores_pictures: ClassVar[bool] = False

    def setup(self) -> None: ...

    def teardown(self) -> None: ...

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
