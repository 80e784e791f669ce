"""What data sources give to the trainer. Light: numpy only under type checking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ernie_core.config.base import Config, PositiveInt

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Stage(Config):
    """One resolution stage of a run: ``steps`` optimiser steps of ``batch_size`` pictures of about ``size_px`` x ``size_px`` pixels.

    ``batch_size`` is global: over all ranks and micro-steps.
    """

    size_px: PositiveInt
    steps: PositiveInt
    batch_size: PositiveInt


@dataclass(frozen=True)
class RecordRef:
    """Which record to fetch, and at what size. Small, hashable and serialisable: it crosses process boundaries and is logged as the sample id."""

    key: str
    row: int
    size_px: tuple[int, int]  # width, height of the aspect bucket


@dataclass(frozen=True)
class Record:
    """One training picture, decoded, resized and cropped to its bucket."""

    key: str
    pixels: NDArray  # uint8, [H, W, 3], sRGB
    captions: Mapping[str, str]  # by style; at least one, "" allowed
    bucket: tuple[int, int]  # width, height in pixels
    category: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    pixels_id: str = ""
    """Equal ids, equal pixels: a hash of all that decides about them (the file's bytes, size, crop, decoder). "": unknown, nothing of it is cached."""


class DataSource(Protocol):
    """Where training pictures come from. Everything is a pure function of the seed and the step: there is no state to save."""

    def __len__(self) -> int:
        """Number of records."""
        ...

    def batch(self, step: int, *, global_batch: int, stage: Stage) -> Sequence[RecordRef]:
        """The ``global_batch`` refs of one step, all of one bucket. Pure; called on every rank, sliced by the trainer."""
        ...

    def fetch(self, refs: Sequence[RecordRef]) -> Sequence[Record]:
        """Read, decode and resize. Safe to call from several threads or processes at once.

        Raises:
            DataError: naming the file, when a record cannot be read.
        """
        ...


@runtime_checkable
class Identified(Protocol):
    """A component that stands for more than its config says, such as the files at a path. Optional: one without it is known by its config alone."""

    def identity(self) -> str:
        """One line that changes when the component would give other values. A data source's is kept with a run, which goes on only under the same."""
        ...
