"""Options of the data sources. Light: no torch, no Pillow."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Count, PositiveInt

Aspect = Annotated[float, Meta(ge=1, le=8)]
Megapixels = Annotated[int, Meta(ge=1, le=170)]  # Pillow itself refuses pictures above 178 megapixels


class FolderConfig(Config):
    """``data = { use = "folder", path = "..." }``: pictures with captions in ``a.txt`` beside ``a.png``, or in ``metadata.jsonl`` files."""

    path: str
    styles: tuple[str, ...] = ()
    """Use only captions of these styles: ``text`` and what ``text_<style>`` columns or ``captions`` objects name. Default: all."""
    allow_empty: bool = False
    """Accept empty captions, which train the unconditional model."""
    flip: bool = False
    """Add every picture's mirror image as a second record. Captions are not changed: leave it off where left and right matter."""
    max_aspect: Aspect = 3.0
    """Longest to shortest side of the longest bucket; 1 crops everything square."""
    max_megapixels: Megapixels = 64
    """Larger pictures are refused before decoding."""
    cache_mib: Count = 256
    """Keep up to this much of decoded, resized pictures in memory. 0 decodes each time."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the folder."""


class ShapesConfig(Config):
    """``data = { use = "shapes" }``: ShapeBench rendered in memory."""

    profile: Literal["quick", "full", "bench"] = "quick"
    split: Literal["train", "validation"] = "train"
    """Both hold seen triples only; their scenes differ."""
    count: PositiveInt = 1_000_000
    """Number of different pictures."""
    seed: int = 0
    """Of the scenes. The order of the pictures follows the run's seed."""
    styles: tuple[Literal["keywords", "request", "instruction", "composition"], ...] = ()
    """Default: all four."""
    categories: tuple[str, ...] = ()
    """Only scenes of these categories: of profile ``bench`` "text" (a scene with a sign), colour and shape of an only object such as "red circle", and the
    kinds two, counting, position, binding, several. Default: all."""
