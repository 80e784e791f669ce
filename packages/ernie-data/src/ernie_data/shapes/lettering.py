"""Find signs in pictures and read their texts, exactly as they are drawn and without anything learned.

A sign is a component nearly as wide as the picture. Its text is the one whose rendering comes nearest to the ink in it, by least squares over the number
of glyphs, their common offset, and the glyph in every place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ernie_data.shapes.claims import TEXT_ROWS
from ernie_data.shapes.glyphs import ADVANCE, ALPHABET, COLUMNS, GLYPHS, ROWS, pixel_overlap, text_width_dots
from ernie_data.shapes.scene import SIGN_JITTER
from ernie_data.shapes.signs import DOT, INK_RGB

PLATE_LEAST_WIDTH, PLATE_LEAST_HEIGHT, PLATE_MOST_HEIGHT = 0.75, 0.15, 0.45
"""In picture sides. No object of any profile is wider than .62."""
MIN_TEXT_FIT = 0.45
"""Least share of the ink's squares that the best text explains; clean signs reach .92, noisy ones mostly .8."""
MIN_INK_CONTRAST = 0.25
"""Lightness between plate and ink, of [0, 1], below which a plate is empty."""
TAKEN = -1
"""Label of pixels that no object may grow into."""
_STEP_DOTS = 0.25
_ROW_CENTRES: Mapping[str, float] = dict(zip(TEXT_ROWS, (1 / 6, 1 / 2, 5 / 6)))
_ROW_TOLERANCE = 0.12


@dataclass(frozen=True)
class SeenText:
    """``text`` is None where a plate shows none; ``box``: left, top, right, bottom of the plate in pixels, the last two exclusive."""

    text: str | None
    row: str | None
    fit: float
    box: tuple[int, int, int, int]


def take_signs(rgb_BHW3: NDArray[np.float32], labels_BHW: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[tuple[SeenText, ...]]]:
    """Read every picture's signs.

    Args:
        rgb_BHW3: square pictures in [0, 1].
        labels_BHW: their components, 0 outside.

    Returns:
        the labels with ``TAKEN`` where a sign is and on the free pixels at its border, and the signs of each picture from the top.
    """
    left_BHW = labels_BHW.copy()
    found: list[tuple[SeenText, ...]] = []
    for rgb_HW3, labels_HW in zip(rgb_BHW3, left_BHW):
        boxes = _plates(labels_HW)
        for x0, y0, x1, y1 in boxes:
            around = labels_HW[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1]
            around[around == 0] = TAKEN
            labels_HW[y0:y1, x0:x1] = TAKEN
        found.append(tuple(read_sign(rgb_HW3, box) for box in boxes))
    return left_BHW, found


def read_sign(rgb_HW3: NDArray[np.float32], box: tuple[int, int, int, int]) -> SeenText:
    """Read the text on the plate that fills ``box``."""
    size_px = len(rgb_HW3)
    x0, y0, x1, y1 = box
    middle = (y0 + y1) / 2 / size_px
    row = next((name for name, y in _ROW_CENTRES.items() if abs(y - middle) <= _ROW_TOLERANCE), None)
    light_HW = rgb_HW3[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].mean(axis=-1)
    ink = float(np.mean(INK_RGB)) / 255
    dark = light_HW[light_HW < (light_HW.min() + ink) / 2]
    plate = float(np.median(dark)) if dark.size else float(light_HW.min())
    if light_HW.size == 0 or float(light_HW.max()) - plate < MIN_INK_CONTRAST:
        return SeenText(None, row, 0.0, box)
    alpha_HW = np.clip((light_HW - plate) / (ink - plate), -0.2, 1.2)
    text, explained = _best_text(alpha_HW, (x0 + 1 - size_px / 2, (y0 - y1) / 2 + 1), size_px)
    fit = explained / max(float((alpha_HW**2).sum()), 1e-6)
    return SeenText(text if fit >= MIN_TEXT_FIT else None, row, fit, box)


