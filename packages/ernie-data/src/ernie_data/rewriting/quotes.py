"""Quoted strings in captions: finding them, taking them out and putting them back. Light: the standard library.

Captions quote with every mark there is, and carelessly: apostrophes look like closing quotes, a quote that opens with one mark closes with another or
not at all. Where a text can be read in two ways, more of it is taken as quoted: what is quoted is never changed, so that this costs nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

PAIRS = {"“": "”", "‘": "’", "「": "」", "『": "』", "«": "»", "‹": "›", "„": "“", "〝": "〞", "《": "》", "＂": "＂", '"': '"', "'": "'"}
"""Opening mark -> closing mark. 《》 name works rather than writing in a picture, but must stay as they are for the same reason."""
_CLOSING = frozenset("”’」』»›〞＂\"'")
_APOSTROPHES = "'’"
_SENTENCE_END = ".!?。！？"
_SHORT = ("tis", "twas", "em", "til", "cause", "n")
FIRST_SLOT = 0xF0000
"""Quotes that were taken out leave one character each of Unicode's private plane 15, which no caption holds (see ``without_slots``)."""
MAX_QUOTES = 2000
MAX_APOSTROPHES = 64
"""So many apostrophes a quote between single marks may hold; after them the next mark that can close it does."""


@dataclass(frozen=True)
class Quote:
    """``text[start:end]`` with its marks; ``content`` is what they enclose. ``balanced``: it closes with the mark that it opened with."""

    start: int
    end: int
    opening: str
    content: str
    balanced: bool


def find_quotes(text: str) -> list[Quote]:
    """The outermost quotes, in order, without overlap. Quotes inside a quote belong to its content."""
    found: list[Quote] = []
    marks = _Marks(text)
    place = 0
    while place < len(text) and len(found) < MAX_QUOTES:
        mark = text[place]
        if mark in PAIRS and _opens(text, place):
            quote = marks.quote_at(place)
            if quote is not None and quote.content.strip():
                found.append(quote)
                place = quote.end
                continue
        place += 1
    return found


def quoted_strings(text: str) -> tuple[str, ...]:
    """The contents of the outermost quotes, each once, in order."""
    return tuple(dict.fromkeys(quote.content for quote in find_quotes(text)))


def keeps(text: str, content: str) -> bool:
    """Whether ``text`` holds ``content`` letter by letter between two marks of one pair."""
    return any(f"{opening}{content}{closing}" in text for opening, closing in PAIRS.items())


def enclosed(content: str, *, chinese: bool, like: str = "") -> str:
    """``content`` between marks that cannot be taken for its own: those it had (``like`` is its opening mark), else the language's usual ones."""
    usual = ("“", "‘", '"', "「", "『", "«", "'") if chinese else ('"', "“", "'", "「", "«", "『")
    clean = [opening for opening in usual if opening not in content and PAIRS[opening] not in content]
    for opening in dict.fromkeys((*((like,) if like in PAIRS else ()), *clean, *usual)):
        closed = f"{opening}{content}{PAIRS[opening]}"
        quotes = find_quotes(closed)
        if len(quotes) == 1 and quotes[0].content == content and quotes[0].balanced:
            return closed
    opening = like if like in PAIRS else usual[0]
    return f"{opening}{content}{PAIRS[opening]}"


def without_slots(text: str) -> str:
    return "".join(character for character in text if not FIRST_SLOT <= ord(character) <= FIRST_SLOT + 0xFFFD)


def take_out(text: str) -> tuple[str, list[Quote]]:
    """The text with one slot character for each quote, and the quotes. Characters that look like slots are removed outside of quotes."""
    quotes = find_quotes(text)
    parts, last = [], 0
    for number, quote in enumerate(quotes):
        parts += [without_slots(text[last : quote.start]), chr(FIRST_SLOT + number)]
        last = quote.end
    return "".join([*parts, without_slots(text[last:])]), quotes


def put_back(text: str, quotes: Sequence[Quote], *, chinese: bool) -> str:
    """The inverse: each slot becomes its quote, with its own marks where they were a pair."""
    shown = [enclosed(quote.content, chinese=chinese, like=quote.opening) for quote in quotes]
    return "".join(shown[ord(c) - FIRST_SLOT] if is_slot(c) and ord(c) - FIRST_SLOT < len(shown) else c for c in text)


def is_slot(character: str) -> bool:
    return FIRST_SLOT <= ord(character) <= FIRST_SLOT + 0xFFFD


def slots_of(text: str) -> list[int]:
    """Numbers of the quotes whose slots stand in ``text``, in order."""
    return [ord(character) - FIRST_SLOT for character in text if is_slot(character)]


def _word(character: str) -> bool:
    """A letter or digit of a script that writes words apart, where an apostrophe may follow. Chinese and Japanese may open a quote after any letter."""
    return character.isalnum() and not "\u2e80" <= character <= "\uffef"


def _before(text: str, place: int) -> str:
    return text[place - 1] if place else " "


def _after(text: str, place: int) -> str:
    return text[place + 1] if place + 1 < len(text) else " "


