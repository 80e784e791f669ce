"""A scorer from any plugin gives every picture a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import ConfigError, DataError, DataStageContext, ErnieError, Scorer, ScorerContext
from ernie_data.engine.stage import BatchStage, Item, Kept, Refuse
from ernie_data.reasons import ReasonCode
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
        found = [self._seen(item) for item in items]
        seen = [entry for entry in found if not isinstance(entry, Refuse)]
        scores = iter(self._scores(seen))
        outcomes = [entry if isinstance(entry, Refuse) else next(scores) for entry in found]
        return [outcome if isinstance(outcome, Refuse) else Kept({self.config.column: outcome}) for outcome in outcomes]

    def _seen(self, item: Item) -> tuple[NDArray[np.uint8], str] | Refuse:
        """The picture and its prompt, or why there is none."""
        captions = item.columns.get("captions") or {}
        style = self.config.prompt_style
        if style is not None and style not in captions:
            has = ", ".join(sorted(captions)) or "none"
            return Refuse(ReasonCode.NOT_SCORED, f"no caption in the style {style!r} that is to be its prompt; it has {has}")
        try:
            return np.asarray(stored_picture(item), np.uint8), captions[style] if style is not None else ""
        except Refuse as refusal:
            return refusal

    def _scores(self, seen: Sequence[tuple[NDArray[np.uint8], str]]) -> list[float | Refuse]:
        """A picture that the scorer refuses costs itself, not its batch."""
        if not seen:
            return []
        try:
            return self._asked(seen)
        except DataError as error:
            if len(seen) == 1:
                return [Refuse(ReasonCode.NOT_SCORED, str(error))]
        return [self._scores([one])[0] for one in seen]

    def _asked(self, seen: Sequence[tuple[NDArray[np.uint8], str]]) -> list[float | Refuse]:
        pictures, prompts = [picture for picture, _ in seen], [prompt for _, prompt in seen]
        scores = np.asarray(self.scorer.score(pictures, None if self.config.prompt_style is None else prompts), np.float64)
        if scores.shape != (len(seen),):
            raise ErnieError(f"the scorer {self.config.scorer.use!r} gave {scores.shape} scores for {len(seen)} pictures")
        return [score if math.isfinite(score) else Refuse(ReasonCode.NOT_SCORED, f"the score is {score}") for score in scores.tolist()]
