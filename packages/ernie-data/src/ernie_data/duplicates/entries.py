"""Options of the stages `hashes` and `duplicates`. Light: no Pillow, no pyarrow."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Entry, Fraction, NonNegative


class HashesConfig(Config):
    """``use = "hashes"``: what near-duplicates are recognised by. It has no options."""


class DuplicatesConfig(Config):
    """``use = "duplicates"``: of every group of duplicates the best is kept, the others are refused. Needs ``hashes`` before it."""

    hamming: Annotated[int, Meta(ge=0, le=16)] = 8
    """Pairs whose perceptual hashes differ in at most so many of 64 bits are looked at: all of them. Each bit more makes the search several times
    longer; above ten million pictures choose 4."""
    distance: NonNegative = 0.1
    """Of those, pictures are duplicates whose small pictures differ by at most this share of their contrast. 0 leaves equal pixels only."""
    embedding_threshold: Fraction | None = None
    """Pictures whose embeddings have at least this cosine are duplicates too. Needs ``embed`` before it; nothing: embeddings are not looked at."""
    keep: tuple[str, ...] | None = None
    """Columns of numbers that decide which picture of a group is kept, the first deciding first, larger being better, then the smaller key. Nothing:
    ``score`` if a stage gives it, then the area, then ``bytes``."""


STAGES = (
    Entry("hashes", "perceptual hash and small picture, for finding duplicates", HashesConfig, "ernie_data.duplicates.hashes:build"),
    Entry("duplicates", "keep the best of each group of duplicates", DuplicatesConfig, "ernie_data.duplicates.stage:build"),
)
