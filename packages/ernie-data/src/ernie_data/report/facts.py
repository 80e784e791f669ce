"""The numbers of a report, read in one pass over the accepted records and one over the rejected ones.

Memory holds a few numbers per record (8 bytes for each numeric column), never a picture, caption or embedding of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ernie_data.reading.dataset import Dataset
from ernie_data.reading.trail import named_in
from ernie_data.reasons import ReasonCode
from ernie_data.tables import KEY

UNNAMED = "(none)"
_MOST_DUPLICATES = 200_000
_EXAMPLES = 8
_COUNTS = ("width", "height", "bytes")
"""Whole numbers that are shown; others, such as how many texts were looked for, are for queries."""


@dataclass(frozen=True)
class Rejection:
    """One refused record."""

    key: str
    stage: str
    reason: str
    detail: str


@dataclass
class Facts:
    """N accepted records, in the order of the dataset.

    Attributes:
        category, score: the columns that sampling goes by.
        numbers: column of measured numbers -> one value per record, NaN where it is null.
        category_N: numbers into ``categories``; empty without such a column.
        buckets: bucket -> records.
        lengths: caption style -> length in characters of each caption of that style.
        captioned: records with at least one caption.
        lettered: records in which OCR found text.
        examples: (stage, reason) -> the first few records.
        duplicates: refused as duplicates, at most ``_MOST_DUPLICATES``.
    """

    category: str = "category"
    score: str = "score"
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    category_N: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    categories: tuple[str, ...] = ()
    buckets: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    captioned: int = 0
    lettered: int = 0
    accepted: int = 0
    examples: dict[tuple[str, str], list[Rejection]] = field(default_factory=dict)
    duplicates: list[Rejection] = field(default_factory=list)

    @property
    def score_N(self) -> NDArray[np.float64] | None:
        """None where no record has a score."""
        return self.numbers.get(self.score)


def gather(dataset: Dataset) -> Facts:
    """Categories and scores are those that the build's index was made with, if it has one.

    Raises:
        DataError: tables that are damaged.
    """
    options = dataset.about.get("index", {}).get("options", {})
    facts = Facts(category=options.get("category", "category"), score=options.get("score", "score"))
    _gather_accepted(dataset, facts)
    _gather_rejected(dataset, facts)
    return facts


def _gather_accepted(dataset: Dataset, facts: Facts) -> None:
    kinds = dataset.columns
    numeric = [name for name, kind in kinds.items() if kind == "float" or (kind == "int" and name in (*_COUNTS, facts.score))]
    others = [name for name in (facts.category, "bucket", "captions", "ocr_text") if name in kinds]
    numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in numeric}
    codes: list[NDArray[np.int64]] = []
    names: dict[str, int] = {}
    lengths: dict[str, list[NDArray[np.int64]]] = {}
    for table in dataset.tables([KEY, *numeric, *others]):
        facts.accepted += len(table)
        for name in numeric:
            numbers[name].append(np.asarray(table.column(name).cast(pa.float64()).fill_null(np.nan), np.float64))
        if facts.category in others:
            codes.append(_codes(table.column(facts.category), names))
        if "bucket" in others:
            facts.buckets.update({v["values"] or UNNAMED: v["counts"] for v in table.column("bucket").value_counts().to_pylist()})
        if "captions" in others:
            facts.captioned += _caption_lengths(table.column("captions").combine_chunks(), lengths)
        if "ocr_text" in others:
            facts.lettered += int(pc.sum(pc.greater(pc.list_value_length(table.column("ocr_text")), 0)).as_py() or 0)
    facts.numbers = {n: joined for n, parts in numbers.items() if parts and np.isfinite(joined := np.concatenate(parts)).any()}
    facts.category_N = np.concatenate(codes) if codes else facts.category_N
    facts.categories = tuple(names)
    facts.lengths = {style: np.concatenate(parts) for style, parts in sorted(lengths.items())}


def _codes(column: pa.ChunkedArray, names: dict[str, int]) -> NDArray[np.int64]:
    encoded = column.fill_null(UNNAMED).combine_chunks().dictionary_encode()
    of = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int64)
    return of[np.asarray(encoded.indices, np.int64)] if len(of) else np.empty(0, np.int64)


def _caption_lengths(captions: pa.MapArray, lengths: dict[str, list[NDArray[np.int64]]]) -> int:
    """Adds the lengths by style; returns the number of records with a caption."""
    styles = captions.keys.dictionary_encode()
    length = np.asarray(pc.utf8_length(captions.items).fill_null(0), np.int64)
    index = np.asarray(styles.indices, np.int64)
    for number, style in enumerate(styles.dictionary.to_pylist()):
        lengths.setdefault(style, []).append(length[index == number])
    return int(np.count_nonzero(np.diff(np.asarray(captions.offsets))))


def _gather_rejected(dataset: Dataset, facts: Facts) -> None:
    for table in dataset.tables([KEY, "stage", "error", "detail"], which="rejected"):
        for row in table.to_pylist():
            rejection = Rejection(row[KEY], row["stage"], row["error"], row["detail"] or "")
            shown = facts.examples.setdefault((rejection.stage, rejection.reason), [])
            if len(shown) < _EXAMPLES:
                shown.append(rejection)
            if rejection.reason == ReasonCode.DUPLICATE and len(facts.duplicates) < _MOST_DUPLICATES:
                facts.duplicates.append(rejection)


def groups_of(duplicates: list[Rejection], dataset: Dataset) -> Mapping[str, list[str]]:
    """Winner -> the records that lost to it, for those whose detail names the winner."""
    words = {r.key: named_in(r.detail) for r in duplicates}
    known = dataset.locate(word for some in words.values() for word in some)
    groups: dict[str, list[str]] = {}
    for rejection in duplicates:
        winner = next((word for word in words[rejection.key] if word in known), None)
        if winner is not None:
            groups.setdefault(winner, []).append(rejection.key)
    return groups
