"""Options of the stages `score` and `select`. Light: no Pillow, no duckdb."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Entry, From, PositiveInt, Selection

Column = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class ScoreConfig(Config):
    """``use = "score"``: a scorer's number for every picture, as a column. Refuses what the scorer cannot judge; how much is enough, selections say."""

    scorer: Annotated[Selection, From("scorers")]
    column: Column = "score"
    prompt_style: str | None = None
    """The captions of this style are handed to the scorer as prompts; nothing: it sees pictures only."""
    device: Annotated[str, Meta(pattern=r"^(cpu|cuda(:[0-9]+)?)$")] = "cpu"
    batch_size: PositiveInt = 16


class SelectConfig(Config):
    """``use = "select"``: records for which an expression holds are kept."""

    where: Annotated[str, Meta(min_length=1, max_length=10_000)]
    """SQL over the columns of earlier stages, such as ``score >= 5 and megapixels > 0.25 and captions['request'] is not null``. A record for which it
    is null is not selected. It sees one record at a time: aggregates, window functions, subqueries and anything random are refused."""
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    """Why records are refused: the detail in the table of rejected records."""


STAGES = (
    Entry("score", "a scorer's number for every picture", ScoreConfig, "ernie_data.scoring.score:build"),
    Entry("select", "keep the records for which an SQL expression holds", SelectConfig, "ernie_data.scoring.select:build"),
)
