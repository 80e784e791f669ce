"""Records are kept by what their columns say: compute first, threshold later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import duckdb

from ernie_core.api import DataStageContext
from ernie_data.engine.stage import BatchStage, Item, Kept, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.scoring.condition import Condition
from ernie_data.scoring.entries import SelectConfig


def build(config: SelectConfig, context: DataStageContext) -> Select:
    """
    Raises:
        ConfigError: see ``Condition``.
    """
    return Select(config, Condition(config.where, context.columns))


class Select(BatchStage):
    """No columns: a record goes on or is refused with the selection's name."""

    columns: ClassVar = {}
    batch_size = 1024

    def __init__(self, config: SelectConfig, condition: Condition) -> None:
        self.name = config.name
        self.condition = condition
        self.needs = tuple(name for name in condition.used if name != "key")
        types = " ".join(f"{name}:{condition.known[name]}" for name in sorted(condition.used))
        self.code = f"1 duckdb {duckdb.__version__} {types}"

    def many(self, items: Sequence[Item]) -> list[Kept | Refuse]:
        holds = self.condition.evaluate([item.columns for item in items])
        return [Kept({}) if selected else Refuse(ReasonCode.NOT_SELECTED, self.name) for selected in holds]
