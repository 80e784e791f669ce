"""Pictures as Tesseract reads them best: grey, dark on light, with a margin."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_data.ocr.lines import Box

MARGIN_PX = 20
"""Letters that touch the border are not found."""
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # Rec. 601, as grey JPEG
_LEAST_LUMINANCE_SHARE = 0.25
"""Of the colours' spread, that luminance must hold: with less, writing differs from its ground in hue alone."""
_DARK = 110


@dataclass(frozen=True)
class Prepared:
    """``scale``: its pixels per pixel of the picture, before the margin."""

    png: bytes
    scale: float

    def box_in_picture(self, box: Box, size: tuple[int, int]) -> Box:
        left, top, right, bottom = ((side - MARGIN_PX) / self.scale for side in box)
        width, height = size
        return min(max(int(left), 0), width), min(max(int(top), 0), height), min(round(right), width), min(round(bottom), height)


def prepare(picture: Image.Image, *, scale: float = 1.0) -> Prepared:
    """A picture in RGB, grey and enlarged by ``scale``. Where most is dark it is inverted; where luminance tells little, hue decides."""
    grey = Image.fromarray(as_grey(np.asarray(picture, np.uint8)))
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        grey = grey.resize((width, height), Image.Resampling.LANCZOS)
    grey_HW = np.pad(np.asarray(grey), MARGIN_PX, constant_values=_ground(np.asarray(grey)))
    data = io.BytesIO()
    Image.fromarray(grey_HW).save(data, format="PNG", compress_level=1)
    return Prepared(data.getvalue(), scale)


def as_grey(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance, or the principal axis of the colours (Pearson 1901) where luminance holds little of their spread; light where most is."""
    colours_N3 = rgb_HW3.reshape(-1, 3).astype(np.float64)
    level_N = colours_N3 @ _LUMINANCE
    spread = np.cov(colours_N3[:: max(1, len(colours_N3) // 20_000)].T) if len(colours_N3) > 1 else np.zeros((3, 3))
    variances, axes = np.linalg.eigh(spread)
    if _LUMINANCE @ spread @ _LUMINANCE < _LEAST_LUMINANCE_SHARE**2 * variances[-1] and variances[-1] > 1:
        along_N = colours_N3 @ axes[:, -1]
        low, high = np.quantile(along_N, [0.001, 0.999])
        level_N = np.clip((along_N - low) / max(high - low, 1e-6), 0, 1) * 255
    grey_HW = np.rint(np.clip(level_N, 0, 255)).astype(np.uint8).reshape(rgb_HW3.shape[:2])
    return 255 - grey_HW if np.median(grey_HW) < _DARK else grey_HW


def _ground(grey_HW: NDArray[np.uint8]) -> int:
    """The median along the border."""
    return int(np.median(np.concatenate([grey_HW[0], grey_HW[-1], grey_HW[:, 0], grey_HW[:, -1]])))
