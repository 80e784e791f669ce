"""Claims to captions, in the four styles with two wordings each, in English. ``parse`` reads them back.

Every style says an object with as many of its values as are claimed. A picture's objects with all values and no text are worded as by ``captions``:
the two agree wherever both apply (asserted by a test).
"""

from __future__ import annotations

from dataclasses import dataclass

from ernie_core.api import ConfigError
from ernie_data.shapes.captions import LANGUAGES, STYLES, WORDINGS
from ernie_data.shapes.claims import Claims, ObjectClaim, RelationClaim, TextClaim
from ernie_data.shapes.scene import Scene

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses", "diamond": "diamonds", "ring": "rings"}
ROW_PHRASES = {"top": "at the top", "middle": "in the middle", "bottom": "at the bottom"}
RELATION_PHRASES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True)
class Form:
    """Pieces of one wording. An object is ``object_`` with the pieces whose value is not claimed left out; ``[...]`` marks such a piece."""

    object_: str
    count: str
    relation: str  # of two objects, each worded by ``related``
    related: str
    text: str


_PROSE = Form(
    object_="{a} [{colour} ]{shape}[ {at}]",
    count="{number} [{colour} ]{shapes}",
    relation="{subject} {relation_phrase} {object}",
    related="{a} [{colour} ]{shape}",
    text='the text "{text}"[ {row_at}]',
)
FORMS: dict[tuple[str, int], Form] = {
    ("keywords", 0): Form(
        "[{colour} ]{shape}[, {cell}]",
        "{number} [{colour} ]{shapes}",
        "{subject} {relation} {object}",
        "[{colour} ]{shape}",
        'text "{text}"[, {row}]',
    ),
    ("keywords", 1): Form(
        "[{cell}, ]{shape}[, {colour}]",
        "{shapes}[, {colour}], {number}",
        "{relation}: {subject}, {object}",
        "[{colour} ]{shape}",
        '[{row}, ]text "{text}"',
    ),
    ("request", 0): _PROSE,
    ("request", 1): _PROSE,
    ("instruction", 0): _PROSE,
    ("instruction", 1): Form(
        "one {shape}[ in {colour}][ {at}]",
        "{number} {shapes}[ in {colour}]",
        "{subject} {relation_phrase} {object}",
        "one {shape}[ in {colour}]",
        'the word "{text}"[ {row_at}]',
    ),
    ("composition", 0): _PROSE,
    ("composition", 1): Form(
        "[{at} ]a {shape}[ coloured {colour}]",
        "{number} {shapes}[ coloured {colour}]",
        "{subject} {relation_phrase} {object}",
        "a {shape}[ coloured {colour}]",
        '[{row_at} ]the text "{text}"',
    ),
}


def claims_caption(claims: Claims, *, style: str, wording: int) -> str:
    """The English caption that makes these claims.

    Raises:
        ConfigError: an unknown style or wording, or no claims.
    """
    if (style, wording) not in FORMS:
        raise ConfigError(f'no caption style "{style}" with wording {wording}; expected {", ".join(STYLES)} and 0 to {WORDINGS - 1}')
    if not claims.each():
        raise ConfigError("a caption needs at least one claim")
    form, sentence = FORMS[style, wording], LANGUAGES["en"].wordings[style][wording]
    parts = [
        *(fill(form.object_, _words(o)) for o in claims.objects),
        *(fill(form.count, {**_words(ObjectClaim(c.shape, c.colour)), "number": NUMBERS[c.count]}) for c in claims.counts),
        *(_relation(form, r) for r in claims.relations),
        *(fill(form.text, _text_words(t)) for t in claims.texts),
    ]
    return sentence.sentence.format(objects=sentence.join.join(parts))


def all_claims_captions(claims: Claims) -> tuple[str, ...]:
    """Every style in every wording: 8 captions."""
    return tuple(claims_caption(claims, style=s, wording=w) for s in STYLES for w in range(WORDINGS))


def claims_by_style(claims: Claims, *, index: int) -> dict[str, str]:
    """One caption per style for picture ``index``, with the wordings of ``captions.captions_by_style``."""
    return {s: claims_caption(claims, style=s, wording=(index >> i) % WORDINGS) for i, s in enumerate(STYLES)}


def scene_captions(scene: Scene, *, index: int) -> dict[str, str]:
    """The captions that picture ``index`` is given."""
    return claims_by_style(scene.claims(), index=index)


def fill(pattern: str, words: dict[str, str | None]) -> str:
    """Put words into a pattern; a piece in brackets whose word is None is left out."""
    filled = ""
    for optional, piece in pieces(pattern):
        present = [k for k in words if "{" + k + "}" in piece]
        if not (optional and any(words[k] is None for k in present)):
            filled += piece.format(**words)
    return filled


def pieces(pattern: str) -> list[tuple[bool, str]]:
    """A pattern's pieces, each with whether it stands in brackets."""
    found = []
    for part in pattern.split("["):
        inside, closed, after = part.partition("]")
        found += [(True, inside), (False, after)] if closed else [(False, part)]
    return [(optional, piece) for optional, piece in found if piece]


def _words(claim: ObjectClaim) -> dict[str, str | None]:
    language = LANGUAGES["en"]
    cell = language.cells[claim.cell] if claim.cell else {"cell": None, "at": None}
    # Every shape's own article is "a"; a colour brings its own.
    colour = language.colours[claim.colour] if claim.colour else {"colour": None, "a": "a"}
    return {"shape": claim.shape, "shapes": PLURALS[claim.shape], **colour, **cell}


def _relation(form: Form, claim: RelationClaim) -> str:
    subject, other = (fill(form.related, _words(o)) for o in (claim.subject, claim.object))
    words = {"relation": claim.relation, "relation_phrase": RELATION_PHRASES[claim.relation]}
    return fill(form.relation, {**words, "subject": subject, "object": other})


def _text_words(claim: TextClaim) -> dict[str, str | None]:
    return {"text": claim.text, "row": claim.row, "row_at": ROW_PHRASES[claim.row] if claim.row else None}
