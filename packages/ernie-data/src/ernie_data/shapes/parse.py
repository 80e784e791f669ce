"""Captions back to claims: the inverse of ``phrases``. Needed to find captions that do not fit their picture, and to judge prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from ernie_data.shapes.captions import LANGUAGES
from ernie_data.shapes.claims import Claim, Claims, CountClaim, ObjectClaim, RelationClaim, TextClaim
from ernie_data.shapes.phrases import FORMS, NUMBERS, PLURALS, RELATION_PHRASES, ROW_PHRASES, Form, pieces

_CASE = re.IGNORECASE | re.ASCII  # without ASCII "ſ" would match "s", and no word of ours has it
_QUOTES = str.maketrans("“”„«»", '"""""')


def parse_caption(text: str) -> Claims | None:
    """What a caption claims, or None if it is in none of ShapeBench's wordings. Case outside quotes and surrounding space do not matter.

    For every scene, style and wording, parsing the scene's caption gives the scene's claims (asserted by a test).
    """
    plain = " ".join(text.translate(_QUOTES).split())
    for (style, wording), form in FORMS.items():
        worded = LANGUAGES["en"].wordings[style][wording]
        before, after = worded.sentence.split("{objects}")
        if len(plain) < len(before + after) or plain[: len(before)].lower() != before.lower():
            continue
        body = plain[len(before) :]
        if after:
            if body[-len(after) :].lower() != after.lower():
                continue
            body = body[: -len(after)]
        claims = [_part(part, form) for part in re.split(re.escape(worded.join) + r'(?=(?:[^"]*"[^"]*")*[^"]*$)', body, flags=_CASE)]
        if claims and all(c is not None for c in claims):
            return Claims(
                *(tuple(c for c in claims if isinstance(c, kind)) for kind in (ObjectClaim, CountClaim, RelationClaim, TextClaim))
            )
    return None


def _part(part: str, form: Form) -> Claim | None:
    if found := _pattern(form.text).fullmatch(part):
        return TextClaim(found["text"], _value(found, "row") or _inverse(ROW_PHRASES, _value(found, "row_at")))
    if found := _pattern(form.count).fullmatch(part):
        number = {word: n for n, word in NUMBERS.items()}[found["number"].lower()]
        return CountClaim(number, _inverse(PLURALS, found["shapes"]), _value(found, "colour"))
    if found := _relation_pattern(form).fullmatch(part):
        one, other = (_object(_pattern(form.related).fullmatch(found[side])) for side in ("subject", "object"))
        relation = _value(found, "relation") or _inverse(RELATION_PHRASES, _value(found, "relation_phrase"))
        return RelationClaim(one, relation, other)
    found = _pattern(form.object_).fullmatch(part)
    return _object(found) if found else None


def _object(found: re.Match[str]) -> ObjectClaim:
    language = LANGUAGES["en"]
    cell = _inverse({name: w["cell"] for name, w in language.cells.items()}, _value(found, "cell"))
    at = _inverse({name: w["at"] for name, w in language.cells.items()}, _value(found, "at"))
    return ObjectClaim(found["shape"].lower(), _value(found, "colour"), cell or at)


def _value(found: re.Match[str], name: str) -> str | None:
    value = found.groupdict().get(name)
    return value.lower() if value else None


def _inverse(words: Mapping[str, str], word: str | None) -> str | None:
    return next((name for name, w in words.items() if w == word.lower()), None) if word else None


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """A form's piece as a regular expression with a named group per word."""
    return re.compile(_expression(pattern, named=True), _CASE)


@cache
def _relation_pattern(form: Form) -> re.Pattern[str]:
    side = _expression(form.related, named=False)
    whole = _expression(form.relation, named=True)
    return re.compile(whole.replace("{subject}", f"(?P<subject>{side})").replace("{object}", f"(?P<object>{side})"), _CASE)


def _expression(pattern: str, *, named: bool) -> str:
    language = LANGUAGES["en"]
    choices = {
        "shape": list(language.shapes),
        "shapes": list(PLURALS.values()),
        "colour": list(language.colours),
        "cell": [w["cell"] for w in language.cells.values()],
        "at": [w["at"] for w in language.cells.values()],
        "number": list(NUMBERS.values()),
        "relation": list(RELATION_PHRASES),
        "relation_phrase": list(RELATION_PHRASES.values()),
        "row": list(ROW_PHRASES),
        "row_at": list(ROW_PHRASES.values()),
    }
    whole = ""
    for optional, piece in pieces(pattern):
        expression = re.escape(piece).replace(r"\{", "{").replace(r"\}", "}")
        expression = expression.replace("{a}", "an?").replace("{text}", '(?P<text>[^"]+)')
        for word, values in choices.items():
            options = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
            expression = expression.replace("{" + word + "}", f"(?P<{word}>{options})" if named else f"(?:{options})")
        whole += f"(?:{expression})?" if optional else expression
    return whole
