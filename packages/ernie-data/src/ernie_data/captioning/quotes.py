"""Text of a picture within its caption: finding quoted parts, deciding whether a text is mentioned verbatim, and adding what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ernie_data.ocr.lines import is_ideograph
from ernie_data.vision.structure import quoted

LONG_ENOUGH = 4
"""Letters (an ideograph counts as two) from which on a text counts as mentioned without quotation marks."""
_ALIKE = str.maketrans("‘’‚“”„", "'''\"\"\"")
_QUOTED = re.compile(
    r'"([^"]+)"|“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»|「([^「」]+)」|『([^『』]+)』|‘((?:[^‘’]|(?<=\w)’(?=\w))+)’|(?<![A-Za-z0-9])\'((?:[^\'\n]|(?<=[A-Za-z])\'(?=[A-Za-z]))+)\'(?![A-Za-z0-9])'
)


def quoted_parts(caption: str) -> list[str]:
    """What stands between quotation marks, in order; an apostrophe within a word closes nothing."""
    return [next(part for part in found.groups() if part is not None) for found in _QUOTED.finditer(caption)]


def mentions(caption: str, text: str, *, only_quoted: bool = False) -> bool:
    """Whether a caption has a text verbatim, in the same case and as whole words. White space and the shape of quotation marks do not matter.

    A text too short for the rest of the caption not to have it by chance must stand between quotation marks.
    """
    wanted = _plain(text)
    if not wanted:
        return True
    places = [_plain(part) for part in quoted_parts(caption)]
    if not only_quoted and sum(1 + is_ideograph(c) for c in wanted) >= LONG_ENOUGH:
        places.append(_plain(caption))
    before = r"(?<!\w)" if _in_word(wanted[0]) else ""
    after = r"(?!\w)" if _in_word(wanted[-1]) else ""
    pattern = re.compile(before + re.escape(wanted) + after)
    return any(pattern.search(place) for place in places)


def confident_texts(columns: Mapping[str, object], least: float) -> list[str]:
    """Each different text that OCR read with at least this confidence, in reading order."""
    texts, confidences = columns.get("ocr_text") or [], columns.get("ocr_confidence") or []
    return list(dict.fromkeys(t for t, c in zip(texts, confidences, strict=True) if c >= least))  # type: ignore[call-overload]


def with_texts(caption: str, texts: Sequence[str], *, style: str) -> str:
    """The caption with these texts added in quotation marks, in its own language and manner."""
    if not texts:
        return caption
    listed = [quoted(text) for text in texts]
    if style == "keywords":
        return ", ".join([caption, *(f"text {text}" for text in listed)])
    if any(is_ideograph(c) for c in caption):
        return f"{caption}{'' if caption.endswith(('。', '！', '？')) else '。'}图中文字：{'、'.join(listed)}。"
    end = "" if caption.endswith((".", "!", "?", "…", '."')) else "."
    return f"{caption}{end} The text in the picture reads {', '.join(listed)}."


def _plain(text: str) -> str:
    return " ".join(text.translate(_ALIKE).split())


def _in_word(character: str) -> bool:
    """Whether a word's border must be looked for: scripts without spaces have none."""
    return character.isalnum() and not is_ideograph(character)
