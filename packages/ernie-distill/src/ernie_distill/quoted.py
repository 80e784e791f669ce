"""What a prompt asks to be written: the strings in quotation marks. Light.

Straight single quotes count only where they do not stand inside words, so that apostrophes do not, nor around a single letter, as in rock 'n' roll; straight
double ones do not begin after a digit, where they are inches. Scripts without spaces have no such words: any quotation mark beside them counts.
"""

from __future__ import annotations

import re

UNSPACED = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Letters and marks of Chinese, Japanese and Korean, as the inside of a class of a regular expression: next to them a word may begin and end anywhere."""
NOT_AFTER_WORD, NOT_BEFORE_WORD = rf"(?<![^\W{UNSPACED}])", rf"(?![^\W{UNSPACED}])"
_APOSTROPHE = rf"(?<=[^\W{UNSPACED}])'(?=[^\W{UNSPACED}])"

_QUOTED = re.compile(
    rf"""  (?<![0-9])"([^"]*)"  |  ＂([^＂]*)＂  |  [“„]([^“”„"]*)[”“]  |  «([^«»]*)»  |  ‹([^‹›]*)›  |  「([^「」]*)」  |  『([^『』]*)』
        |  ‘([^‘]+?)’{NOT_BEFORE_WORD}  |  {NOT_AFTER_WORD}'(?=\S)(?!\w')([^'\n]+(?:{_APOSTROPHE}[^'\n]+)*)(?<=\S)'{NOT_BEFORE_WORD}  """,
    re.VERBOSE,
)


def quoted(prompt: str) -> tuple[str, ...]:
    """The quoted strings of a prompt in order, without their marks; blank ones do not count."""
    found = (next(group for group in match.groups() if group is not None) for match in _QUOTED.finditer(prompt))
    return tuple(text for text in found if text.strip())


def without_quoted(prompt: str) -> str:
    """The prompt with the quoted strings and their marks taken out."""
    return " ".join(_QUOTED.sub(" ", prompt).split())
