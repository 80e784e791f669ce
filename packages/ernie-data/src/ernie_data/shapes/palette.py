"""The colours of ShapeBench and their distances in CIE Lab (D65; Lab differences after CIE 1976)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

PALETTE: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (214, 34, 40),
        "green": (40, 150, 60),
        "blue": (24, 100, 216),
        "yellow": (240, 214, 30),
        "purple": (142, 36, 160),
        "orange": (246, 136, 20),
        "black": (28, 28, 30),
        "cyan": (0, 176, 200),
    }
)
"""sRGB values. Every two differ by at least 40 in Lab and every one from a background by at least 45 (asserted by a test)."""

BACKGROUND_LEVELS = (222, 250)
BACKGROUND_TINT = 4
"""A background is a light grey: one level for all channels, plus a tint of at most this much per channel."""

COLOUR_JITTER = 8
"""An object's colour differs from its palette entry by at most this much per channel."""

_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]], np.float32)
_WHITE = np.array([0.95047, 1.0, 1.08883], np.float32)


def to_lab(rgb: NDArray) -> NDArray[np.float32]:
    """sRGB in [0, 1], last axis RGB, to Lab (L in 0..100). Values outside [0, 1] are clipped."""
    c = np.clip(np.asarray(rgb, np.float32), 0.0, 1.0)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    t = linear @ (_XYZ / _WHITE[:, None]).T
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1).astype(np.float32)


def palette_lab(colours: tuple[str, ...]) -> NDArray[np.float32]:
    """Lab values of the named colours, [len(colours), 3]."""
    return to_lab(np.array([PALETTE[c] for c in colours], np.float32) / 255)
