"""Captions of scenes in four styles with two wordings each. A language is one value of ``Language``; English comes with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ernie_core.api import ConfigError
from ernie_data.shapes.profile import Triple

STYLES = ("keywords", "request", "instruction", "composition")
WORDINGS = 2


@dataclass(frozen=True)
class Wording:
    """``object`` is filled for each object from the language's words; the results are joined and put into ``sentence`` as ``{objects}``."""

    object: str
    sentence: str
    join: str


@dataclass(frozen=True)
class Language:
    """Words and wordings of one language. Every wording may use the keys of ``words(triple)``."""

    shapes: Mapping[str, Mapping[str, str]]  # name -> words such as {"shape": "circle"}; other languages add gender or case forms here
    colours: Mapping[str, Mapping[str, str]]
    cells: Mapping[str, Mapping[str, str]]
    wordings: Mapping[str, tuple[Wording, ...]]  # style -> its wordings

    def words(self, triple: Triple) -> dict[str, str]:
        return {**self.shapes[triple.shape], **self.colours[triple.colour], **self.cells[triple.cell]}


def _english() -> Language:
    colours = ("red", "green", "blue", "yellow", "purple", "orange", "black", "cyan")
    rows = {"top": "at the top", "middle": "in the middle", "bottom": "at the bottom"}
    places = {
        **{f"{row} {side}": f"in the {row} {side}" for row in ("top", "bottom") for side in ("left", "right")},
        **{f"{row} centre": f"{at} centre" for row, at in rows.items() if row != "middle"},
        **{f"middle {side}": f"in the middle {side}" for side in ("left", "right")},
        "middle centre": "in the very centre",
    }
    short = {"middle centre": "centre"}
    return Language(
        shapes={s: {"shape": s} for s in ("circle", "square", "triangle", "cross", "diamond", "ring")},
        colours={c: {"colour": c, "a": "an" if c[0] in "aeiou" else "a"} for c in colours},
        cells={cell: {"cell": short.get(cell, cell), "at": at} for cell, at in places.items()},
        wordings=MappingProxyType(
            {
                "keywords": (
                    Wording("{colour} {shape}, {cell}", "{objects}", "; "),
                    Wording("{cell}, {shape}, {colour}", "{objects}", "; "),
                ),
                "request": (
                    Wording("{a} {colour} {shape} {at}", "{objects}", " and "),
                    Wording("{a} {colour} {shape} {at}", "can you show me {objects}?", " and "),
                ),
                "instruction": (
                    Wording("{a} {colour} {shape} {at}", "Draw {objects}.", " and "),
                    Wording("one {shape} in {colour} {at}", "Paint {objects}.", ", then "),
                ),
                "composition": (
                    Wording("{a} {colour} {shape} {at}", "A plain light picture with {objects}, and nothing else.", " and "),
                    Wording("{at} a {shape} coloured {colour}", "A simple composition: {objects}, empty space around.", "; "),
                ),
            }
        ),
    )


LANGUAGES: Mapping[str, Language] = MappingProxyType({"en": _english()})


def caption(triples: Sequence[Triple], *, style: str, wording: int, language: str = "en") -> str:
    """The caption of a scene with these objects.

    Raises:
        ConfigError: an unknown style, wording or language.
    """
    if language not in LANGUAGES:
        raise ConfigError(f'no captions in language "{language}"; expected one of: {", ".join(LANGUAGES)}')
    words = LANGUAGES[language]
    if style not in words.wordings or not 0 <= wording < len(words.wordings[style]):
        raise ConfigError(f'no caption style "{style}" with wording {wording}; expected {", ".join(STYLES)} and 0 to {WORDINGS - 1}')
    form = words.wordings[style][wording]
    return form.sentence.format(objects=form.join.join(form.object.format(**words.words(t)) for t in triples))


def all_captions(triples: Sequence[Triple], *, language: str = "en") -> tuple[str, ...]:
    """Every style in every wording: 8 captions."""
    return tuple(caption(triples, style=s, wording=w, language=language) for s in STYLES for w in range(WORDINGS))


def captions_by_style(triples: Sequence[Triple], *, index: int, language: str = "en") -> dict[str, str]:
    """One caption per style for picture ``index``: over 16 pictures in a row every combination of the styles' wordings occurs once."""
    return {s: caption(triples, style=s, wording=(index >> i) % WORDINGS, language=language) for i, s in enumerate(STYLES)}
