"""A scorer from any plugin gives every picture a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import ConfigError, DataError, DataStageContext, Scorer, ScorerContext
from ernie_data.engine.stage import BatchStage, Item, Kept, Refuse
from ernie_data.scoring.entries import ScoreConfig
from ernie_data.stages.picture import stored_picture
from ernie_data.tables import ENGINE_COLUMNS


def build(config: ScoreConfig, context: DataStageContext) -> Score:
    """
    Raises:
        ConfigError: the column's name belongs to the engine.
        MissingComponent: no plugin offers the scorer.
    """
    if config.column in ENGINE_COLUMNS:
        raise ConfigError(f"`column`: {config.column!r} belongs to the engine; choose another name")
    return Score(config, context.build("scorers", config.scorer, ScorerContext(device=config.device)))


class Score(BatchStage):
    """One column, ``score`` unless the config names another. Its code holds the scorer's own: another scorer is another unit."""

    actor: ClassVar = True

    def __init__(self, config: ScoreConfig, scorer: Scorer) -> None:
        self.config = config
        self.scorer = scorer
        self.code = f"1 {scorer.code}"
        self.columns = {config.column: "float"}
        self.needs = () if config.prompt_style is None else ("captions",)
        self.batch_size = config.batch_size

    def many(self, items: Sequence[Item]) -> list[Kept | Refuse]:
        outcomes: list[Kept | Refuse] = []
        pictures: list[NDArray[np.uint8]] = []
        prompts: list[str] = []
        for item in items:
            try:
                pictures.append(np.asarray(stored_picture(item), np.uint8))
            except Refuse as refusal:
                outcomes.append(refusal)
                continue
            outcomes.append(Kept({}))
            if self.config.prompt_style is not None:
                prompts.append(self._prompt(item))
        scores = iter(self._scores(pictures, prompts))
        return [outcome if isinstance(outcome, Refuse) else Kept({self.config.column: next(scores)}) for outcome in outcomes]

    def _prompt(self, item: Item) -> str:
        captions = item.columns.get("captions") or {}
        if self.config.prompt_style not in captions:
            raise DataError(
                f"{item.key!r} has no caption in the style {self.config.prompt_style!r} that is to be its prompt; it has "
                f"{', '.join(sorted(captions)) or 'none'}. Select records that have one first."
            )
        return captions[self.config.prompt_style]

    def _scores(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float]:
        if not pictures:
            return []
        scores = np.asarray(self.scorer.score(pictures, None if self.config.prompt_style is None else prompts), np.float64)
        if scores.shape != (len(pictures),) or not np.isfinite(scores).all():
            raise DataError(
                f"the scorer {self.config.scorer.use!r} gave {scores.shape} scores for {len(pictures)} pictures, or not finite ones"
            )
        return scores.tolist()
