"""Fixed features of a picture: which colours there are and where, which edges, and the coarse layout of light. No training, no downloads.

Six parts, each brought to length 1 and weighted, then the whole to length 1. Histograms enter by their square roots, so that inner products are
Bhattacharyya coefficients and small objects count beside large backgrounds. Gradients as in Dalal and Triggs 2005, patterns as in Ojala et al. 2002.

S: sides of the picture looked at, 64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_data.duplicates.fingerprint import cosines
from ernie_data.shapes.palette import to_lab

SIDE_PX = 64
DIMENSIONS = 236
_LAB_BINS = (4, 5, 5)
_LAB_FROM, _LAB_TO = np.array([0.0, -75.0, -75.0]), np.array([100.0, 75.0, 75.0])
_BACKGROUND_WEIGHT, _FAR_AWAY = 0.02, 40.0
_ORIENTATIONS, _CELL_ORIENTATIONS = 18, 9
_WEIGHTS = {"colours": 1.5, "colour places": 0.15, "edges": 1.0, "edge places": 0.15, "patterns": 0.8, "layout": 0.15}


def tiny_embedding(picture: Image.Image) -> NDArray[np.float32]:
    """A vector of ``DIMENSIONS`` numbers and length 1."""
    rgb_SS3 = np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), np.float32) / 255
    lab_SS3 = to_lab(rgb_SS3)
    across, down = _gradients(lab_SS3)
    strength, angle = np.hypot(across, down), np.arctan2(down, across) % np.pi
    parts = {
        "colours": np.sqrt(_colours(lab_SS3)),
        "colour places": _cells(lab_SS3 / 100, 3).mean(axis=(1, 2)).ravel(),
        "edges": np.sqrt(_orientations(strength, angle, _ORIENTATIONS)),
        "edge places": np.sqrt(
            np.concatenate(
                [_orientations(s, a, _CELL_ORIENTATIONS) for s, a in zip(_cells(strength[..., None], 2), _cells(angle[..., None], 2))]
            )
        ),
        "patterns": np.sqrt(np.concatenate([_patterns(lab_SS3[..., 0], reach) for reach in (1, 3)])),
        "layout": _layout(lab_SS3[..., 0] / 100),
    }
    whole = np.concatenate([_WEIGHTS[name] * part / max(float(np.linalg.norm(part)), 1e-6) for name, part in parts.items()])
    return (whole / np.linalg.norm(whole)).astype(np.float32)


def _colours(lab_SS3: NDArray[np.float32]) -> NDArray[np.float64]:
    """Histogram in Lab with each pixel shared among the eight nearest bins, so that a small change of colour is a small change of the vector. A pixel
    counts by how far it is from the picture's median colour: a plain background says less than what stands before it.
    """
    away = np.linalg.norm(lab_SS3 - np.median(lab_SS3, axis=(0, 1)), axis=-1).ravel()
    weight = _BACKGROUND_WEIGHT + np.minimum(away / _FAR_AWAY, 1)
    bins = np.array(_LAB_BINS)
    place = np.clip((lab_SS3.reshape(-1, 3) - _LAB_FROM) / (_LAB_TO - _LAB_FROM), 0, 1) * (bins - 1)
    low = np.minimum(place.astype(np.int64), bins - 2)
    above = place - low
    histogram = np.zeros(_LAB_BINS)
    for corner in np.ndindex(2, 2, 2):
        share = weight * np.prod(np.where(corner, above, 1 - above), axis=1)
        np.add.at(histogram, tuple((low + corner).T), share)
    return histogram.ravel() / weight.sum()


def _gradients(lab_SS3: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the channel that changes most at each pixel, by central differences."""
    padded = np.pad(lab_SS3, [(1, 1), (1, 1), (0, 0)], mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    most = np.hypot(across, down).argmax(axis=-1)[..., None]
    return np.take_along_axis(across, most, axis=-1)[..., 0], np.take_along_axis(down, most, axis=-1)[..., 0]


def _orientations(strength: NDArray[np.float32], angle: NDArray[np.float32], bins: int) -> NDArray[np.float64]:
    """Histogram of directions without sign, each edge shared between the two nearest bins."""
    place = angle.ravel() / np.pi * bins
    low = np.floor(place).astype(np.int64)
    share = place - low
    weight = strength.ravel().astype(np.float64)
    found = np.bincount(low % bins, weight * (1 - share), minlength=bins) + np.bincount((low + 1) % bins, weight * share, minlength=bins)
    return np.maximum(found, 0)


def _patterns(light_SS: NDArray[np.float32], reach: int) -> NDArray[np.float64]:
    """Histogram of uniform local binary patterns: how many of the eight neighbours are lighter, where they lie together; else the last bin. Flat
    places count little: they are most of a plain picture and say nothing.
    """
    side = len(light_SS) - 2 * reach
    middle = light_SS[reach:-reach, reach:-reach]
    steps = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
    around = np.stack([light_SS[reach * (1 + y) : reach * (1 + y) + side, reach * (1 + x) : reach * (1 + x) + side] for y, x in steps])
    lighter = around > middle + 3.0
    changes = (lighter != np.roll(lighter, 1, axis=0)).sum(axis=0)
    pattern = np.where(changes <= 2, lighter.sum(axis=0), 9)
    flat = np.abs(around - middle).max(axis=0) < 3.0
    return np.bincount(pattern[~flat], minlength=10).astype(np.float64)


def _cells(values_SSC: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """[cells, rows, columns, channels] of a grid of ``count`` by ``count``; what does not divide evenly is left out."""
    side = len(values_SSC) // count
    whole = values_SSC[: side * count, : side * count]
    return whole.reshape(count, side, count, side, -1).transpose(0, 2, 1, 3, 4).reshape(count * count, side, side, -1)


def _layout(light_SS: NDArray[np.float32]) -> NDArray[np.float64]:
    """The lowest 6 x 6 cosine coefficients of light without the first."""
    matrix = cosines(SIDE_PX)[:6]
    return (matrix @ light_SS @ matrix.T).ravel()[1:]
