"""What a picture is recognised by: a perceptual hash of 64 bits to find candidates, and a small picture to compare them by.

Both come from the low frequencies of the discrete cosine transform of the picture at 64 x 64 px. The hash says which of the 8 x 8 lowest luminance
coefficients are above their median (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1). Plain pictures
of few objects collide in it, so a hash alone proves nothing: the small picture, 16 x 16 px in colour, decides.

G: sides of the transformed picture, K: of the small one; R: RGB.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID_PX = 64
THUMB_PX = 16
THUMB_BYTES = THUMB_PX * THUMB_PX * 3
_HASH_SIDE = 8
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def fingerprint(picture: Image.Image) -> tuple[int, NDArray[np.uint8]]:
    """The perceptual hash and the small picture (uint8 [16, 16, 3]) of an RGB picture."""
    pixels_GGR = np.asarray(picture.resize((GRID_PX, GRID_PX), Image.Resampling.BICUBIC), np.float64)
    low_KKR = _transformed(pixels_GGR, cosines(GRID_PX)[:THUMB_PX]) / GRID_PX
    return _hash(low_KKR), _small(low_KKR)


def _transformed(pixels_GGR: NDArray[np.float64], matrix_KG: NDArray[np.float64]) -> NDArray[np.float64]:
    return (matrix_KG @ pixels_GGR.transpose(2, 0, 1) @ matrix_KG.T).transpose(1, 2, 0)


def _hash(low_KKR: NDArray[np.float64]) -> int:
    # Rounded: of a plain picture every coefficient but the first is zero, and the last digits of a sum must not become bits.
    luminance = np.round(low_KKR[:_HASH_SIDE, :_HASH_SIDE] @ _LUMINANCE, 3).ravel()
    above = luminance > np.median(luminance[1:])
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def _small(low_KKR: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The coefficients as a picture: they come back from it up to rounding, see ``low_frequencies``."""
    pixels_KKR = _transformed(low_KKR * THUMB_PX, cosines(THUMB_PX).T)
    return np.rint(np.clip(pixels_KKR, 0, 255)).astype(np.uint8)


def low_frequencies(thumbs_NKKR: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Cosine coefficients of small pictures, in levels: their squares sum to the mean square of the three channels' pixels, times three."""
    matrix = cosines(THUMB_PX).astype(np.float32)
    return (matrix @ thumbs_NKKR.astype(np.float32).transpose(0, 3, 1, 2) @ matrix.T).transpose(0, 2, 3, 1) / THUMB_PX


@cache
def cosines(side: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II as a matrix [frequency, position]."""
    frequency, position = np.arange(side)[:, None], np.arange(side)[None]
    matrix = np.cos(np.pi * (2 * position + 1) * frequency / (2 * side)) * np.sqrt(2 / side)
    matrix[0] /= np.sqrt(2)
    return matrix


@cache
def cropping(before: float, after: float) -> NDArray[np.float32]:
    """How cropping shares ``before`` and ``after`` of one axis changes cosine coefficients: [new frequency, old frequency].

    A cosine sum is known at every position: the old one is read at ``before + (1 - before - after) x`` and projected on the cosines in x.
    """
    samples = 4 * THUMB_PX
    x = ((np.arange(samples) + 0.5) / samples)[:, None]
    frequency = np.arange(THUMB_PX)[None]
    norm = np.where(frequency == 0, 1.0, np.sqrt(2.0))
    new = np.cos(np.pi * frequency * x) * norm
    old = np.cos(np.pi * frequency * (before + (1 - before - after) * x)) * norm
    return (new.T @ old / samples).astype(np.float32)
