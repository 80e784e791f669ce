"""The first stage: every source record is read once and hashed, so that all later stages are named by content and can tell a changed source."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from ernie_core.api import DataStageContext
from ernie_data.engine.stage import Item, Kept, RecordStage
from ernie_data.stages.entries import ScanConfig


def build(config: ScanConfig, context: DataStageContext) -> Scan:
    return Scan(config)


class Scan(RecordStage):
    """Columns: ``sha256`` and ``bytes`` of the source record, ``captions`` by style, ``caption_error`` where captions could not be used, and those
    that sources bring along.
    """

    code: ClassVar[str] = "1"
    own: ClassVar = {"sha256": "string", "bytes": "int", "captions": "map", "caption_error": "string"}

    def __init__(self, config: ScanConfig) -> None:
        self.columns = {**self.own, **config.carried}
        self.taken = ("captions", "caption_error", *config.carried)

    def one(self, item: Item) -> Kept:
        data = item.load()
        kept = {name: item.columns[name] for name in self.taken if name in item.columns}
        return Kept({"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **kept})
