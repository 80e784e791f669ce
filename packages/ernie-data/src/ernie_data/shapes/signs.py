"""Signs: a dark plate over the width of the picture with a text in white, drawn with exact coverage, and their layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ernie_data.shapes.glyphs import ROWS, text_coverage, text_width_dots
from ernie_data.shapes.scene import Sign

PLATE_RGB, INK_RGB = (62, 68, 84), (252, 252, 252)
PLATE_HALF_WIDTH, PLATE_HALF_HEIGHT = 0.46, 0.137
DOT = 0.031
"""Side of a glyph's dot. All lengths in picture sides."""


def draw_sign(pixels_HW3: NDArray[np.float32], sign: Sign) -> None:
    """Draw over the picture, in place. The plate's middle is the picture's in x and the text's in y."""
    size_px = len(pixels_HW3)
    x, y = sign.centre
    at = np.arange(size_px)

    def covered(low: float, high: float) -> NDArray:
        return np.clip(np.minimum(at + 1, high * size_px) - np.maximum(at, low * size_px), 0.0, 1.0)

    rows_H, columns_W = covered(y - PLATE_HALF_HEIGHT, y + PLATE_HALF_HEIGHT), covered(0.5 - PLATE_HALF_WIDTH, 0.5 + PLATE_HALF_WIDTH)
    plate_HW = np.outer(rows_H, columns_W)
    left, top = x - DOT * text_width_dots(len(sign.text)) / 2, y - DOT * ROWS / 2
    ink_HW = text_coverage(sign.text, left * size_px, top * size_px, DOT * size_px, size_px=(size_px, size_px))
    for share_HW, rgb in ((plate_HW, PLATE_RGB), (ink_HW, INK_RGB)):
        pixels_HW3 += share_HW[..., None].astype(np.float32) * (np.array(rgb, np.float32) - pixels_HW3)
