"""Structured captions: what a vision-language model is asked for, how its answer is checked, and the plain captions that are made of it.

The parts are those that the report's captions cover (subject, attributes, spatial relations, text in the picture, lighting, composition, style).
Light: no torch, no Pillow.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from ernie_core.chat import AnswerError, parse_json_answer
from ernie_data.vision.model import DETAIL_CHARACTERS, VisionError, VisionModel, VisionReason

T = TypeVar("T")
MAX_ENTRIES = 100  # in a list
MAX_CHARACTERS = 4000  # in a string
QUOTES = (('"', '"'), ("“", "”"), ("«", "»"), ("「", "」"))


class StructuredCaption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``text`` holds every piece of writing in the picture, letter by letter. What a picture does not have is "" or an empty list."""

    subject: str
    attributes: list[str]
    relations: list[str]
    text: list[str]
    lighting: str
    composition: str
    style: str
    description: str


class ReadText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The writing in a picture, in reading order."""

    lines: list[str]


def _schema(struct: type[msgspec.Struct]) -> dict[str, object]:
    """The struct's JSON schema in the plain form that strict servers take: no references, no titles, no prose."""
    _, components = msgspec.json.schema_components([struct])
    inner = components[struct.__name__]
    return {key: inner[key] for key in ("type", "properties", "required", "additionalProperties")}


CAPTION_SCHEMA = _schema(StructuredCaption)
TEXT_SCHEMA = _schema(ReadText)

CAPTION_INSTRUCTION = """\
Describe this picture as one JSON object, and write nothing before or after it. Say only what can be seen; guess no names, places or intentions.
Use exactly these keys:
"subject": the main subject, in a few words.
"attributes": a list of short phrases, each giving a visible property and what has it: colour, number, material, shape, clothing, expression.
"relations": a list of short phrases about where things are relative to each other or to the frame, such as "a lamp left of the bed".
"text": a list of all writing in the picture, each piece copied letter by letter in its own language and spelling, in reading order; [] if there is none.
"lighting": kind, direction and mood of the light, in one phrase; "" if it cannot be told.
"composition": viewpoint, framing, distance and background, in one phrase.
"style": medium and style, such as "photograph, shallow depth of field" or "flat vector illustration", in one phrase.
"description": two to five plain sentences that cover all of the above, with every piece of writing quoted.
"""

TEXT_INSTRUCTION = """\
Read all writing in this picture. Answer with one JSON object {"lines": [...]} and nothing else: one string per line of writing, in reading order,
copied letter by letter in its own language and spelling, with its punctuation. Neither translate, correct nor complete anything.
If there is no writing, answer {"lines": []}.
"""


def caption_pictures(model: VisionModel, images: Sequence[bytes]) -> list[StructuredCaption | VisionError]:
    """A checked caption per picture, in order."""
    return _checked(model.describe(images, CAPTION_INSTRUCTION, schema=CAPTION_SCHEMA), read_caption)


def read_pictures(model: VisionModel, images: Sequence[bytes]) -> list[list[str] | VisionError]:
    """The lines of writing of each picture, in order."""
    return _checked(model.describe(images, TEXT_INSTRUCTION, schema=TEXT_SCHEMA), read_lines)


def read_caption(answer: str) -> StructuredCaption:
    """
    Raises:
        AnswerError: no such JSON, no subject or description, or strings that no caption has (control characters, broken Unicode, far too long).
    """
    found = parse_json_answer(answer, StructuredCaption)
    caption = StructuredCaption(
        subject=_clean(found.subject, "subject"),
        attributes=clean_all(found.attributes, "attributes"),
        relations=clean_all(found.relations, "relations"),
        text=clean_all(found.text, "text"),
        lighting=_clean(found.lighting, "lighting"),
        composition=_clean(found.composition, "composition"),
        style=_clean(found.style, "style"),
        description=_clean(found.description, "description"),
    )
    for name, value in (("subject", caption.subject), ("description", caption.description)):
        if not value:
            raise AnswerError(f"`{name}` of the caption is empty", reason="garbage")
    return caption


def read_lines(answer: str) -> list[str]:
    """
    Raises:
        AnswerError: as ``read_caption``.
    """
    return clean_all(parse_json_answer(answer, ReadText).lines, "lines", repeated=True)


def as_keywords(caption: StructuredCaption) -> str:
    """Comma-separated; the picture's text stands verbatim, each piece in quotes."""
    parts = [caption.subject, *caption.attributes, *caption.relations, *(f"text {quoted(piece)}" for piece in caption.text)]
    parts += [caption.lighting, caption.composition, caption.style]
    return ", ".join(part.rstrip(".") if not part.startswith("text ") else part for part in dict.fromkeys(parts) if part)


def as_description(caption: StructuredCaption) -> str:
    """The description; text of the picture that it leaves out is added verbatim."""
    missing = [quoted(piece) for piece in caption.text if piece not in caption.description]
    if not missing:
        return caption.description
    first = caption.description if caption.description[-1] in ".!?。！？" else caption.description + "."
    return f"{first} The text in the picture reads {', '.join(missing)}."


def plain_captions(caption: StructuredCaption) -> dict[str, str]:
    """By style."""
    return {"keywords": as_keywords(caption), "description": as_description(caption)}


def quoted(text: str) -> str:
    """In the first kind of quotes that the text does not hold itself."""
    left, right = next((pair for pair in QUOTES if not set(pair) & set(text)), QUOTES[0])
    return f"{left}{text}{right}"


def _checked(answers: Sequence[str | VisionError], read: Callable[[str], T]) -> list[T | VisionError]:
    outcomes: list[T | VisionError] = []
    for answer in answers:
        if isinstance(answer, VisionError):
            outcomes.append(answer)
            continue
        try:
            outcomes.append(read(answer))
        except AnswerError as error:
            outcomes.append(VisionError(VisionReason(error.reason), str(error)[:DETAIL_CHARACTERS]))
    return outcomes


def clean_all(values: Sequence[str], name: str, *, repeated: bool = False) -> list[str]:
    """Without empty entries, and without repeated ones unless a repetition means something.

    Raises:
        AnswerError: too many of them, or one that no text has: see ``read_caption``.
    """
    if len(values) > MAX_ENTRIES:
        raise AnswerError(f"`{name}` has {len(values)} entries, more than {MAX_ENTRIES}: the model has lost itself", reason="garbage")
    cleaned = [clean for value in values if (clean := _clean(value, name))]
    return cleaned if repeated else list(dict.fromkeys(cleaned))


def _clean(value: str, name: str) -> str:
    """White space as single spaces; nothing else is changed, so that quoted writing stays verbatim."""
    text = " ".join(value.split())
    if len(text) > MAX_CHARACTERS:
        raise AnswerError(f"`{name}` has {len(text)} characters, more than {MAX_CHARACTERS}: the model has lost itself", reason="garbage")
    if bad := next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")), ""):
        raise AnswerError(f"`{name}` holds the character U+{ord(bad):04X}, which no text has", reason="garbage")
    return text
