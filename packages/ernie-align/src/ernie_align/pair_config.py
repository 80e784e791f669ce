"""Options of the data source `pairs` and of ``ernie align pairs build``. Light: no torch."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Count, Entry, Fraction, From, NonNegative, Positive, PositiveInt, Selection


class PairsConfig(Config):
    """Pairs from one or more folders that ``ernie align pairs`` wrote."""

    path: str | Annotated[tuple[str, ...], Meta(min_length=1)]
    """A folder, or several that are read as one, such as the rounds of an on-policy refresh."""
    min_margin: NonNegative | None = None
    """Leave out pairs whose margin is smaller. Margins of one builder's settings can be compared, those of different annotators cannot."""
    max_megapixels: PositiveInt = 64
    """Larger pictures are refused by their header, before they are decoded."""


class PairBuildConfig(Config):
    """How pairs are sampled, scored and chosen. The file of ``ernie align pairs build --config``."""

    scorers: Annotated[tuple[Annotated[Selection, From("scorers")], ...], Meta(min_length=1)]
    weights: tuple[Positive, ...] = ()
    """One per scorer; by default all count the same."""
    images_per_prompt: Annotated[int, Meta(ge=2)] = 4
    seed: Count = 0
    """Image n of all starts from the noise of ``seed`` + n, in round r of ``seed`` + r 2^32 + n."""
    batch_size: PositiveInt = 4
    """Pictures sampled and scored at a time."""
    sampler: Annotated[Selection, From("samplers")] = Selection("euler")
    steps: PositiveInt | None = None
    """Of the sampler; by default what the checkpoint says, as of the two options below."""
    guidance_scale: Annotated[float, Meta(ge=0)] | None = None
    size_px: tuple[PositiveInt, PositiveInt] | None = None
    """Width and height."""
    min_margin: NonNegative = 0.0
    """Least difference of scores, in the scorer's unit; of several scorers in standard deviations among the pictures of a prompt."""
    quantile: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the chosen pairs that is dropped again, those with the smallest margins."""
    min_agreement: Fraction = 1.0
    """Share of the scorers, by weight, that must prefer the winner; one that finds both equal counts half."""
    min_difference: Fraction = 0.02
    """Pictures that differ by less are no pair: root mean square of thumbnails of 16 x 16 pixels, as a share of the range of values."""
    pairs_per_prompt: PositiveInt = 1
    reuse_pictures: bool = False
    """Whether a picture may be in several pairs of its prompt."""

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.scorers):
            raise ValueError(f"`weights` has {len(self.weights)} numbers for {len(self.scorers)} scorers; expected one each, or none")
        for name in ("min_margin", "guidance_scale"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"`{name}` must be a finite number, found {value}")


DATA_SOURCES = (
    Entry("pairs", "preference pairs: a chosen and a rejected picture per prompt", PairsConfig, "ernie_align.pairs.source:build"),
)
