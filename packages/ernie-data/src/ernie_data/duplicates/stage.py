"""Duplicates are refused in favour of the best of their group, which the detail names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ernie_core.api import ConfigError, DataStageContext
from ernie_core.io import FolderWriter
from ernie_data.duplicates.entries import DuplicatesConfig
from ernie_data.duplicates.survey import GROUPS, LOSERS, Survey, rows_between
from ernie_data.engine.stage import BatchStage, Item, Kept, Refuse
from ernie_data.engine.view import DatasetView
from ernie_data.reasons import ReasonCode


def build(config: DuplicatesConfig, context: DataStageContext) -> Duplicates:
    """
    Raises:
        ConfigError: columns to keep by, or embeddings, that no earlier stage gives.
    """
    if config.embedding_threshold is not None and "embedding" not in context.columns:
        raise ConfigError(
            "`embedding_threshold` compares the column `embedding`, which no earlier stage gives: put `embed` before `duplicates`"
        )
    keep = config.keep
    if keep is None:
        keep = (*(name for name in ("score",) if name in context.columns), "area", "bytes")
    for name in config.keep or ():
        if context.columns.get(name) not in ("int", "float"):
            known = ", ".join(sorted(n for n, kind in context.columns.items() if kind in ("int", "float")))
            raise ConfigError(f"`keep`: no earlier stage gives a column of numbers named {name!r}; there are {known}")
    survey = Survey(keep=keep, hamming=config.hamming, distance=config.distance, embedding_threshold=config.embedding_threshold)
    return Duplicates(survey, context.survey)


class Duplicates(BatchStage):
    """Columns: ``duplicate_group``, a kept record's own key where others were refused in its favour, and ``duplicates``, their number."""

    code: ClassVar[str] = "1"
    columns: ClassVar = {"duplicate_group": "string", "duplicates": "int"}
    needs: ClassVar = ("pixel_sha256", "phash", "thumb", "width", "height", "source_width", "source_height", "bytes")
    surveys: ClassVar = True
    batch_size = 1024

    def __init__(self, survey: Survey, found: Path | None) -> None:
        self._survey = survey
        self._found = found

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        self._survey.write(dataset, out)

    def many(self, items: Sequence[Item]) -> list[Kept | Refuse]:
        if self._found is None:
            raise RuntimeError("the survey has not been made")
        ends = min(item.key for item in items), max(item.key for item in items)
        losers = {row["key"]: row for row in rows_between(self._found / LOSERS, *ends)}
        sizes = {row["key"]: row["size"] for row in rows_between(self._found / GROUPS, *ends)}
        return [_refusal(losers[item.key]) if item.key in losers else _kept(item.key, sizes.get(item.key, 1)) for item in items]


def _refusal(row: dict) -> Refuse:
    return Refuse(ReasonCode.DUPLICATE, f"{row['kind']} of {row['winner']}, distance {row['distance']:.4g}")


def _kept(key: str, size: int) -> Kept:
    return Kept({"duplicates": size - 1, **({"duplicate_group": key} if size > 1 else {})})