def _plates(labels_HW: NDArray[np.int32]) -> list[tuple[int, int, int, int]]:
    """Boxes of the components that are wide and low, from the top."""
    size_px = len(labels_HW)
    boxes = []
    for label in np.unique(labels_HW[:, size_px // 2]):
        if label == 0:
            continue
        ys, xs = np.nonzero(labels_HW == label)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        width, height = (box[2] - box[0]) / size_px, (box[3] - box[1]) / size_px
        if width >= PLATE_LEAST_WIDTH and PLATE_LEAST_HEIGHT <= height <= PLATE_MOST_HEIGHT:
            boxes.append(box)
    return sorted(boxes, key=lambda b: b[1])


def _best_text(alpha_HW: NDArray, corner: tuple[float, float], size_px: int) -> tuple[str, float]:
    """The text that explains most of ``alpha_HW``, and the explained sum of squares.

    For a rendering T of one glyph, |alpha|^2 - |alpha - T|^2 = 2 <alpha, T> - |T|^2. T is linear in the glyph's dots, so <alpha, T> is a product of
    the dots with alpha summed over each dot, and |T|^2 a quadratic form. ``corner``: where alpha's first pixel begins, in pixels from the middle of
    the picture in x and of the plate in y.
    """
    dot_px = DOT * size_px
    downs, rights = _offsets(size_px)
    h, w = alpha_HW.shape
    rows_YH7 = np.stack([pixel_overlap(h, (d + np.arange(ROWS) - ROWS / 2) * dot_px - corner[1], dot_px) for d in downs])
    slots = _slots()
    lefts = np.array([[r + s - corner[0] / dot_px for r in rights] for _, s in slots])  # in dots from alpha's first pixel
    columns = np.stack([[pixel_overlap(w, (left + np.arange(COLUMNS)) * dot_px, dot_px) for left in of_slot] for of_slot in lefts])
    glyphs_G75 = np.stack([GLYPHS[c] for c in ALPHABET])
    halfway = np.einsum("yhr,hw->yrw", rows_YH7, alpha_HW)
    dots = np.einsum("yrw,sxwc->ysxrc", halfway, columns)
    agreement = np.einsum("ysxrc,grc->ysxg", dots, glyphs_G75, optimize=True)
    gram_Y77 = np.einsum("yhr,yhq->yrq", rows_YH7, rows_YH7)
    gram_SX55 = np.einsum("sxwc,sxwd->sxcd", columns, columns)
    tall = np.einsum("yrq,gqc->ygrc", gram_Y77, glyphs_G75)
    norms = np.einsum("ygrc,grd,sxcd->ysxg", tall, glyphs_G75, gram_SX55, optimize=True)
    gain = 2 * agreement - norms
    best, which = gain.max(axis=-1), gain.argmax(axis=-1)
    candidates = []
    for n in sorted({n for n, _ in slots}):
        mine = [i for i, (of, _) in enumerate(slots) if of == n]
        total_YX = best[:, mine].sum(axis=1)
        y, x = np.unravel_index(np.argmax(total_YX), total_YX.shape)
        candidates.append((float(total_YX[y, x]), "".join(ALPHABET[which[y, i, x]] for i in mine)))
    explained, text = max(candidates)
    return text, explained


@lru_cache(maxsize=32)
def _offsets(size_px: int) -> tuple[NDArray, NDArray]:
    """How far a text may stand below and to the right of its place, in dots: as drawn, moved by a pixel, or its plate's edges misread by one."""
    pixel = 1 / (DOT * size_px)

    def steps(most: float) -> NDArray:
        n = int(np.ceil(most / _STEP_DOTS))
        return np.arange(-n, n + 1) * _STEP_DOTS

    return steps(pixel), steps(SIGN_JITTER[0] / DOT + pixel)


def _slots(most: int = 4) -> Sequence[tuple[int, float]]:
    """(number of glyphs, left side of one of them in dots from the text's middle) for texts of 1 to ``most`` glyphs."""
    return [(n, i * ADVANCE - text_width_dots(n) / 2) for n in range(1, most + 1) for i in range(n)]
