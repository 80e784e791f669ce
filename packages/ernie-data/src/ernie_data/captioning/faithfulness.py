"""The ``faithfulness`` stage: does a caption hold, verbatim, the text that OCR read with confidence?

Columns: ``faithfulness``, the share of (text, style) pairs whose caption has the text, 1 where there is no text to have and absent where the picture
could not be read or has no caption; ``missing_text``, the texts that at least one style lacks; ``text_expected``, how many texts were looked for.
"""

from __future__ import annotations

from typing import ClassVar

from ernie_core.api import DataStageContext
from ernie_data.captioning.entries import FaithfulnessConfig
from ernie_data.captioning.quotes import confident_texts, mentions
from ernie_data.engine.stage import Item, Kept, RecordStage


def build(config: FaithfulnessConfig, context: DataStageContext) -> Faithfulness:
    return Faithfulness(config)


class Faithfulness(RecordStage):
    code: ClassVar[str] = "1"
    columns: ClassVar = {"faithfulness": "float", "missing_text": "strings", "text_expected": "int"}
    needs: ClassVar = ("ocr_text", "ocr_confidence", "captions")

    def __init__(self, config: FaithfulnessConfig) -> None:
        self.config = config

    def one(self, item: Item) -> Kept:
        captions = item.columns.get("captions")
        if self.config.captions == "source":
            captions = item.columns.get("source_captions") or captions
        if not captions or "ocr_text" not in item.columns:
            return Kept({})
        texts = confident_texts(item.columns, self.config.text_confidence)
        held = {t: [mentions(c, t, only_quoted=self.config.only_quoted) for c in captions.values()] for t in texts}
        share = sum(map(sum, held.values())) / (len(texts) * len(captions)) if texts else 1.0
        missing = [text for text, by_style in held.items() if not all(by_style)]
        return Kept({"faithfulness": round(share, 6), "missing_text": missing, "text_expected": len(texts)})
