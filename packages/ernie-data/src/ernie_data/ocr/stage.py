"""The ``ocr`` stage: what is written in a picture.

Columns: ``ocr_text``, one string per line or region in reading order, empty where a picture has none; ``ocr_confidence`` beside it, in [0, 1];
``ocr_boxes``, beside it too, each [left, top, right, bottom] in pixels of the stored picture, null for a backend that gives no places; ``ocr_error``
where reading failed: the others are absent then. A vision-language model tells no confidence: its lines have 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ernie_core.api import DataError, DataStageContext
from ernie_data.captioning.shapes import READER_CODE, read_stored
from ernie_data.engine.stage import BatchStage, Item, Kept, RecordStage
from ernie_data.engine.unit import digest
from ernie_data.ocr.batch import Outcome, answered
from ernie_data.ocr.entries import OcrConfig
from ernie_data.ocr.lines import Line
from ernie_data.ocr.reader import CODE, read_text
from ernie_data.ocr.tesseract import TesseractFailed, find_tesseract
from ernie_data.vision.entries import VisionConfig
from ernie_data.vision.model import VisionError, VisionModel, build_vision, vision_code
from ernie_data.vision.pictures import open_picture
from ernie_data.vision.structure import TEXT_INSTRUCTION, TEXT_SCHEMA, read_pictures

COLUMNS = {"ocr_text": "strings", "ocr_confidence": "floats", "ocr_boxes": "json", "ocr_error": "string"}
_ANY_SIDE_PX = 1 << 20


def build(config: OcrConfig, context: DataStageContext) -> TesseractOcr | ShapesOcr | VisionOcr:
    """
    Raises:
        MissingComponent: Tesseract or a language's data is not installed.
    """
    if config.backend == "tesseract":
        return TesseractOcr(config)
    if config.backend == "shapes":
        return ShapesOcr()
    model = config.server if config.backend == "server" else config.transformers
    if model is None:
        raise DataError(f"backend = {config.backend!r} without its options")
    return VisionOcr(config, model)


def found(lines: Sequence[Line]) -> dict[str, Any]:
    return {
        "ocr_text": [line.text for line in lines],
        "ocr_confidence": [round(line.confidence, 4) for line in lines],
        "ocr_boxes": [list(line.box) for line in lines],
    }


class TesseractOcr(RecordStage):
    """Tesseract on the CPU."""

    columns: ClassVar = COLUMNS

    def __init__(self, config: OcrConfig) -> None:
        self.config = config
        names = dict.fromkeys(name for language in config.tesseract.languages for name in language.split("+"))
        self.tesseract = find_tesseract(list(names), program=config.tesseract.program)
        self.code = f"{CODE} {self.tesseract.code}"

    def one(self, item: Item) -> Kept:
        picture = open_picture(item.load(), side_px=_ANY_SIDE_PX)
        if isinstance(picture, VisionError):
            return Kept({"ocr_error": str(picture)})
        try:
            lines = read_text(picture, self.tesseract, self.config.tesseract, least_confidence=self.config.least_confidence)
        except TesseractFailed as failure:
            return Kept({"ocr_error": str(failure)})
        return Kept(found(lines))


class ShapesOcr(RecordStage):
    """The signs of ShapeBench, by their own reader. Other pictures have no text for it."""

    code: ClassVar[str] = READER_CODE
    columns: ClassVar = COLUMNS

    def one(self, item: Item) -> Kept:
        reading = read_stored(item.load())
        if isinstance(reading, str):
            return Kept({"ocr_error": reading})
        return Kept({"ocr_text": [t.text for t in reading.texts], "ocr_confidence": [1.0] * len(reading.texts)})


class VisionOcr(BatchStage):
    """A vision-language model that is asked for the writing."""

    columns: ClassVar = COLUMNS
    actor: ClassVar = True

    def __init__(self, config: OcrConfig, model: VisionConfig) -> None:
        self.model_config = model
        self.batch_size = config.batch_size
        self.code = f"1 {digest([TEXT_INSTRUCTION, TEXT_SCHEMA])} {vision_code(model)}"
        self.model: VisionModel | None = None

    def setup(self) -> None:
        self.model = build_vision(self.model_config)

    def many(self, items: Sequence[Item]) -> list[Outcome]:
        return answered(items, self._read)

    def _read(self, items: Sequence[Item], pictures: Sequence[bytes]) -> list[Kept]:
        if self.model is None:
            raise DataError("the vision model was not set up")
        outcomes = []
        for answer in read_pictures(self.model, pictures):
            if isinstance(answer, VisionError):
                outcomes.append(Kept({"ocr_error": str(answer)}))
            else:
                outcomes.append(Kept({"ocr_text": answer, "ocr_confidence": [1.0] * len(answer)}))
        return outcomes
