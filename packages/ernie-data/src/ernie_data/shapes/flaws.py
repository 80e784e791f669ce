"""Flaws of known strength, rendered into a picture: what the known quality law of ShapeBench is about.

A flaw has one kind and a strength s in [0, 1]; a scene's quality is 1 - s. With H the picture's side in pixels:

    noise    each value moves towards the middle, 128, by .2 s |n| of the range, n standard normal: a grain that black and white cannot clip
    veil     every value v moves towards the middle: 128 + (1 - .6 s) (v - 128)
    blur     a Gaussian of sigma = (.006 + .03 s) H pixels, over the whole picture
    clutter  diagonal stripes, 8 to the picture's side, that darken the background by up to 56 s levels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_core.rng import Rng

FLAWS = ("noise", "veil", "blur", "clutter")
NOISE_SIGMA = 0.2
VEIL_LOSS, MIDDLE = 0.6, 128.0
BLUR_LEAST, BLUR_SLOPE = 0.006, 0.030
CLUTTER_LEVELS, CLUTTER_STRIPES = 56.0, 8
_CLUTTER_FROM_LEVEL = 190.0
"""Only pixels whose darkest channel is above this are background enough to be striped."""


@dataclass(frozen=True)
class Flaw:
    """``seed`` draws what the kind leaves open: the noise itself, the phase of the stripes."""

    kind: str
    strength: float
    seed: int = 0


def add_flaw(pixels_HW3: NDArray[np.uint8], flaw: Flaw) -> NDArray[np.uint8]:
    """The picture with the flaw; a pure function of both."""
    generator = Rng(flaw.seed).at("shapes/flaw", 0).generator(0)
    values = pixels_HW3.astype(np.float32)
    if flaw.kind == "noise":
        grain = np.abs(generator.standard_normal(values.shape, dtype=np.float32))
        values += np.where(values < MIDDLE, 255, -255) * NOISE_SIGMA * flaw.strength * grain
    elif flaw.kind == "veil":
        values = MIDDLE + (1 - VEIL_LOSS * flaw.strength) * (values - MIDDLE)
    elif flaw.kind == "blur":
        values = gaussian_blur(values, sigma_px=blur_px(flaw.strength, len(values)))
    else:
        values -= _stripes(values, flaw.strength, phase=float(generator.uniform(0, 2 * np.pi)))
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def blur_px(strength: float, side_px: int) -> float:
    return (BLUR_LEAST + BLUR_SLOPE * strength) * side_px


def gaussian_blur(values_HW3: NDArray[np.float32], *, sigma_px: float) -> NDArray[np.float32]:
    """Separable Gaussian, cut at three sigmas, with replicated borders."""
    reach = max(1, int(np.ceil(3 * sigma_px)))
    at = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (at / sigma_px) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(values_HW3, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        length = values_HW3.shape[axis]
        values_HW3 = sum(k * np.take(padded, range(i, i + length), axis=axis) for i, k in enumerate(kernel)).astype(np.float32)
    return values_HW3


def _stripes(values_HW3: NDArray[np.float32], strength: float, *, phase: float) -> NDArray[np.float32]:
    h, w = values_HW3.shape[:2]
    y, x = np.mgrid[:h, :w]
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * CLUTTER_STRIPES * (x / w + y / h) / 2 + phase)
    background = values_HW3.min(axis=-1) > _CLUTTER_FROM_LEVEL
    return (CLUTTER_LEVELS * strength * wave * background)[..., None].astype(np.float32)
