"""Four prompt styles out of a caption's parts, by rules: no model, no downloads. English and Chinese. Light.

========== =============================================================================================
keywords   subject and key phrases with commas; writing in quotes; light and style last
request    what somebody would ask for: the subject, a few things that matter, what is to be written
instruction what is to be done, step by step, with where each piece of writing goes
composition the whole description, cleaned
========== =============================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ernie_data.rewriting.parts import Lettering, Parts
from ernie_data.rewriting.phrases import Phrase, english_phrases
from ernie_data.rewriting.quotes import FIRST_SLOT, is_slot, slots_of
from ernie_data.rewriting.words import MEASURE_ZH

STYLES = ("keywords", "request", "instruction", "composition")
_REQUEST_PHRASES = 4
_INSTRUCTION_PHRASES = 8
_KEYWORD_SUBJECT_WORDS = 8
WORDINGS = 3


@dataclass(frozen=True)
class Wordings:
    """What a language says around the parts; one entry of each per wording. ``{s}``: the subject, ``{p}``: phrases, ``{t}``: writing."""

    request_phrase: tuple[str, ...]
    request_sentence: tuple[str, ...]
    request_details: tuple[str, ...]
    request_text: tuple[str, ...]
    request_style: tuple[str, ...]
    instruction_phrase: tuple[str, ...]
    instruction_sentence: tuple[str, ...]
    instruction_details: tuple[str, ...]
    instruction_text: tuple[str, ...]
    instruction_light: tuple[str, ...]
    instruction_style: tuple[str, ...]
    keyword_text: str
    comma: str
    last: str
    text_comma: str
    text_last: str
    gap: str
    semicolon: str
    colon: str


ENGLISH = Wordings(
    request_phrase=("Can you make {s}?", "I'd like {s}, please.", "Could you create {s} for me?"),
    request_sentence=(
        "Can you make a picture like this: {s}.",
        "I'd like a picture like this, please: {s}.",
        "Could you create this for me: {s}.",
    ),
    request_details=("I want to see {p}.", "It should have {p}.", "Please include {p}."),
    request_text=("It should say {t}.", "The text should read {t}.", "I need the words {t} on it."),
    request_style=("I'm after this look: {p}.", "For the look, think {p}.", "Style: {p}."),
    instruction_phrase=("Create {s}.", "Generate {s}.", "Draw {s}."),
    instruction_sentence=("Create this picture: {s}.", "Generate this picture: {s}.", "Draw this: {s}."),
    instruction_details=("Include {p}.", "Show {p}.", "Put in {p}."),
    instruction_text=(
        "Write these texts exactly as given: {t}.",
        "Render the following text letter by letter: {t}.",
        "Set this text verbatim: {t}.",
    ),
    instruction_light=("Light it with {p}.", "Lighting: {p}.", "For the light, use {p}."),
    instruction_style=("Style: {p}.", "Keep to this style: {p}.", "Use this style: {p}."),
    keyword_text="text {t}",
    comma=", ",
    last=" and ",
    text_comma=", ",
    text_last=" and ",
    gap=" ",
    semicolon="; ",
    colon=" ",
)
CHINESE = Wordings(
    request_phrase=("能帮我画{s}吗？", "我想要{s}。", "请帮我生成{s}。"),
    request_sentence=("能帮我画这样一幅图吗：{s}。", "我想要这样一张图：{s}。", "请帮我生成这样一张图：{s}。"),
    request_details=("画面里要有{p}。", "希望能看到{p}。", "最好包含{p}。"),
    request_text=("上面要写{t}。", "图中的文字是{t}。", "文字内容要有{t}。"),
    request_style=("整体感觉是{p}。", "风格希望是{p}。", "风格：{p}。"),
    instruction_phrase=("绘制{s}。", "生成{s}。", "创作{s}。"),
    instruction_sentence=("按以下内容绘制：{s}。", "按以下内容生成图片：{s}。", "按以下内容创作：{s}。"),
    instruction_details=("画面中包含：{p}。", "画出{p}。", "加入{p}。"),
    instruction_text=("逐字写出以下文字：{t}。", "文字须与此完全一致：{t}。", "准确呈现以下文字：{t}。"),
    instruction_light=("用光：{p}。", "光影：{p}。", "光影表现为{p}。"),
    instruction_style=("风格：{p}。", "保持这种风格：{p}。", "采用的风格：{p}。"),
    keyword_text="文字{t}",
    comma="，",
    last="，还有",
    text_comma="、",
    text_last="和",
    gap="",
    semicolon="；",
    colon="",
)


def rewrite(parts: Parts, *, wordings: Sequence[int] = (0, 0)) -> dict[str, str]:
    """The four styles, with all quotes in their places.

    Args:
        wordings: which wording the request and the instruction have, each below ``WORDINGS``.
    """
    words = CHINESE if parts.chinese else ENGLISH
    texts = {
        "keywords": _keywords(parts, words),
        "request": _request(parts, words, wordings[0] % WORDINGS),
        "instruction": _instruction(parts, words, wordings[1] % WORDINGS),
        "composition": parts.full,
    }
    return {style: parts.shown(text) for style, text in texts.items()}


def _keywords(parts: Parts, words: Wordings) -> str:
    said: list[str] = [*_subject_keywords(parts), *parts.phrases, *parts.mentions]
    inside = [] if _stays_whole(parts) else slots_of(parts.subject)
    if slots := _distinct(parts, inside):
        said.append(words.keyword_text.replace("{t}", words.text_comma.join(map(_slot, slots))))
    said += [*parts.lighting, *parts.style]
    return words.comma.join(dict.fromkeys(part for part in said if part))


def _subject_keywords(parts: Parts) -> list[str]:
    subject = _lowered(_plain_subject(parts), parts)
    if _stays_whole(parts):
        return [subject]
    phrases = [phrase.text for phrase in english_phrases("".join(":" if is_slot(c) else c for c in subject))]
    return [phrase for place, phrase in enumerate(phrases) if place == 0 or " " in phrase] or [subject]


def _stays_whole(parts: Parts) -> bool:
    """A short subject is one keyword; a long one is taken apart. Chinese has no words to count, and its subjects are short."""
    return parts.chinese or len(parts.subject.split()) <= _KEYWORD_SUBJECT_WORDS


def _plain_subject(parts: Parts) -> str:
    """Without the article or measure word that a keyword does not need."""
    subject = parts.subject
    if parts.chinese:
        return re.sub(f"^{MEASURE_ZH}", "", subject)
    for article in ("A ", "An ", "The ", "a ", "an ", "the "):
        subject = subject.removeprefix(article)
    return subject


def _request(parts: Parts, words: Wordings, wording: int) -> str:
    opening = words.request_phrase if parts.is_phrase else words.request_sentence
    lines = [opening[wording].replace("{s}", _inner_subject(parts))]
    if details := [*_with_articles(parts, _REQUEST_PHRASES), *parts.mentions]:
        lines.append(words.request_details[wording].replace("{p}", _listed(details, words.comma, words.last)))
    if slots := _distinct(parts):
        lines.append(
            words.request_text[wording].replace("{t}", _listed([_slot(slot) for slot in slots], words.text_comma, words.text_last))
        )
    if look := [*parts.style[:2], *parts.lighting[:1]]:
        lines.append(words.request_style[wording].replace("{p}", words.comma.join(look)))
    return words.gap.join(lines)


def _instruction(parts: Parts, words: Wordings, wording: int) -> str:
    opening = words.instruction_phrase if parts.is_phrase else words.instruction_sentence
    lines = [opening[wording].replace("{s}", _inner_subject(parts))]
    if details := [*_with_articles(parts, _INSTRUCTION_PHRASES), *parts.mentions]:
        lines.append(words.instruction_details[wording].replace("{p}", _listed(details, words.comma, words.last)))
    if letterings := [_lettering(entry, words) for entry in parts.letterings if entry.slots]:
        lines.append(words.instruction_text[wording].replace("{t}", words.semicolon.join(letterings)))
    if parts.lighting:
        lines.append(words.instruction_light[wording].replace("{p}", words.comma.join(parts.lighting)))
    if parts.style:
        lines.append(words.instruction_style[wording].replace("{p}", words.comma.join(parts.style)))
    return words.gap.join(lines)


def _with_articles(parts: Parts, count: int) -> list[str]:
    return [Phrase(phrase, parts.articles.get(phrase.lower(), "")).with_article() for phrase in parts.phrases[:count]]


def _lettering(entry: Lettering, words: Wordings) -> str:
    return (entry.role + words.colon if entry.role else "") + words.text_comma.join(map(_slot, entry.slots))


def _inner_subject(parts: Parts) -> str:
    return _lowered(parts.subject, parts)


def _lowered(text: str, parts: Parts) -> str:
    """Without a capital that only began a sentence."""
    first = text.split(" ", 1)[0]
    if (
        parts.chinese
        or not parts.is_phrase
        or not first[:1].isupper()
        or first[1:] != first[1:].lower()
        or (len(first) == 1 and first != "A")
    ):
        return text
    return text[:1].lower() + text[1:]


def _distinct(parts: Parts, before: Sequence[int] = ()) -> list[int]:
    """Slots of the writing, each content once; those of ``before`` first."""
    first: dict[str, int] = {}
    for slot in (*before, *(slot for entry in parts.letterings for slot in entry.slots)):
        first.setdefault(parts.quotes[slot].content, slot)
    return list(first.values())


def _slot(number: int) -> str:
    return chr(FIRST_SLOT + number)


def _listed(items: Sequence[str], comma: str, last: str) -> str:
    """E.g. "a, b and c"."""
    return comma.join(items[:-1]) + last + items[-1] if len(items) > 1 else "".join(items)
