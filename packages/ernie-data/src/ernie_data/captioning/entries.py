"""Options of the stages about captions, as the plugin offers them. Light."""

from __future__ import annotations

from typing import Literal

from ernie_core.api import Config, Entry, Fraction, PositiveInt
from ernie_data.ocr.entries import check_backend
from ernie_data.vision.entries import VisionServerConfig, VisionTransformersConfig


class CaptionConfig(Config):
    """``use = "caption"``: captions from the picture alone, in place of the source's, which are kept as ``source_captions``."""

    backend: Literal["shapes", "server", "transformers"] = "shapes"
    """``shapes`` reads ShapeBench-like pictures, exactly and on a CPU; ``server`` and ``transformers`` ask a vision-language model."""
    server: VisionServerConfig | None = None
    transformers: VisionTransformersConfig | None = None
    on_error: Literal["keep", "refuse"] = "keep"
    """What becomes of a picture that could not be captioned: it keeps its source captions, or is refused. ``caption_error`` says why in either case."""
    insert_text: bool = True
    """Add, in quotes, what OCR read with confidence and a caption lacks. Needs an ``ocr`` stage before it to do anything."""
    text_confidence: Fraction = 0.8
    """From which confidence on OCR is believed."""
    short: bool = False
    """Of ``shapes``: say it as people do (counts, relations) instead of every object with its place."""
    batch_size: PositiveInt = 16
    """Pictures given to a vision-language model together."""

    def __post_init__(self) -> None:
        check_backend(self.backend, self.server, self.transformers)


class FaithfulnessConfig(Config):
    """``use = "faithfulness"``: whether captions hold, verbatim, what OCR read with confidence. Refuses nothing."""

    captions: Literal["current", "source"] = "current"
    """``source``: those that a ``caption`` stage replaced."""
    text_confidence: Fraction = 0.8
    only_quoted: bool = False
    """Text counts only within quotation marks. Text of up to three letters always needs them: "A" is in most captions anyway."""


class AgreementConfig(Config):
    """``use = "agreement"``: how well the source's captions fit their pictures. Refuses nothing."""

    backend: Literal["shapes", "overlap", "server", "transformers"] = "shapes"
    """``shapes`` compares what a caption claims with what is read from the pixels. ``overlap`` counts the words of the source's caption that a
    ``caption`` stage's own caption has too: cheap and coarse, since other words can say the same. ``server`` and ``transformers`` ask a
    vision-language model which statements of a caption the picture contradicts."""
    server: VisionServerConfig | None = None
    transformers: VisionTransformersConfig | None = None
    repair: bool = False
    """Of ``shapes``: replace captions that contradict the picture, or keep silent about its text, by read ones."""

    def __post_init__(self) -> None:
        check_backend(self.backend, self.server, self.transformers)
        if self.repair and self.backend != "shapes":
            raise ValueError(f'`repair` needs backend = "shapes", found "{self.backend}"; let a `caption` stage replace captions instead')


STAGES = (
    Entry(
        "caption",
        "captions from pictures, by a reader of shapes or a vision-language model",
        CaptionConfig,
        "ernie_data.captioning.stage:build",
    ),
    Entry("faithfulness", "whether captions hold the text that OCR read", FaithfulnessConfig, "ernie_data.captioning.faithfulness:build"),
    Entry("agreement", "how well the source's captions fit their pictures", AgreementConfig, "ernie_data.captioning.agreement:build"),
)
