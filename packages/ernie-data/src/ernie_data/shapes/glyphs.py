"""The glyphs of ShapeBench's signs: 28 letters and digits on a grid of 5 x 7 dots, and their exact coverage of pixels.

Letters that an eye mistakes for a digit or for each other at this size (B D G I O Q S Z) are left out. Every glyph touches all four sides of its
grid, so that the ends of a text tell how many glyphs it has and how large its dots are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

COLUMNS, ROWS = 5, 7
ADVANCE = 6.5
"""Dots from one glyph's left side to the next one's."""

_DRAWN = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "C": ".#### #.... #.... #.... #.... #.... .####",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "J": "..### ...#. ...#. ...#. ...#. #..#. .##..",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "V": "#...# #...# #...# #...# .#.#. .#.#. ..#..",
    "W": "#...# #...# #...# #.#.# #.#.# ##.## #...#",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
    "0": ".###. #...# #...# #...# #...# #...# .###.",
    "1": "..#.. .##.. #.#.. ..#.. ..#.. ..#.. #####",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": "####. ....# ....# .###. ....# ....# ####.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": ".###. #.... #.... ####. #...# #...# .###.",
    "7": "##### ....# ...#. ..#.. ..#.. .#... #....",
    "8": ".###. #...# #...# .###. #...# #...# .###.",
    "9": ".###. #...# #...# .#### ....# ....# .###.",
}
GLYPHS: Mapping[str, NDArray[np.float32]] = MappingProxyType(
    {name: np.array([[dot == "#" for dot in row] for row in rows.split()], np.float32) for name, rows in _DRAWN.items()}
)
ALPHABET = "".join(GLYPHS)


def text_dots(text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The dots of a text, [7, 5 n], and the left side of each column in dots from the text's left end, [5 n]."""
    dots = np.concatenate([GLYPHS[c] for c in text], axis=1)
    lefts = np.concatenate([i * ADVANCE + np.arange(COLUMNS) for i in range(len(text))]).astype(np.float32)
    return dots, lefts


def text_width_dots(glyphs: int) -> float:
    return (glyphs - 1) * ADVANCE + COLUMNS


def text_coverage(text: str, left_px: float, top_px: float, dot_px: float, *, size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Exact share of each pixel that the text's square dots cover.

    Args:
        left_px, top_px: the upper left corner of the first glyph's grid.
        dot_px: side of a dot.
        size_px: height and width of the result.

    Returns:
        coverage_HW in [0, 1]; what lies outside is cut off.
    """
    dots, lefts = text_dots(text)
    rows_H7 = pixel_overlap(size_px[0], top_px + dot_px * np.arange(ROWS), dot_px)
    columns_WN = pixel_overlap(size_px[1], left_px + dot_px * lefts, dot_px)
    return (rows_H7 @ dots @ columns_WN.T).astype(np.float32)


def pixel_overlap(count: int, starts_px: NDArray, length_px: float) -> NDArray:
    """Length of each pixel's overlap with each interval, [count, intervals]."""
    at = np.arange(count)[:, None]
    return np.clip(np.minimum(at + 1, starts_px + length_px) - np.maximum(at, starts_px), 0.0, 1.0)
