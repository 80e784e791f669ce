"""The contract between a caption and a language model that rewrites it: what must not change is taken out, and must come back exactly once. Light.

Models mangle quotes, numbers and counts. So each quoted string and number goes to the model as a placeholder such as [[Q1]] or [[N2]]; an answer counts
only if every placeholder came back exactly once in every style, in the language of the caption and within bounds. One that fails is asked for
again; what is still missing after that is repaired where that is safe, else the rules write the style, with the reason beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from ernie_data.rewriting.clean import cleaned, language_of
from ernie_data.rewriting.quotes import PAIRS, enclosed, find_quotes, is_slot, keeps, slots_of, take_out
from ernie_data.rewriting.rules import STYLES

_NUMBER = re.compile(
    r"\d+(?:[.,:]\d+)*%?|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|twenty|hundred)\b|[二两三四五六七八九十百]+(?=[个张条只名位辆座家块把件群枚本杯棵朵片行列])",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\[\[\s*([QN])\s*(\d+)\s*\]\]")
_JUDGED_CHARACTERS = 24  # of a style, from which on its language can be told
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # and halves of surrogate pairs, which no file can hold


class RewriteReason(StrEnum):
    """Why the rules wrote what a model should have. A code once published keeps its meaning."""

    LANGUAGE = "language"  # the caption is in a language without rules
    NO_CAPTION = "no_caption"
    TOO_LONG = "too_long"
    GARBAGE = "garbage"  # no such JSON, or nothing in it
    PLACEHOLDERS = "placeholders"  # lost, doubled or invented
    OTHER_LANGUAGE = "other_language"  # the answer is not in the caption's language
    QUOTES = "quotes"  # a quoted string was lost, beyond repair
    SERVER = "server"  # no answer
    TIMEOUT = "timeout"


class Rewritten(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model answers with."""

    keywords: str
    request: str
    instruction: str
    composition: str


@dataclass(frozen=True)
class Sealed:
    """A caption with placeholders, and what they stand for by their names ("Q1", "N2")."""

    text: str
    contents: dict[str, str]
    chinese: bool
    language: str


class Broken(Exception):
    """An answer that cannot be used."""

    def __init__(self, reason: RewriteReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def required(text: str) -> tuple[str, ...]:
    """What every style of a caption must hold verbatim between marks: its quoted strings, each once."""
    return tuple(dict.fromkeys(quote.content for quote in find_quotes(text)))


def lost(text: str, contents: tuple[str, ...]) -> list[str]:
    """Those of ``contents`` that ``text`` does not hold verbatim between marks."""
    return [content for content in contents if not keeps(text, content)]


def repaired(text: str, contents: tuple[str, ...], *, chinese: bool) -> str:
    """``text`` with the quoted strings that it lacks added at its end."""
    missing = lost(text, contents)
    if not missing:
        return text
    shown = [enclosed(content, chinese=chinese) for content in missing]
    end = text.rstrip()
    if chinese:
        return f"{end}{'' if not end or end[-1] in '。！？' else '。'}文字：{'、'.join(shown)}。"
    return f"{end}{'' if not end or end[-1] in '.!?' else '.'} Text: {', '.join(shown)}.".lstrip(". ")


def sealed(caption: str) -> Sealed:
    """Take quotes, numbers and counts out. What looks like a placeholder outside of quotes is removed."""
    masked, quotes = take_out(caption)
    language = language_of(masked)
    chinese = language == "zh"
    masked = _PLACEHOLDER.sub("", cleaned(masked, chinese=chinese))
    contents: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        name = f"N{sum(name[0] == 'N' for name in contents) + 1}"
        contents[name] = match.group()
        return f"[[{name}]]"

    def quote(match: re.Match[str]) -> str:
        slot = slots_of(match.group())[0]
        contents[f"Q{slot + 1}"] = enclosed(quotes[slot].content, chinese=chinese, like=quotes[slot].opening)
        return f"[[Q{slot + 1}]]"

    text = re.sub(r"[\U000f0000-\U000ffffd]", quote, _NUMBER.sub(number, masked))
    return Sealed(text, contents, chinese, language)


def opened(answer: Rewritten, seal: Sealed, *, max_characters: int, repair: bool = False) -> tuple[dict[str, str], bool]:
    """The styles with everything back in its place, and whether one had to be repaired.

    Args:
        repair: quoted strings that did not come back are added at a style's end. What came back twice or was invented, and numbers, cannot be repaired.

    Raises:
        Broken: a placeholder that is lost, doubled or invented, another language, control characters, an empty or endless style.
    """
    styles: dict[str, str] = {}
    mended = False
    for style in STYLES:
        text = getattr(answer, style).strip()
        missing = _checked(style, text, seal, max_characters=max_characters, repair=repair)
        whole = _PLACEHOLDER.sub(lambda match, text=text: _put_back(match, text, seal), text)
        contents = tuple(seal.contents[name][1:-1] for name in missing)
        mended = mended or bool(missing)
        styles[style] = repaired(whole, contents, chinese=seal.chinese)
    return styles, mended


def _checked(style: str, text: str, seal: Sealed, *, max_characters: int, repair: bool) -> list[str]:
    """Names of the quotes that are to be repaired."""
    if seal.text.strip() and not re.search(r"\w", text):
        raise Broken(RewriteReason.GARBAGE, f"`{style}` is empty")
    if _CONTROL.search(text) or any(map(is_slot, text)):
        raise Broken(RewriteReason.GARBAGE, f"`{style}` holds control characters")
    if len(text) > max_characters:
        raise Broken(RewriteReason.TOO_LONG, f"`{style}` has {len(text)} characters, at most {max_characters} are allowed")
    found = Counter(kind + number for kind, number in _PLACEHOLDER.findall(text))
    wrong = [name for name, times in found.items() if times > 1 or name not in seal.contents]
    missing = [name for name in seal.contents if name not in found]
    if wrong or (missing and not (repair and all(name[0] == "Q" for name in missing))):
        raise Broken(RewriteReason.PLACEHOLDERS, f"`{style}`: {', '.join(sorted({*wrong, *missing})[:5])} did not come back exactly once")
    plain = _PLACEHOLDER.sub(" ", text)
    if seal.language != "other" and len(plain) > _JUDGED_CHARACTERS and language_of(plain) != seal.language:
        raise Broken(RewriteReason.OTHER_LANGUAGE, f"`{style}` is not in the caption's language")
    return missing


def _put_back(match: re.Match[str], text: str, seal: Sealed) -> str:
    """What a placeholder stands for. Where the model put marks around a quote's, these count, or there would be two pairs."""
    shown = seal.contents[match.group(1) + match.group(2)]
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    return shown[1:-1] if match.group(1) == "Q" and PAIRS.get(before) == after != "" else shown
