"""What pixels tell without a judge: contrast, clipping, and how different the pictures of one prompt are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 16
"""Pictures are compared at so many pixels a side: what differs is layout and colour, not noise."""


@dataclass(frozen=True)
class PixelFacts:
    """One picture. ``std``: standard deviation over places, mean over channels, black is 0 and white 1. ``clipped``: share of values at 0 or 255.
    ``small``: float32 [SIDE * SIDE * 3]."""

    std: float
    clipped: float
    small: NDArray[np.float32]


def pixel_facts(pixels_HW3: NDArray[np.uint8]) -> PixelFacts:
    scaled = pixels_HW3.reshape(-1, 3).astype(np.float64) / 255
    return PixelFacts(
        std=float(scaled.std(axis=0).mean()),
        clipped=float(((pixels_HW3 == 0) | (pixels_HW3 == 255)).mean()),
        small=_means(_means(pixels_HW3.astype(np.float32) / 255, 0), 1).reshape(-1),
    )


def mean_distance(found: Sequence[PixelFacts]) -> float | None:
    """Root mean square difference of two pictures of one prompt, mean over all pairs; None for fewer than two."""
    if len(found) < 2:
        return None
    rows = np.stack([one.small for one in found]).astype(np.float64)
    pairs = [np.sqrt(np.mean((rows[i] - rows[i + 1 :]) ** 2, axis=1)) for i in range(len(rows) - 1)]
    return float(np.concatenate(pairs).mean())


def _means(pixels: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Means over SIDE equal stretches of an axis, of whole pixels; a shorter axis is repeated."""
    size = pixels.shape[axis]
    if size < SIDE:
        return np.take(pixels, np.arange(SIDE) * size // SIDE, axis=axis)
    edges = np.arange(SIDE + 1) * size // SIDE
    sums = np.add.reduceat(pixels, edges[:-1], axis=axis)
    shape = [1] * pixels.ndim
    shape[axis] = SIDE
    return sums / np.diff(edges).astype(np.float32).reshape(shape)
