r"""How rare the words of a caption are: the textual axis of dual-axis sampling, as a column.

    caption_rarity = mean over the caption's different words of  idf(t) = log((1 + N) / (1 + n_t))

with n_t of N records whose captions have t: TF-IDF with every word of a caption counted once. Each style is judged by itself and the mean over styles
is taken, so that many styles do not make a picture rare.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from ernie_core.api import DataError, DataStageContext
from ernie_core.io import FolderWriter
from ernie_data.category.entries import RarityConfig
from ernie_data.category.names import words
from ernie_data.category.sample import ranks
from ernie_data.engine.stage import Item, Kept, RecordStage
from ernie_data.engine.view import DatasetView
from ernie_data.tables import KEY, encode_rows, read_rows

WORDS, FACTS = "words.parquet", "rarity.json"


def build(config: RarityConfig, context: DataStageContext) -> Rarity:
    return Rarity(config, context)


class Rarity(RecordStage):
    """Columns: ``caption_rarity``, in nats. Records without words in their captions have none."""

    code: ClassVar[str] = "1"
    columns: ClassVar = {"caption_rarity": "float"}
    needs: ClassVar = ("captions",)
    surveys: ClassVar = True

    def __init__(self, config: RarityConfig, context: DataStageContext) -> None:
        self.config = config
        self.folder = context.survey
        self.idf: dict[str, float] = {}
        self.unseen = 0.0

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        records, found = count_words(dataset, self.config)
        out.add_bytes(WORDS, encode_rows([{"key": w, "records": n} for w, n in sorted(found.items())], {"key": "string", "records": "int"}))
        out.add_json(FACTS, {"records": records, "words": len(found)})

    def setup(self) -> None:
        if self.folder is not None:
            self.idf, self.unseen = read_idf(self.folder)

    def one(self, item: Item) -> Kept:
        captions = item.columns.get("captions") or {}
        rarities = [r for _, text in sorted(captions.items()) if (r := self._rarity(text)) is not None]
        return Kept({"caption_rarity": round(sum(rarities) / len(rarities), 6)} if rarities else {})

    def _rarity(self, caption: str) -> float | None:
        different = sorted(set(words(caption)))
        return sum(self.idf.get(word, self.unseen) for word in different) / len(different) if different else None


def count_words(dataset: DatasetView, config: RarityConfig) -> tuple[int, Counter[str]]:
    """Records that were counted, and in how many of them each word stands.

    Raises:
        DataError: no record has a caption with words.
    """
    total = sum(len(table) for table in dataset.tables([]))
    last = np.uint64(min(2**64 - 1, int(2**64 * min(1.0, config.sample_rows / max(total, 1)))))
    records, found = 0, Counter[str]()
    for table in dataset.tables(["captions"]):
        for captions in table.filter(ranks(table.column(KEY).to_pylist(), config.seed) <= last).column("captions").to_pylist():
            texts = dict(captions.items() if isinstance(captions, Mapping) else captions or ()).values()
            if different := {word for text in texts for word in words(text)}:
                records += 1
                found.update(different)
    if not records:
        raise DataError(
            "no record has a caption with words, and their rarity was asked for; give the sources captions, or leave `rarity` out"
        )
    return records, found


def read_idf(folder: Path) -> tuple[dict[str, float], float]:
    """idf of each counted word, and of all others."""
    rows = read_rows(folder / WORDS)
    records = json.loads((folder / FACTS).read_bytes())["records"]
    return {row["key"]: float(np.log((1 + records) / (1 + row["records"]))) for row in rows}, float(np.log(1 + records))
