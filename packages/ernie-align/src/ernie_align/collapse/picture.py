"""Scatter plots of samples as one PNG: a row per arm, a column per step."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ernie_align.collapse.plane import MODE_A, MODE_B, RADIUS

PANEL_PX = 200
LABEL_PX = 120
HEAD_PX = 18
EXTENT = 4.0  # the panel shows [-EXTENT, EXTENT] in both directions


def scatter(points: Mapping[tuple[str, int], Tensor], arms: Sequence[str], steps: Sequence[int]) -> bytes:
    """The PNG's bytes. Circles mark the modes, A on the right; each panel tells how many samples fall outside it.

    Args:
        points: samples [N, 2] by (arm, step); step 0 may be given for "reference" alone, which then stands for every arm.
    """
    canvas = Image.new("RGB", (LABEL_PX + PANEL_PX * len(steps), HEAD_PX + PANEL_PX * len(arms)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, step in enumerate(steps):
        draw.text((LABEL_PX + PANEL_PX * column + 4, 4), f"step {step}", fill="black")
    for row, arm in enumerate(arms):
        top = HEAD_PX + PANEL_PX * row
        draw.text((4, top + PANEL_PX // 2), arm, fill="black")
        for column, step in enumerate(steps):
            canvas.paste(_panel(points[arm if step else "reference", step].numpy()), (LABEL_PX + PANEL_PX * column, top))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _panel(points_N2: np.ndarray) -> Image.Image:
    inside_N = (np.abs(np.nan_to_num(points_N2, nan=np.inf)) < EXTENT).all(1)
    column_N, row_N = (((points_N2[inside_N] * (1, -1) + EXTENT) / (2 * EXTENT)) * PANEL_PX).astype(int).clip(0, PANEL_PX - 1).T
    counts = np.zeros((PANEL_PX, PANEL_PX))
    np.add.at(counts, (row_N, column_N), 1)
    shade = 255 - np.minimum(255, 110 * counts).astype(np.uint8)
    panel = Image.fromarray(np.stack([shade, shade, np.maximum(shade, 160)], 2))
    draw = ImageDraw.Draw(panel)
    for (x, y), colour in ((MODE_A, "#008000"), (MODE_B, "#c00000")):
        x_px, y_px, radius_px = ((v + EXTENT) / (2 * EXTENT) * PANEL_PX for v in (x, -y, RADIUS - EXTENT))
        draw.ellipse((x_px - radius_px, y_px - radius_px, x_px + radius_px, y_px + radius_px), outline=colour)
    draw.rectangle((0, 0, PANEL_PX - 1, PANEL_PX - 1), outline="#a0a0a0")
    outside = len(points_N2) - int(inside_N.sum())
    if outside:
        draw.text((4, PANEL_PX - 14), f"{100 * outside / len(points_N2):.0f} % outside", fill="black")
    return panel
