"""Are two pictures the same? Small pictures compared as whole frames, and one as a crop of the other where their sizes allow it.

The distance is what remains between them after one factor of brightness, relative to their contrast. What is the same in other files (encoded again,
resized, somewhat brighter, a pixel less at the border) lies below .1; scenes with equal objects that stand elsewhere by a fraction of a pixel do not.

N: pictures compared with one; K: sides of small pictures; R: RGB.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ernie_data.duplicates.fingerprint import cropping, low_frequencies

MAX_GAIN = 1.12
"""Brighter or darker by more is another picture."""
MAX_CROP = 0.05
"""Of each axis, in total; at least two pixels."""
FAR = np.float32(np.inf)
_LEAST_CONTRAST = 8.0
"""In levels: plain pictures have hardly any contrast, and rounding must not separate them."""
_WHOLE = 12
_CROPPED = 8
"""Frequencies per axis that are compared. Higher ones change most by JPEG in very small pictures, and cannot be predicted at a crop's border."""

Size = tuple[int, int]


def distances(thumb_KKR: NDArray[np.uint8], size: Size, thumbs_NKKR: NDArray[np.uint8], sizes_N2: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of one picture to each of the others; symmetric. Sizes are (width, height) in px."""
    coefficients = low_frequencies(np.concatenate([thumb_KKR[None], thumbs_NKKR]))
    one_KKR, others_NKKR = coefficients[0], coefficients[1:]
    found_N = _remainder(one_KKR[None, :_WHOLE, :_WHOLE], others_NKKR[:, :_WHOLE, :_WHOLE])
    for n in np.flatnonzero((sizes_N2 != np.array(size)).any(axis=1)).tolist():
        other = (int(sizes_N2[n, 0]), int(sizes_N2[n, 1]))
        found_N[n] = min(found_N[n], _as_crop(one_KKR, size, others_NKKR[n], other), _as_crop(others_NKKR[n], other, one_KKR, size))
    return found_N


def _as_crop(whole_KKR: NDArray[np.float32], size: Size, part_KKR: NDArray[np.float32], part_size: Size) -> float:
    """The least distance of ``part`` to a crop of ``whole`` that has its size, at the corners, the sides and in the middle."""
    found = FAR
    part = part_KKR[None, :_CROPPED, :_CROPPED]
    for left, right in _cuts(size[0], part_size[0]):
        across = cropping(left, right)[:_CROPPED]
        for top, bottom in _cuts(size[1], part_size[1]):
            down = cropping(top, bottom)[:_CROPPED]
            cut = np.einsum("ka,abr,lb->klr", down, whole_KKR, across, optimize=True)[None]
            found = min(found, _remainder(cut, part)[0])
    return found


def _cuts(length: int, left_over: int) -> Iterator[tuple[float, float]]:
    """What may have been cut off at both ends, as shares of the length; nothing if it cannot have been."""
    cut = length - left_over
    if 0 <= cut <= max(2, MAX_CROP * length):
        for before in sorted({0, cut // 2, cut}):
            yield before / length, (cut - before) / length


def _remainder(one_MKKR: NDArray[np.float32], others_NKKR: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the best factor leaves of each difference, relative to the contrast of both: sin(angle) |a| |b| / contrast, in the geometric mean."""
    a, b = one_MKKR.reshape(len(one_MKKR), -1), others_NKKR.reshape(len(others_NKKR), -1)
    aa, bb, ab = (a * a).sum(axis=1), (b * b).sum(axis=1), (a * b).sum(axis=1)
    product = np.maximum(aa * bb, 1e-12)
    difference = np.sqrt(np.maximum(1 - ab * ab / product, 0) * np.sqrt(product))
    black = np.minimum(aa, bb) < 1
    difference = np.where(black, np.sqrt(np.maximum(aa + bb - 2 * ab, 0)), difference)
    contrast = np.sqrt(_contrast(one_MKKR) * _contrast(others_NKKR))
    gain = np.sqrt(aa / np.maximum(bb, 1e-12))  # the best factor of both directions, where they are alike
    same_brightness = black | ((gain <= MAX_GAIN) & (gain >= 1 / MAX_GAIN))
    return np.where(same_brightness, difference / np.maximum(contrast, _LEAST_CONTRAST), FAR).astype(np.float32)


def _contrast(coefficients_NKKR: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = coefficients_NKKR.reshape(len(coefficients_NKKR), -1)
    return np.sqrt(np.maximum((flat * flat).sum(axis=1) - (coefficients_NKKR[:, 0, 0] ** 2).sum(axis=1), 0))