def _opens(text: str, place: int) -> bool:
    mark, before, after = text[place], _before(text, place), _after(text, place)
    if mark == "'":
        if _word(before) or after.isspace():
            return False
        return not _elided(text, place)
    if mark == '"':
        return not (_word(before) and not _word(after))  # after a word it closes, or stands for inches
    return True


def _elided(text: str, place: int) -> bool:
    """'90s, 'tis, rock 'n' roll."""
    rest = text[place + 1 : place + 8].lower()
    decade = rest[:2].isdigit() and (rest[2:3] == "s" or not _word(rest[2:3] or " ")) and rest[2:3] != "'"
    return decade or any(rest.startswith(word) and not _word(rest[len(word) : len(word) + 1] or " ") for word in _SHORT)


class _Marks:
    """Where the marks of a text can close, found once: captions of nothing but marks must not take a scan for each of them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._closings: dict[str, dict[int, int]] = {}
        self._places: dict[str, list[int]] = {}
        self._any = [i for i in range(1, len(text)) if text[i] in _CLOSING and _could_close(text, i)]

    def quote_at(self, start: int) -> Quote | None:
        """The quote that opens at ``start``: to its own closing mark, else to another closing mark, else to the end of the sentence."""
        text, opening = self.text, self.text[start]
        limit = _line_end(text, start)
        end = self._own_closing(start)
        if end is not None and end < limit:
            return Quote(start, end + 1, opening, text[start + 1 : end], True)
        other = _next_of(self._any, start)
        if other is not None and other < limit:
            return Quote(start, other + 1, opening, text[start + 1 : other], False)
        if opening == "'":
            return None  # an apostrophe
        end = next((i for i in range(start + 1, limit) if text[i] in _SENTENCE_END and not _word(_after(text, i))), limit)
        return Quote(start, end, opening, text[start + 1 : end].rstrip(), False)

    def _own_closing(self, start: int) -> int | None:
        opening = self.text[start]
        if PAIRS[opening] in _APOSTROPHES:
            return self._apostrophe(start)
        if opening not in self._closings:
            self._closings[opening] = self._pairs(opening)
        return self._closings[opening].get(start)

    def _pairs(self, opening: str) -> dict[int, int]:
        """The closing mark of each opening one: the first at which more have closed than opened. One pass from the end."""
        text, closing = self.text, PAIRS[opening]
        found: dict[int, int] = {}
        at: dict[int, int] = {}  # what opens less what closes behind a mark -> the nearest mark of which that is so
        behind = 0
        for place in range(len(text) - 1, -1, -1):
            if text[place] not in (opening, closing):
                continue
            if behind + 1 in at:
                found[place] = at[behind + 1]
            at[behind] = place
            opens = text[place] == opening and (opening != closing or (place > 0 and _opens_inside(text, place)))
            behind += 1 if opens else -1
        return found

    def _apostrophe(self, start: int) -> int | None:
        """The same where the closing mark may be an apostrophe. Looks at no more than ``MAX_APOSTROPHES`` of them."""
        text, opening = self.text, self.text[start]
        closing = PAIRS[opening]
        if opening not in self._places:
            self._places[opening] = [i for i, character in enumerate(text) if character in (opening, closing)]
        places = self._places[opening]
        first = bisect_right(places, start)
        limit = _line_end(text, start)
        depth = 1
        for place in places[first : first + MAX_APOSTROPHES]:
            if place >= limit:
                return None
            if (text[place] == opening != closing) or (opening == closing and _opens_inside(text, place)):
                depth += 1
            elif _could_close(text, place) and not (depth == 1 and _possessive(text, place, limit)):
                depth -= 1
                if depth == 0:
                    return place
        return None


def _next_of(places: Sequence[int], start: int) -> int | None:
    number = bisect_right(places, start)
    return places[number] if number < len(places) else None


def _line_end(text: str, start: int) -> int:
    """Quotes may go over a line's end, but not into another paragraph."""
    end = text.find("\n\n", start)
    return len(text) if end < 0 else end


def _opens_inside(text: str, place: int) -> bool:
    """A straight mark inside a quote that opens another one: after a space or bracket, before a letter."""
    before, after = text[place - 1], _after(text, place)
    return (
        (before.isspace() or before in "([{") and (after.isalnum() or after in "#$@") and not (text[place] == "'" and _elided(text, place))
    )


def _could_close(text: str, place: int) -> bool:
    """Not an apostrophe inside a word, nor an opening mark."""
    mark, before, after = text[place], _before(text, place), _after(text, place)
    if mark in _APOSTROPHES:
        return not _word(after) and not (before.isspace() and mark == "'" and after.isspace())
    return mark != '"' or not _opens_inside(text, place)


def _possessive(text: str, place: int, limit: int) -> bool:
    """The dogs' bowl: after a plural s, when another mark closes later with none that opens in between."""
    if text[place - 1] != "s" or not _after(text, place).isspace():
        return False
    for later in range(place + 1, limit):
        if text[later] in PAIRS and text[later] not in _APOSTROPHES:
            return False
        if text[later] == text[place]:
            if _opens_inside(text, later):
                return False
            if _could_close(text, later):
                return True
    return False
