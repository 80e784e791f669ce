"""The known quality law of ShapeBench, and a scorer that reads a picture's quality from its pixels alone.

The law: a picture with a flaw of strength s (``flaws``) has the quality 1 - s, a clean one 1. The scorer measures the strength of each kind of flaw
and gives ``1 + 9 (1 - strength of the worst)``, so that 10 is a clean picture and 1 the worst. It knows neither scene nor profile nor size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError, ScorerContext
from ernie_data.shapes.entries import ShapesQualityConfig
from ernie_data.shapes.flaws import (
    BLUR_LEAST,
    BLUR_SLOPE,
    CLUTTER_LEVELS,
    CLUTTER_STRIPES,
    MIDDLE,
    NOISE_SIGMA,
    VEIL_LOSS,
)
from ernie_data.shapes.palette import BACKGROUND_LEVELS, PALETTE
from ernie_data.shapes.signs import INK_RGB, PLATE_RGB

LOWEST, HIGHEST = 1.0, 10.0
_FLAT_LEVELS = 6.0
"""A pixel whose neighbours differ by less than this has the colour of a surface, not of an edge."""
_VEIL_STEPS = 61
_BLUR_BESIDE_OTHERS = 2.0
_BLUR_OF_SHARP_PX, _BLUR_OF_STRONGEST = 5.0, 0.9
"""What edges give for strength 0 (this over the side: sharp edges fall between pixels) and for strength 1 (objects too narrow to show their contrast)."""


def build(config: ShapesQualityConfig, context: ScorerContext) -> ShapesQuality:
    return ShapesQuality()


class ShapesQuality:
    """The scorer `shapes-quality`."""

    code = "shapes-quality 2"

    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Quality of each picture from 1 to 10. Prompts are ignored.

        Raises:
            DataError: an image that is not uint8 [H, W, 3].
        """
        return np.array([quality_of(image) for image in images], np.float64)


def quality_of(pixels_HW3: NDArray[np.uint8]) -> float:
    """Quality from 1 to 10, from pixels alone.

    Raises:
        DataError: not uint8 [H, W, 3], or a side below 16 pixels.
    """
    strengths = flaw_strengths(pixels_HW3)
    others = max(s for name, s in strengths.items() if name != "blur")
    # A sharp edge that falls between pixels looks slightly blurred: that says nothing beside another flaw.
    worst = strengths["blur"] if strengths["blur"] > _BLUR_BESIDE_OTHERS * others else others
    return LOWEST + (HIGHEST - LOWEST) * (1.0 - worst)


def flaw_strengths(pixels_HW3: NDArray[np.uint8]) -> dict[str, float]:
    """The measured strength of each kind of flaw, in [0, 1].

    Raises:
        DataError: see ``quality_of``.
    """
    if pixels_HW3.ndim != 3 or pixels_HW3.shape[2] != 3 or pixels_HW3.dtype != np.uint8 or min(pixels_HW3.shape[:2]) < 16:
        raise DataError(
            f"quality is read from uint8 pictures [H, W, 3] of at least 16 px, found {pixels_HW3.dtype} {list(pixels_HW3.shape)}"
        )
    values = pixels_HW3.astype(np.float32)
    noise = noise_sigma(values)
    clutter = _clutter(values)
    veil = _veil(values, noise * 255) if max(noise / NOISE_SIGMA, clutter) < 0.05 else 0.0
    blur = _blur(values, 1 - VEIL_LOSS * veil) if noise / NOISE_SIGMA < 0.05 else 0.0
    found = {"noise": noise / NOISE_SIGMA, "veil": veil, "blur": blur, "clutter": clutter}
    return {name: float(np.clip(s, 0.0, 1.0)) for name, s in found.items()}


