"""Options of the ``ocr`` stage, as the plugin offers it. Light: no Pillow, nothing is started."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Entry, Fraction, Positive, PositiveInt
from ernie_data.vision.entries import VisionServerConfig, VisionTransformersConfig

Language = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]*(\+[A-Za-z][A-Za-z0-9_]*)*$")]
PageMode = Annotated[int, Meta(ge=1, le=13)]


class TesseractConfig(Config):
    """Tesseract 5 and its language data, from Debian: ``tesseract-ocr``, ``tesseract-ocr-chi-sim``."""

    program: str = "tesseract"
    languages: Annotated[tuple[Language, ...], Meta(min_length=1)] = ("eng", "chi_sim")
    """Each is read by itself, and the more confident reading of each place wins. "chi_sim+eng" lets Tesseract itself choose, word by word."""
    page_modes: Annotated[tuple[PageMode, ...], Meta(min_length=1)] = (6, 11)
    """Tesseract's page segmentation: 6 takes the picture as one block of lines, which reads pages and signs best; 11 looks for text anywhere."""
    side_px: PositiveInt = 2400
    """Pictures with a longer side are reduced to it."""
    timeout_s: Positive = 18.0
    """For one picture. It should stay below the recipe's ``run.record_timeout_s``, where a picture that takes longer is refused."""


class OcrConfig(Config):
    """``use = "ocr"``: the text in every picture as columns. Refuses nothing; a picture that could not be read has ``ocr_error``."""

    backend: Literal["tesseract", "shapes", "server", "transformers"] = "tesseract"
    """``shapes`` reads the signs of ShapeBench, exactly; ``server`` and ``transformers`` ask a vision-language model."""
    tesseract: TesseractConfig = TesseractConfig()
    server: VisionServerConfig | None = None
    transformers: VisionTransformersConfig | None = None
    least_confidence: Fraction = 0.5
    """Lines below it are left out."""
    batch_size: PositiveInt = 16
    """Pictures given to a vision-language model together."""

    def __post_init__(self) -> None:
        check_backend(self.backend, self.server, self.transformers)


def check_backend(backend: str, server: VisionServerConfig | None, transformers: VisionTransformersConfig | None) -> None:
    """
    Raises:
        ValueError: the chosen vision model has no options, or one that is not chosen has some.
    """
    for name, options in (("server", server), ("transformers", transformers)):
        if backend == name and options is None:
            raise ValueError(f'backend = "{name}" needs a table `{name}` that says which model')
        if backend != name and options is not None:
            raise ValueError(f'the table `{name}` belongs to backend = "{name}", found backend = "{backend}"')


STAGES = (Entry("ocr", "the text in every picture, with confidence and place", OcrConfig, "ernie_data.ocr.stage:build"),)
