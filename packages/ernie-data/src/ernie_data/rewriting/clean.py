"""Captions as plain prose: language, leftovers of markup, sentences and clauses. Works on texts whose quotes were taken out. Light."""

from __future__ import annotations

import re
from typing import Literal

from ernie_data.rewriting.quotes import FIRST_SLOT, Quote, is_slot
from ernie_data.rewriting.words import words_of

Language = Literal["en", "zh", "other"]
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA = re.compile("[\u3040-\u30ff]")
_LETTER = re.compile(r"[^\W\d_]")
_ENGLISH = words_of("the a an of and in with on is are at by to from its for that this as")
_FOREIGN = words_of(
    """
    le la les des une du dans avec et est sur pour el los las con una y en por para del der die das und mit ein eine auf von den il lo gli
    di che nel um uma com no na os as het een van op
    """
) - {"a", "as", "no", "on"}
_ABBREVIATIONS = words_of("mr mrs ms dr st no vs etc e.g i.e approx ave jr sr inc ltd fig p.m a.m")


def language_of(text: str) -> Language:
    """Which language a caption is written in, by its letters outside of quotes, and for Latin letters by its commonest words."""
    letters = _LETTER.findall(text)
    if not letters:
        return "en"
    han, kana = len(_HAN.findall(text)), len(_KANA.findall(text))
    if kana > 0.1 * len(letters):
        return "other"
    ascii_letters = sum(letter.isascii() for letter in letters)
    if han >= 0.3 * len(letters) or (han and 2 * han >= ascii_letters / 4):
        return "zh"
    if ascii_letters < 0.95 * len(letters):
        return "other"
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", text)]
    english, foreign = sum(word in _ENGLISH for word in words), sum(word in _FOREIGN for word in words)
    return "other" if foreign > english else "en"


def cleaned(text: str, *, chinese: bool) -> str:
    """One paragraph without tags, Markdown and line ends; list items become clauses."""
    stop, pause = ("。", "；") if chinese else (". ", "; ")
    text = _TAG.sub("", text).replace("\\r", "").replace("\\n", "\n").replace("\\t", " ")
    text = re.sub(r"(?m)^[ \t]*#{1,6}[ \t]+", "", text)
    text = re.sub(r"(?<!\s)\s*\n\s*(?:[-*•][ \t]+)?", "\n", text)
    text = re.sub(r"(?<=\S)[ \t]+[-*•][ \t]+(?=\*\*)", pause, text)  # inline lists: `- **A**: ...`
    text = re.sub(r"(?<=[^\s。！？；：，、.!?;:,（(])[ \t]+(?=\*\*)", stop, text) if chinese else text
    text = re.sub(r"\*\*|__|`", "", text)
    text = re.sub(r"(?<=[。！？；：，、.!?;:,])\n", "" if chinese else " ", text).replace("\n", stop)
    text = re.sub(r"\s+", " ", text).strip()
    if chinese:
        text = re.sub(r"(?<=[。！？；：，、）]) | (?=[。！？；：，、（])", "", text)
        text = re.sub(
            r"(?<=[\U000f0000-\U000ffffd]) (?=整体|整张|整个|画面|图中|图片|背景)", "。", text
        )  # the quote ended the sentence before
        text = re.sub(r"^以下是[^。：]{0,20}：|(?<=。)以下是[^。：]{0,20}：", "", text)
        text = re.sub(r"(?:^|(?<=[。：]))\s*\d+[.、]\s*[^。：，\d]{2,24}\s(?=[^\s。：，]{2,8}：)", "", text)  # numbered headings
        text = re.sub(r"([：，、；])；+", r"\1", re.sub(r"。[；。]+", "。", text))
    return re.sub(r"(?:; )+(?=[.;])|(?<=[:;,]) ?;", "", text).strip()


def sentences(text: str, quotes: list[Quote], *, chinese: bool) -> list[str]:
    """Sentences with their ends. A quote that ends like a sentence ends one where a capital letter follows."""
    if chinese:
        return [part.strip() for part in re.findall(r"[^。！？!?]+[。！？!?]*|[。！？!?]+", text) if part.strip()]
    found, start = [], 0
    for gap in re.finditer(r"\s+", text):
        before, after = text[gap.start() - 1] if gap.start() else "", text[gap.end() : gap.end() + 1]
        if not after or not (after.isupper() or after.isdigit() or is_slot(after)):
            continue
        word = text[start : gap.start()].rsplit(" ", 1)[-1].rstrip(".").lower()
        ends = before in ".!?" and before != "" and not (before == "." and (word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha())))
        if is_slot(before) and after.isupper():
            ends = quotes[slot_number(before)].content.rstrip()[-1:] in tuple(".!?")
        if ends:
            found.append(text[start : gap.start()])
            start = gap.end()
    return [*found, text[start:]] if text[start:].strip() else found


def slot_number(character: str) -> int:
    return ord(character) - FIRST_SLOT


def clauses(sentence: str, *, chinese: bool) -> list[str]:
    """Parts between commas and semicolons, without their ends. Brackets stay whole."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(sentence):
        depth += (character in "(（") - (character in ")）")
        if depth <= 0 and character in ("，；,;。！？" if chinese else ",;"):
            if character == "," and sentence[place - 1 : place].isdigit() and sentence[place + 1 : place + 2].isdigit():
                continue
            parts.append(sentence[start:place])
            start = place + 1
    parts.append(sentence[start:])
    return [part for part in (part.strip().rstrip(".!?。！？").strip() for part in parts) if part]
