"""Words and lines of text in a picture: joining words of several scripts, splitting what stands in columns, and merging what several passes read."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture; the last two are exclusive."""
COLUMN_GAP = 1.2
"""Words further apart than this many heights of their line belong to different lines."""
SPACE_GAP = 0.3
"""Where a script without spaces meets one with them, a space is read if the gap has this many heights of the line."""
SAME_PLACE = 0.35
"""Two lines read the same writing if they share this much of the smaller one's area."""
BLOCK_HEIGHTS = 1.7
"""Lines of one block differ at most so much in height: one without ascenders is lower than its neighbours."""
LEAST_WORTH = 0.45
"""Of a line (see ``worth``): specks read as one or two doubtful letters have less, a single letter of confidence .95 has as much."""
DOUBTFUL = 0.5
"""Confidence that is worth nothing when two readings of a place compete."""


@dataclass(frozen=True)
class Word:
    """``confidence`` in [0, 1]; ``line`` is equal for the words of one line of a pass."""

    text: str
    confidence: float
    box: Box
    line: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line or region of text, with the mean confidence of its characters."""

    text: str
    confidence: float
    box: Box


def lines_of(words: Sequence[Word]) -> list[Line]:
    """Lines of one pass, split where words stand in different columns. Words keep the order in which they are given."""
    grouped: dict[tuple[int, ...], list[Word]] = {}
    for word in words:
        grouped.setdefault(word.line, []).append(word)
    lines = []
    for members in grouped.values():
        height = sorted(w.box[3] - w.box[1] for w in members)[len(members) // 2]
        part = [members[0]]
        for word in members[1:]:
            if word.box[0] - part[-1].box[2] > COLUMN_GAP * height:
                lines.append(_joined(part, height))
                part = []
            part.append(word)
        lines.append(_joined(part, height))
    return lines


def _joined(words: Sequence[Word], height: int) -> Line:
    text = words[0].text
    for before, word in pairwise(words):
        wide = word.box[0] - before.box[2] > SPACE_GAP * height
        left, right = is_ideograph(text[-1]), is_ideograph(word.text[0])
        text += (" " if not (left or right) or (wide and left != right and _spaced(text[-1], word.text[0])) else "") + word.text
    characters = sum(len(w.text) for w in words)
    confidence = sum(w.confidence * len(w.text) for w in words) / characters
    return Line(text, confidence, around(w.box for w in words))


def _spaced(left: str, right: str) -> bool:
    """Full-width punctuation brings its own space."""
    return not any(unicodedata.category(c).startswith("P") and unicodedata.east_asian_width(c) in "WF" for c in (left, right))


def is_ideograph(character: str) -> bool:
    """Whether the script of a character is written without spaces: wide letters and punctuation of East Asia."""
    return unicodedata.east_asian_width(character) in "WF"


def merged(passes: Iterable[Sequence[Line]]) -> list[Line]:
    """One reading of each place. The most text with confidence wins, earlier passes win ties; returned in reading order."""
    chosen: list[Line] = []
    every = [line for lines in passes for line in lines]
    for line in sorted(every, key=worth, reverse=True):
        if not any(shared(line.box, other.box) > SAME_PLACE for other in chosen):
            chosen.append(line)
    return in_reading_order(chosen)


def worth(line: Line) -> float:
    """How much a line is believed, in characters: wide ones count as two, as they are as wide."""
    return sum(1 + is_ideograph(c) for c in line.text if not c.isspace()) * (line.confidence - DOUBTFUL)


def is_credible(line: Line, least_confidence: float) -> bool:
    """Whether a line is writing: it has letters or digits (strokes and specks are read as punctuation), and enough of them for its confidence."""
    return line.confidence >= least_confidence and worth(line) >= LEAST_WORTH and any(character.isalnum() for character in line.text)


def shared(one: Box, other: Box) -> float:
    """Area in both boxes, as a share of the smaller."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return max(width, 0) * max(height, 0) / smaller if smaller > 0 else 0.0


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """Block after block: lines closely below each other belong together, so that a text in two columns is not read across them.

    Blocks follow each other by the rows of their first lines, from the top and, within a row, from the left.
    """
    blocks: list[list[Line]] = []
    for line in sorted(lines, key=lambda found: (found.box[1] + found.box[3], found.box[0], found.text)):
        block = next((b for b in reversed(blocks) if _continues(b[-1], line)), None)
        if block is None:
            blocks.append([line])
        else:
            block.append(line)
    rows: list[list[list[Line]]] = []
    for block in blocks:
        if rows and abs(_middle(block[0]) - _middle(rows[-1][0][0])) <= _height(rows[-1][0][0]) / 4:
            rows[-1].append(block)
        else:
            rows.append([block])
    return [line for row in rows for block in sorted(row, key=lambda found: found[0].box[0]) for line in block]


def _continues(above: Line, below: Line) -> bool:
    """Whether a line is the next one of the same block: of about the same height, closely below, and over most of the narrower one's width."""
    heights = sorted((_height(above), _height(below)))
    common = min(above.box[2], below.box[2]) - max(above.box[0], below.box[0])
    narrower = min(line.box[2] - line.box[0] for line in (above, below))
    gap = below.box[1] - above.box[3]
    return heights[1] <= BLOCK_HEIGHTS * heights[0] and -heights[0] / 2 <= gap <= heights[0] and common > narrower / 2


def _height(line: Line) -> int:
    return line.box[3] - line.box[1]


def _middle(line: Line) -> float:
    return (line.box[1] + line.box[3]) / 2


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all."""
    lefts, tops, rights, bottoms = zip(*boxes)
    return min(lefts), min(tops), max(rights), max(bottoms)