def noise_sigma(values_HW3: NDArray[np.float32]) -> float:
    """Sigma of the grain that ``flaws`` adds, in units of the [0, 1] range.

    The second difference in x and in y (weights 1 -2 1 each way, norm 6) removes surfaces and slopes; edges are few, so the 30 % quantile of its
    absolute value, .385 of a normal distribution's deviation, is the noise's. Immerkaer 1996, with a quantile for the mean. The absolute value of a
    standard normal has the deviation sqrt(1 - 2 / pi).
    """
    v = values_HW3
    across = v[:, :-2] - 2 * v[:, 1:-1] + v[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(np.quantile(np.abs(both), 0.3)) / (0.38532 * np.sqrt(1 - 2 / np.pi) * 6 * 255)


def _veil(values_HW3: NDArray[np.float32], noise_levels: float) -> float:
    """The strength whose removal brings the picture's surfaces nearest to the colours of ShapeBench."""
    flat = values_HW3[_flat(values_HW3)]
    if len(flat) == 0:
        return 0.0
    colours, counts = np.unique(np.rint(flat / 4).astype(np.int16), axis=0, return_counts=True)
    weights = np.minimum(counts, 0.02 * len(flat)).astype(np.float64)  # a surface counts by its presence more than by its size
    known = np.array([*PALETTE.values(), PLATE_RGB, INK_RGB], np.float32)
    low, high = BACKGROUND_LEVELS
    costs = []
    for strength in np.linspace(0, 1, _VEIL_STEPS):
        clear_N3 = MIDDLE + (colours * 4.0 - MIDDLE) / (1 - VEIL_LOSS * strength)
        to_known = np.linalg.norm(clear_N3[:, None] - known, axis=-1).min(axis=1)
        level_N = clear_N3.mean(axis=-1)
        off_grey = np.abs(clear_N3 - level_N[:, None]).max(axis=-1)
        to_background = np.hypot(np.maximum(0, np.maximum(low - level_N, level_N - high)) * 1.7, np.maximum(0, off_grey - 5))
        costs.append(np.minimum(np.minimum(to_known, to_background), 60) @ weights)
    return float(np.argmin(costs)) / (_VEIL_STEPS - 1)


def _flat(values_HW3: NDArray[np.float32]) -> NDArray[np.bool_]:
    flat = np.ones(values_HW3.shape[:2], bool)
    for axis in (0, 1):
        step = np.abs(np.diff(values_HW3, axis=axis)).max(axis=-1) < _FLAT_LEVELS
        ends = [(1, 0) if a == axis else (0, 0) for a in (0, 1)], [(0, 1) if a == axis else (0, 0) for a in (0, 1)]
        flat &= np.pad(step, ends[0], constant_values=True) & np.pad(step, ends[1], constant_values=True)
    return flat


def _blur(values_HW3: NDArray[np.float32], contrast: float) -> float:
    """From the steepest edges: across an edge of contrast c blurred by sigma, neighbouring pixels differ by at most ``c erf(1 / (2 sqrt2 sigma))``.

    The contrast is the range of values within reach on both sides.
    """
    side = min(values_HW3.shape[:2])
    reach = max(2, int(np.ceil(2.0 * (BLUR_LEAST + BLUR_SLOPE) * side)))
    ratios = []
    for axis in (0, 1):
        lines = np.moveaxis(values_HW3, axis, 0)
        step = np.abs(np.diff(lines, axis=0))
        spread = _range_along(lines, reach)
        strong = spread > 60 * contrast
        if strong.any():
            ratios.append((step / np.maximum(spread, 1))[strong])
    if not ratios:
        return 0.0
    steepest = float(np.quantile(np.concatenate(ratios), 0.93))
    grid = np.linspace(0, 1, 201)
    expected = np.array([_steepest(BLUR_LEAST * side + BLUR_SLOPE * side * s) for s in grid])
    read = float(np.interp(-steepest, -expected, grid))
    sharp = _BLUR_OF_SHARP_PX / side
    return (read - sharp) / (_BLUR_OF_STRONGEST - sharp)


def _steepest(sigma_px: float) -> float:
    from math import erf

    return erf(1 / (2 * np.sqrt(2) * max(sigma_px, 1e-6)))


def _range_along(lines: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """For each step between neighbouring lines, the range of values over ``reach`` lines on both sides."""
    padded = np.pad(lines, [(reach - 1, reach - 1), (0, 0), (0, 0)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach, axis=0)
    return windows.max(axis=-1) - windows.min(axis=-1)


def _clutter(values_HW3: NDArray[np.float32]) -> float:
    """Amplitude of the stripes over the background: least squares of one plane wave and a constant on light neutral pixels."""
    h, w = values_HW3.shape[:2]
    level_HW, off_HW = values_HW3.mean(axis=-1), np.ptp(values_HW3, axis=-1)
    light = (level_HW > 150) & (off_HW < 30)
    if light.mean() < 0.1:
        return 0.0
    y, x = np.nonzero(light)
    angle = np.pi * CLUTTER_STRIPES * (x / w + y / h)
    waves_N3 = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], axis=-1)
    for _ in range(3):
        found, *_ = np.linalg.lstsq(waves_N3, level_HW[y, x], rcond=None)
        off = np.abs(level_HW[y, x] - waves_N3 @ found)
        keep = off <= max(3.0, 3 * float(np.median(off)))
        y, x, waves_N3 = y[keep], x[keep], waves_N3[keep]
    return 2 * float(np.hypot(found[1], found[2])) / CLUTTER_LEVELS
