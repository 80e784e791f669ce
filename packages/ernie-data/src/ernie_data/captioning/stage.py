"""The ``caption`` stage: captions from the picture alone.

Columns: ``captions`` by style, which replace the source's; ``source_captions``, the source's; ``caption``, the structured caption as JSON; ``captioner``:
"shapes", "server" or "transformers", "source" where a picture keeps its source captions, "none" where it has no caption at all; ``caption_error``, why
it could not be captioned; ``text_inserted``, how many texts that OCR read were added to at least one style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ernie_core.api import DataError, DataStageContext
from ernie_data.captioning.entries import CaptionConfig
from ernie_data.captioning.quotes import confident_texts, mentions, with_texts
from ernie_data.captioning.shapes import READER_CODE, read_stored, wording_of
from ernie_data.engine.stage import BatchStage, Item, Kept, RecordStage, Refuse
from ernie_data.engine.unit import digest
from ernie_data.ocr.batch import Outcome, answered
from ernie_data.reasons import ReasonCode
from ernie_data.vision.entries import VisionConfig
from ernie_data.vision.model import VisionError, VisionModel, build_vision, vision_code
from ernie_data.vision.structure import CAPTION_INSTRUCTION, CAPTION_SCHEMA, caption_pictures, plain_captions

CODE = "1"
COLUMNS = {
    "captions": "map",
    "source_captions": "map",
    "caption": "json",
    "captioner": "string",
    "caption_error": "string",
    "text_inserted": "int",
}


def build(config: CaptionConfig, context: DataStageContext) -> ShapesCaptions | VisionCaptions:
    if config.backend == "shapes":
        return ShapesCaptions(config)
    model = config.server if config.backend == "server" else config.transformers
    if model is None:
        raise DataError(f"backend = {config.backend!r} without its options")
    return VisionCaptions(config, model)


def captioned(item: Item, captions: Mapping[str, str], structured: Mapping[str, Any], config: CaptionConfig) -> Kept:
    """The outcome for a picture that has captions now."""
    texts = confident_texts(item.columns, config.text_confidence) if config.insert_text else []
    lacking = {style: [t for t in texts if not mentions(caption, t, only_quoted=True)] for style, caption in captions.items()}
    inserted = [text for text in texts if any(text in missing for missing in lacking.values())]
    columns = {
        "captions": {style: with_texts(caption, lacking[style], style=style) for style, caption in captions.items()},
        "caption": {**structured, "text": list(dict.fromkeys((*structured.get("text", ()), *inserted)))},
        "captioner": config.backend,
        "text_inserted": len(inserted),
    }
    return Kept({**columns, **_source(item)})


def not_captioned(item: Item, why: str, config: CaptionConfig) -> Outcome:
    """The outcome for a picture that could not be captioned."""
    if config.on_error == "refuse":
        return Refuse(ReasonCode.NO_CAPTION, f"{config.backend}: {why}")
    kept = _source(item)
    captions = kept.get("source_captions")
    columns = {"captioner": "source" if captions else "none", "caption_error": f"{config.backend}: {why}"}
    return Kept({**columns, **kept, **({"captions": captions} if captions else {})})


def _source(item: Item) -> dict[str, Any]:
    found = item.columns.get("source_captions") or item.columns.get("captions")
    return {"source_captions": found} if found else {}


class ShapesCaptions(RecordStage):
    """ShapeBench-like pictures, read from pixels. A picture that is not read whole gets no caption from it: half a caption would be a wrong one."""

    code: ClassVar[str] = f"{CODE} {READER_CODE}"
    columns: ClassVar = COLUMNS

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config

    def one(self, item: Item) -> Kept:
        reading = read_stored(item.load())
        if isinstance(reading, str):
            outcome = not_captioned(item, reading, self.config)
        elif not reading.complete:
            seen = f"{len(reading.objects)} objects, of which {sum(o.named for o in reading.objects)} have a name"
            outcome = not_captioned(item, f"not read whole: {seen}", self.config)
        else:
            captions = reading.captions(index=wording_of(item.key), short=self.config.short)
            outcome = captioned(item, captions, reading.structured(), self.config)
        if isinstance(outcome, Refuse):
            raise outcome
        return outcome


class VisionCaptions(BatchStage):
    """A vision-language model, behind a server or run by transformers, that is held to a structured caption."""

    columns: ClassVar = COLUMNS
    actor: ClassVar = True

    def __init__(self, config: CaptionConfig, model: VisionConfig) -> None:
        self.config = config
        self.model_config = model
        self.batch_size = config.batch_size
        self.code = f"{CODE} {digest([CAPTION_INSTRUCTION, CAPTION_SCHEMA])} {vision_code(model)}"
        self.model: VisionModel | None = None

    def setup(self) -> None:
        self.model = build_vision(self.model_config)

    def many(self, items: Sequence[Item]) -> list[Outcome]:
        return answered(items, self._captioned)

    def _captioned(self, items: Sequence[Item], pictures: Sequence[bytes]) -> list[Outcome]:
        if self.model is None:
            raise DataError("the vision model was not set up")
        outcomes: list[Outcome] = []
        for item, answer in zip(items, caption_pictures(self.model, pictures), strict=True):
            if isinstance(answer, VisionError):
                outcomes.append(not_captioned(item, str(answer), self.config))
            else:
                outcomes.append(captioned(item, plain_captions(answer), msgspec.to_builtins(answer), self.config))
        return outcomes
