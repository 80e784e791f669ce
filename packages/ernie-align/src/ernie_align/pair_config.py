"""Options of the data source `pairs`, and its entry. Light: no torch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Entry, NonNegative, PositiveInt


class PairsConfig(Config):
    """Pairs from one or more folders that ``ernie align pairs`` wrote."""

    path: str | Annotated[tuple[str, ...], Meta(min_length=1)]
    """A folder, or several that are read as one, such as the rounds of an on-policy refresh."""
    min_margin: NonNegative | None = None
    """Leave out pairs whose margin is smaller. Margins of one builder's settings can be compared, those of different annotators cannot."""
    max_megapixels: PositiveInt = 64
    """Larger pictures are refused by their header, before they are decoded."""


DATA_SOURCES = (
    Entry("pairs", "preference pairs: a chosen and a rejected picture per prompt", PairsConfig, "ernie_align.pairs.source:build"),
)
