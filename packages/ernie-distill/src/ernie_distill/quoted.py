"""What a prompt asks to be written: the strings in quotation marks. Light.

Straight single quotes count only where they do not stand inside words, so that apostrophes do not.
"""

from __future__ import annotations

import re

_QUOTED = re.compile(
    r"""  "([^"]*)"  |  [“„]([^“”„"]*)[”“]  |  «([^«»]*)»  |  ‹([^‹›]*)›  |  「([^「」]*)」  |  『([^『』]*)』
        |  ‘([^‘]+?)’(?!\w)  |  (?<!\w)'(?=\S)([^'\n]+(?:(?<=\w)'(?=\w)[^'\n]+)*)(?<=\S)'(?!\w)  """,
    re.VERBOSE,
)


def quoted(prompt: str) -> tuple[str, ...]:
    """The quoted strings of a prompt in order, without their marks; blank ones do not count."""
    found = (next(group for group in match.groups() if group is not None) for match in _QUOTED.finditer(prompt))
    return tuple(text for text in found if text.strip())


def without_quoted(prompt: str) -> str:
    """The prompt with the quoted strings and their marks taken out."""
    return " ".join(_QUOTED.sub(" ", prompt).split())
