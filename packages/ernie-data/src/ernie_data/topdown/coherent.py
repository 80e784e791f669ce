"""The stage ``coherent``: of each domain the best scored records that are near its core and not too much of the same.

Per domain, in this order, so that each criterion works on what the one before left:

1. by score: the best ``best`` of them (those equal to the last one stay, too);
2. by coherence: the cosine of a record's embedding with the domain's core, which is the mean direction of its embeddings after those farthest from it
   were left out twice (a trimmed mean: strays do not move it); the nearest ``coherence`` stay;
3. greedily from the best score on: at most ``per_category`` of a category, ``apart`` from all that were taken, until ``take`` are.

The choice depends on the dataset and the options alone: ties are broken by key, and no product of matrices, whose rounding may depend on the machine's
threads, decides anything. Every record that is not taken has its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError, DataStageContext
from ernie_data.category.vectors import EMBEDDING, matrix, scaled
from ernie_data.engine.stage import Item, Kept, RecordStage, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.tables import KEY, encode_rows, read_rows
from ernie_data.topdown.entries import CoherentConfig

if TYPE_CHECKING:
    from pathlib import Path

    from ernie_core.io import FolderWriter
    from ernie_data.engine.view import DatasetView

VERDICTS = "verdicts.parquet"
_COLUMNS = {"key": "string", "rank": "int", "coherence": "float", "reason": "string", "detail": "string"}
_TRIMMED = 0.2
_TRIMS = 2


def build(config: CoherentConfig, context: DataStageContext) -> Coherent:
    return Coherent(config, context)


@dataclass(frozen=True)
class Member:
    """A record of a domain, as far as it was looked at. ``x_D`` has length 1; None: the record has no embedding, or none is needed."""

    key: str
    score: float | None
    category: str
    x_D: NDArray[np.float64] | None


@dataclass(frozen=True)
class Verdict:
    """``rank``: from 1, the best of the domain; 0: refused with ``reason``."""

    key: str
    rank: int = 0
    coherence: float | None = None
    reason: str = ""
    detail: str = ""


class Coherent(RecordStage):
    """Columns: ``domain_rank`` (1 is the best of its domain) and ``coherence`` (cosine with the domain's core; absent if it was not asked for)."""

    columns: ClassVar = {"domain_rank": "int", "coherence": "float"}
    surveys: ClassVar = True

    def __init__(self, config: CoherentConfig, context: DataStageContext) -> None:
        self.config = config
        self.code = f"1 numpy {np.__version__}"
        self.needs = (
            "domain",
            *(("score",) if config.best < 1 else ()),
            *((EMBEDDING,) if _compares(config) else ()),
            *(("category",) if config.per_category else ()),
        )
        self.folder: Path | None = context.survey
        self.verdicts: dict[str, Verdict] = {}

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        domains: dict[str, list[Member]] = {}
        wanted = ["domain", "score", "category", *((EMBEDDING,) if _compares(self.config) else ())]
        for table in dataset.tables(wanted):
            vectors = _vectors(table) if _compares(self.config) else [None] * len(table)
            columns = (table.column(name).to_pylist() for name in (KEY, "domain", "score", "category"))
            for key, domain, score, category, x_D in zip(*columns, vectors):
                domains.setdefault(domain, []).append(Member(key, score, category or "", x_D))
        judged = {domain: judge(members, self.config) for domain, members in sorted(domains.items())}
        verdicts = [verdict for found in judged.values() for verdict in found]
        rows = [{name: getattr(v, name) for name in _COLUMNS} for v in sorted(verdicts, key=lambda v: v.key)]
        out.add_bytes(VERDICTS, encode_rows(rows, _COLUMNS))
        out.add_json(
            "domains.json", {domain: dict(sorted(Counter(v.reason or "taken" for v in found).items())) for domain, found in judged.items()}
        )

    def setup(self) -> None:
        if self.folder is not None:
            self.verdicts = {row["key"]: Verdict(**row) for row in read_rows(self.folder / VERDICTS)}

    def one(self, item: Item) -> Kept:
        verdict = self.verdicts.get(item.key)
        if verdict is None:
            raise DataError(f"{item.key}: the survey of `coherent` does not know this record; build again")
        if verdict.reason:
            raise Refuse(ReasonCode(verdict.reason), verdict.detail)
        return Kept({"domain_rank": verdict.rank, **({} if verdict.coherence is None else {"coherence": verdict.coherence})})


def judge(members: Sequence[Member], config: CoherentConfig) -> list[Verdict]:
    """A verdict for each member of one domain."""
    refused: list[Verdict] = []

    def refuse(member: Member, reason: ReasonCode, detail: str, coherence: float | None = None) -> None:
        refused.append(Verdict(member.key, 0, coherence, str(reason), detail))

    left = list(members)
    if config.best < 1:
        scores = sorted((m.score for m in left if m.score is not None), reverse=True)
        least = scores[math.ceil(config.best * len(scores)) - 1] if scores else math.inf
        for member in left:
            if member.score is None or member.score < least:
                refuse(
                    member,
                    ReasonCode.LOW_SCORE,
                    "no score" if member.score is None else f"{member.score:g}, at least {least:g} in its domain",
                )
        left = [m for m in left if m.score is not None and m.score >= least]
    near: dict[str, float] = {}
    if _compares(config):
        for member in left:
            if member.x_D is None:
                refuse(member, ReasonCode.NOT_COHERENT, "no embedding")
        left = [m for m in left if m.x_D is not None]
        near = dict(zip((m.key for m in left), _coherence(left)))
        values = sorted(near.values(), reverse=True)
        edge = values[math.ceil(config.coherence * len(values)) - 1] if values else -1.0
        for member in left:
            if near[member.key] < edge:
                detail = f"cosine {near[member.key]:.4f} with the core of its domain, at least {edge:.4f}"
                refuse(member, ReasonCode.NOT_COHERENT, detail, near[member.key])
        left = [m for m in left if near[m.key] >= edge]
    left.sort(key=lambda m: (-(m.score if m.score is not None else -math.inf), -near.get(m.key, 0.0), m.key))
    taken: list[Member] = []
    of_category: Counter[str] = Counter()
    for member in left:
        if len(taken) == config.take:
            refuse(member, ReasonCode.DOMAIN_FULL, f"{config.take} better ones", near.get(member.key))
        elif config.per_category and of_category[member.category] == config.per_category:
            detail = f"{config.per_category} better ones of the category {member.category!r}"
            refuse(member, ReasonCode.NOT_DIVERSE, detail, near.get(member.key))
        elif (twin := _twin(member, taken, config.apart)) is not None:
            refuse(member, ReasonCode.NOT_DIVERSE, f"close to {twin}, which is better", near.get(member.key))
        else:
            taken.append(member)
            of_category[member.category] += 1
    return [Verdict(m.key, rank, near.get(m.key)) for rank, m in enumerate(taken, start=1)] + refused


def _compares(config: CoherentConfig) -> bool:
    return config.coherence < 1 or config.apart > 0


def _vectors(table: Any) -> list[NDArray[np.float64] | None]:
    column = table.column(EMBEDDING)
    there = column.is_valid().to_pylist()
    if not any(there):
        return [None] * len(table)
    rows = iter(scaled(matrix(column.drop_null(), first_key=str(table.column(KEY)[0])), normalise=True).astype(np.float64))
    return [next(rows) if valid else None for valid in there]


def _coherence(members: Sequence[Member]) -> list[float]:
    """Cosine of each member with the domain's core, rounded so that it is the same everywhere."""
    x_ND = np.array([member.x_D for member in members])
    if not len(x_ND):
        return []
    kept = np.arange(len(x_ND))
    for _ in range(_TRIMS):
        near_N = _cosines(x_ND, x_ND[kept].mean(0))
        kept = np.sort(np.argsort(-near_N, kind="stable")[: max(1, math.ceil((1 - _TRIMMED) * len(x_ND)))])
    return _cosines(x_ND, x_ND[kept].mean(0)).tolist()


def _cosines(x_ND: NDArray[np.float64], core_D: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.sqrt((core_D * core_D).sum()))
    return np.round((x_ND * core_D).sum(1) / (length or 1.0), 6)


def _twin(member: Member, taken: Sequence[Member], apart: float) -> str | None:
    """The first of ``taken`` that is nearer than ``apart``."""
    if not apart or not taken or member.x_D is None:
        return None
    near_T = np.round((np.array([other.x_D for other in taken]) * member.x_D).sum(1), 6)
    close = np.flatnonzero(1 - near_T < apart)
    return taken[int(close[0])].key if len(close) else None
