"""Options of what ShapeBench offers to the plugin host, and of its writer of flawed sets. Light: no torch, no Pillow."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Fraction, NonNegative, PositiveInt

DEFECTS = ("wrong_caption", "missing_text", "duplicate", "near_duplicate", "corrupt", "low_quality")
"""What can be wrong with one file; every file has at most one defect."""


class ShapesQualityConfig(Config):
    """``use = "shapes-quality"``: the known quality law of ShapeBench, read from pixels. It has no options."""


Style = Literal["keywords", "request", "instruction", "composition"]
Tag = Literal["single", "two", "counting", "colours", "position", "binding", "text"]


class ShapeBenchConfig(Config):
    """``ernie eval --suite shapebench``."""

    profile: Literal["quick", "full", "bench"] = "bench"
    """The world that the model was trained on; ``quick`` and ``full`` have prompts of single objects only."""
    prompts_per_tag: PositiveInt = 48
    """Of each tag as often held-out and as often seen."""
    tags: tuple[Tag, ...] = ()
    """Empty: all of the profile."""
    styles: Annotated[tuple[Style, ...], Meta(min_length=1)] = ("keywords", "request", "instruction", "composition")
    """Of captions; they take turns."""
    held_out: Literal["both", "only", "none"] = "both"
    """Prompts whose combinations no training caption makes, others, or both."""
    seed: int = 0
    """Which prompts are drawn; results with different seeds are not of the same prompts."""


class ShapesAgreementConfig(Config):
    """``use = "shapes-agreement"``: how much of its prompt a picture bears out, by the exact verifier. Needs prompts in ShapeBench's wordings."""

    profile: Literal["quick", "full", "bench"] = "bench"
    """Whose cells and colours the picture is read by."""
    parts: tuple[Literal["count", "shape", "colour", "position", "text"], ...] = ()
    """Only these count: ``["colour", "position"]`` is a law of colour and place that leaves the shape open. Empty: all that the prompt speaks of, and 1
    only if there is nothing else."""


class DefectPlan(Config):
    """What is planted in a raw set. Shares are of all files; every file has at most one defect, so they must sum to at most 1.

    Bias in what the pictures show is no defect of a file: it is in every file's category.
    """

    profile: Literal["quick", "full", "bench"] = "bench"
    count: PositiveInt = 2000
    """Files, those with defects included."""
    size_px: Annotated[int, Meta(ge=16, le=256)] = 64
    seed: int = 0
    split: Literal["train", "validation"] = "train"

    wrong_captions: Fraction = 0.0
    """The captions of another scene, which claim something else."""
    missing_text: Fraction = 0.0
    """Share of the otherwise sound pictures with a sign whose captions say nothing of it."""
    duplicates: Fraction = 0.0
    """Equal bytes under another name."""
    near_duplicates: Fraction = 0.0
    """The same picture as JPEG, resized by a few per cent, brighter or darker, or without its outermost pixels."""
    corrupt: Fraction = 0.0
    """Cut off, overwritten with zeros, something else, or with a flipped bit in the header."""
    low_quality: Fraction = 0.0
    """With a flaw of strength .5 to 1."""

    sound_quality: Fraction = 1.0
    """Pictures that are not of low quality have a quality uniform on [this, 1]."""
    over_represented: Fraction = 0.0
    """At least this share of scenes begins with ``over_colour`` and ``over_shape``."""
    over_colour: str = "red"
    over_shape: str = "circle"
    zipf: NonNegative = 0.0
    """The (shape, colour) of rank r, in an order drawn from the seed, has the weight r^-zipf. 0: uniform."""
    counts_zipf: NonNegative = 0.0
    """The same of the number of objects of counting scenes: n has the weight (n - 1)^-counts_zipf."""

    def __post_init__(self) -> None:
        planted = self.wrong_captions + self.duplicates + self.near_duplicates + self.corrupt + self.low_quality
        if planted > 1:
            raise ValueError(f"the shares of defects sum to {planted:g}; they must leave 1 or less")
        if planted == 1 and self.duplicates + self.near_duplicates > 0:
            raise ValueError("the shares of defects sum to 1, which leaves no sound picture to duplicate")
