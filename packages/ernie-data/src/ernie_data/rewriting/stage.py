"""The stage ``rewrite``: four prompt styles of every record's caption, by a language model under the contract or by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ernie_core.api import DataStageContext
from ernie_core.rng import Rng
from ernie_data.engine.stage import BatchStage, Item, Kept, Refuse
from ernie_data.engine.unit import digest
from ernie_data.rewriting.backend import INSTRUCTION, SCHEMA, LanguageModel, ask, backend_code, build_model
from ernie_data.rewriting.contract import Broken, RewriteReason, lost, repaired, required
from ernie_data.rewriting.entries import RewriteConfig
from ernie_data.rewriting.parts import Parts, parts_of_caption, parts_of_text
from ernie_data.rewriting.rules import STYLES, WORDINGS, rewrite
from ernie_data.vision.structure import StructuredCaption, as_description

RULES = "rules 1"
_PREFERRED = ("text", "composition")


def build(config: RewriteConfig, context: DataStageContext) -> Rewrite:
    return Rewrite(config)


@dataclass(frozen=True)
class Source:
    """What is rewritten: the prose, and the structured caption if that is where it is from. ``contents`` must stay verbatim."""

    prose: str
    structured: StructuredCaption | None
    contents: tuple[str, ...]


class Rewrite(BatchStage):
    """Columns: ``captions`` (the four styles, and the source's others), ``original_captions`` (all that the record had), ``rewriter`` (who wrote
    them), ``rewrite_fallback`` (a ``RewriteReason`` where rules stood in for a model, or the caption was taken over as it is) and
    ``rewrite_repaired`` (a model lost quoted text, which was added at the end).

    Every style of every record holds every quoted string of the caption letter by letter: checked at the end, whoever wrote it.
    """

    columns: ClassVar = {
        "captions": "map",
        "original_captions": "map",
        "rewriter": "string",
        "rewrite_fallback": "string",
        "rewrite_repaired": "bool",
    }
    needs: ClassVar = ("captions",)
    batch_size: ClassVar[int] = 16

    def __init__(self, config: RewriteConfig) -> None:
        self.config = config
        self.actor = config.model is not None
        self.writer = backend_code(config.model) if config.model is not None else RULES
        self.code = f"{RULES} {digest([INSTRUCTION, SCHEMA])} {self.writer}"
        self._model: LanguageModel | None = None

    def setup(self) -> None:
        self._model = build_model(self.config.model) if self.config.model is not None else None

    def teardown(self) -> None:
        self._model = None

    def many(self, items: Sequence[Item]) -> list[Kept | Refuse]:
        sources = [source_of(item.columns, self.config.source) for item in items]
        there = [n for n, source in enumerate(sources) if source is not None]
        asked: dict[int, tuple[dict[str, str], bool] | Broken] = {}
        if self._model is not None:
            prose = [sources[n].prose for n in there if sources[n] is not None]
            found = ask(self._model, prose, retries=self.config.retries, max_characters=self.config.max_characters)
            asked = dict(zip(there, found, strict=True))
        return [self._kept(item, source, asked.get(n)) for n, (item, source) in enumerate(zip(items, sources))]

    def _kept(self, item: Item, source: Source | None, answer: tuple[dict[str, str], bool] | Broken | None) -> Kept:
        original = dict(item.columns.get("captions", {}))
        if source is None:
            return Kept({"rewrite_fallback": str(RewriteReason.NO_CAPTION)})
        writer, reason, mended = self.writer, "", False
        if answer is None or isinstance(answer, Broken):
            styles, reason = self._by_rules(item.key, source)
            writer = RULES
            reason = str(answer.reason) if isinstance(answer, Broken) else reason
        else:
            styles, mended = answer
            if any(lost(text, source.contents) for text in styles.values()):
                styles, _ = self._by_rules(item.key, source)
                writer, reason, mended = RULES, str(RewriteReason.QUOTES), False
        others = {style: text for style, text in original.items() if style not in STYLES} if self.config.keep_original else {}
        columns: dict[str, Any] = {"captions": {**others, **styles}, "original_captions": original, "rewriter": writer}
        return Kept({**columns, "rewrite_repaired": mended, **({"rewrite_fallback": reason} if reason else {})})

    def _by_rules(self, key: str, source: Source) -> tuple[dict[str, str], str]:
        parts = parts_of_caption(source.structured) if source.structured is not None else parts_of_text(source.prose)
        if parts is None:
            return dict.fromkeys(STYLES, source.prose), str(RewriteReason.LANGUAGE)
        return by_rules(parts, source.contents, seed=self.config.seed, key=key), ""


def by_rules(parts: Parts, contents: tuple[str, ...], *, seed: int, key: str) -> dict[str, str]:
    """The four styles; the wordings are drawn for the record. Quoted text that a style left out is added to it."""
    draws = Rng(seed).at(f"rewrite-wording/{key}", 0)
    styles = rewrite(parts, wordings=[draws.integer(i, WORDINGS) for i in range(2)])
    return {style: repaired(text, contents, chinese=parts.chinese) for style, text in styles.items()}


def source_of(columns: Mapping[str, Any], style: str = "") -> Source | None:
    """What of a record is rewritten: its structured caption if it has one and no style is named, else one of its captions."""
    structured = columns.get("caption")
    if not style and isinstance(structured, dict):
        try:
            caption = msgspec.convert(structured, StructuredCaption)
        except msgspec.ValidationError:
            caption = None  # another caption model's
        if caption is not None:
            prose = as_description(caption)
            return Source(prose, caption, tuple(dict.fromkeys((*caption.text, *required(prose)))))
    captions = {name: text for name, text in columns.get("captions", {}).items() if text.strip()}
    if style:
        text = captions.get(style, "")
    else:
        text = next((captions[name] for name in _PREFERRED if name in captions), max(captions.values(), key=len, default=""))
    return Source(text, None, required(text)) if text else None
