"""The stages that a build may select, with their options: as the plugin offers them. Light: no Pillow."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Entry, PositiveInt
from ernie_data.config import Aspect, Megapixels

Quality = Annotated[int, Meta(ge=1, le=100)]


class ScanConfig(Config):
    """The first stage of every build. Recipes give it no options: sources do."""

    carried: dict[str, str] = {}
    """Columns that sources bring along, with their types."""


class DecodeConfig(Config):
    """``use = "decode"``: decode, validate and normalise every picture in isolated workers, and store it."""

    max_megapixels: Megapixels = 64
    """Larger pictures are refused before decoding."""
    min_side_px: PositiveInt = 1
    """Pictures with a shorter side below it are refused."""
    max_aspect: Annotated[float, Meta(ge=1)] = 100.0
    """Pictures with a larger ratio of the longer to the shorter side are refused."""
    format: Literal["original", "jpeg", "png", "webp"] = "original"
    """What is stored: the source's own bytes, or the upright sRGB picture encoded anew (PNG and WebP without loss)."""
    quality: Quality = 95
    """Of JPEG; colour is kept at full resolution."""
    shrink_to_px: int | None = None
    """Pictures with a larger area than a square of this side are reduced to it. Needs another format than "original"."""

    def __post_init__(self) -> None:
        if self.shrink_to_px is not None and self.format == "original":
            raise ValueError('`shrink_to_px` changes pictures: choose format = "jpeg", "png" or "webp", found "original"')
        if self.shrink_to_px is not None and self.shrink_to_px < 1:
            raise ValueError(f"`shrink_to_px` must be at least 1, found {self.shrink_to_px}")


class SizeConfig(Config):
    """``use = "size"``: resolution, aspect ratio and aspect bucket as columns. Refuses nothing: selections decide later."""

    size_px: PositiveInt = 512
    """Side of the square that the buckets of the intended stage have the area of."""
    multiple_px: PositiveInt = 16
    max_aspect: Aspect = 3.0


SCAN = Entry("scan", "read and hash every source record", ScanConfig, "ernie_data.stages.scan:build")
"""The engine puts it before every chain; it is not offered to recipes."""


STAGES = (
    Entry("decode", "decode, validate, normalise and store pictures", DecodeConfig, "ernie_data.stages.decode:build"),
    Entry("size", "resolution, aspect ratio and bucket", SizeConfig, "ernie_data.stages.size:build"),
)
