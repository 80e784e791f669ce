"""Scenes to pixels, anti-aliased and at any size. Pure numpy; a picture depends on its scene and size alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import ConfigError
from ernie_data.shapes.flaws import add_flaw
from ernie_data.shapes.geometry import coverage
from ernie_data.shapes.scene import Scene
from ernie_data.shapes.signs import draw_sign

MIN_SIZE_PX, MAX_SIZE_PX = 16, 256


def render(scenes: Sequence[Scene], size_px: int) -> NDArray[np.uint8]:
    """Render scenes as square pictures, blending in sRGB: objects, then the sign, then the flaw over all.

    Returns:
        uint8 pixels_BHW3.

    Raises:
        ConfigError: size out of range.
    """
    if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
        raise ConfigError(f"ShapeBench renders pictures of {MIN_SIZE_PX} to {MAX_SIZE_PX} px, found {size_px}")
    pixels_BHW3 = np.empty((len(scenes), size_px, size_px, 3), np.float32)
    pixels_BHW3[:] = np.array([s.background for s in scenes], np.float32).reshape(-1, 1, 1, 3)
    placed = [(b, o) for b, scene in enumerate(scenes) for o in scene.objects]
    for shape in sorted({o.triple.shape for _, o in placed}):
        mine = [(b, o) for b, o in placed if o.triple.shape == shape]
        share_KHW = coverage(shape, np.array([o.centre for _, o in mine]), np.array([o.size for _, o in mine]), size_px)
        for (b, o), share_HW in zip(mine, share_KHW):
            pixels_BHW3[b] += share_HW[..., None] * (np.array(o.rgb, np.float32) - pixels_BHW3[b])
    for scene, pixels_HW3 in zip(scenes, pixels_BHW3):
        if scene.sign is not None:
            draw_sign(pixels_HW3, scene.sign)
    rendered_BHW3 = np.rint(np.clip(pixels_BHW3, 0, 255)).astype(np.uint8)
    for b, scene in enumerate(scenes):
        if scene.flaw is not None:
            rendered_BHW3[b] = add_flaw(rendered_BHW3[b], scene.flaw)
    return rendered_BHW3
