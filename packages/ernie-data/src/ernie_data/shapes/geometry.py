"""The six shapes as signed distances, and their analytic coverage of pixels.

A shape lives in unit coordinates: its bounding box is at most [-.5, .5] in x and y, y points down. Pixel coverage is approximated by the signed
distance to the outline, ``clip(.5 - distance_px, 0, 1)``: exact for a straight edge along an axis, and within a few percent of a pixel elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

SQUARE_HALF = 0.44
TRIANGLE_HALF_BASE, TRIANGLE_HALF_HEIGHT = 0.5, 0.45
CROSS_HALF_ARM = 0.17
RING_INNER = 0.26


@dataclass(frozen=True)
class Geometry:
    """One shape. ``distance(x, y)`` is negative inside; ``area`` and ``centroid_y`` are analytic, in unit coordinates (the centroid's x is 0)."""

    distance: Callable[[NDArray, NDArray], NDArray]
    area: float
    centroid_y: float = 0.0


def _circle(x: NDArray, y: NDArray) -> NDArray:
    return np.hypot(x, y) - 0.5


def _square(x: NDArray, y: NDArray) -> NDArray:
    return np.maximum(np.abs(x), np.abs(y)) - SQUARE_HALF


def _triangle(x: NDArray, y: NDArray) -> NDArray:
    """Apex up: intersection of the half-planes below the base and under the two slanted sides."""
    slope = np.hypot(TRIANGLE_HALF_BASE, 2 * TRIANGLE_HALF_HEIGHT)
    side = (2 * TRIANGLE_HALF_HEIGHT * np.abs(x) - TRIANGLE_HALF_BASE * (y + TRIANGLE_HALF_HEIGHT)) / slope
    return np.maximum(side, y - TRIANGLE_HALF_HEIGHT)


def _cross(x: NDArray, y: NDArray) -> NDArray:
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 0.5, ay - CROSS_HALF_ARM), np.maximum(ax - CROSS_HALF_ARM, ay - 0.5))


def _diamond(x: NDArray, y: NDArray) -> NDArray:
    return (np.abs(x) + np.abs(y) - 0.5) / np.sqrt(2.0)


def _ring(x: NDArray, y: NDArray) -> NDArray:
    r = np.hypot(x, y)
    return np.maximum(r - 0.5, RING_INNER - r)


GEOMETRY: Mapping[str, Geometry] = MappingProxyType(
    {
        "circle": Geometry(_circle, np.pi / 4),
        "square": Geometry(_square, (2 * SQUARE_HALF) ** 2),
        # The centroid lies a third of the height above the base.
        "triangle": Geometry(_triangle, 2 * TRIANGLE_HALF_BASE * TRIANGLE_HALF_HEIGHT, TRIANGLE_HALF_HEIGHT / 3),
        "cross": Geometry(_cross, 4 * CROSS_HALF_ARM - 4 * CROSS_HALF_ARM**2),
        "diamond": Geometry(_diamond, 0.5),
        "ring": Geometry(_ring, np.pi / 4 - np.pi * RING_INNER**2),
    }
)


def coverage(shape: str, centre_K2: NDArray, size_K: NDArray, size_px: int) -> NDArray:
    """Share of each pixel that the shape covers, for K placements at once.

    Args:
        shape: a key of ``GEOMETRY``.
        centre_K2: x and y of the bounding box's centre, in picture sides (0 left or top, 1 right or bottom).
        size_K: width of the bounding box in picture sides.
        size_px: side of the square picture.

    Returns:
        float32 coverage_KHW in [0, 1].
    """
    at = ((np.arange(size_px, dtype=np.float32) + 0.5) / size_px).astype(np.float32)
    size = np.maximum(np.asarray(size_K, np.float32), 1e-6)[:, None, None]
    centre = np.asarray(centre_K2, np.float32)
    x = (at[None, None, :] - centre[:, 0, None, None]) / size
    y = (at[None, :, None] - centre[:, 1, None, None]) / size
    return np.clip(0.5 - GEOMETRY[shape].distance(x, y) * (size * size_px), 0.0, 1.0)
