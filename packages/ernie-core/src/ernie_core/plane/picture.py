"""Scatter plots of samples as one PNG: a panel per row and column."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

PANEL_PX = 200
LABEL_PX = 120
HEAD_PX = 18


@dataclass(frozen=True)
class Circle:
    """A mark on every panel."""

    centre: tuple[float, float]
    radius: float
    colour: str


def scatter(
    points: Mapping[tuple[str, str], Tensor],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    circles: Sequence[Circle] = (),
    extent: float = 4.0,
    label_px: int = LABEL_PX,
    panel_px: int = PANEL_PX,
) -> bytes:
    """The PNG's bytes. Each panel tells how many samples fall outside it; one without samples stays empty.

    Args:
        points: samples [N, 2] by (row, column).
        extent: a panel shows [-extent, extent] in both directions.
    """
    canvas = Image.new("RGB", (label_px + panel_px * len(columns), HEAD_PX + panel_px * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, column in enumerate(columns):
        draw.text((label_px + panel_px * place + 4, 4), column, fill="black")
    for place, row in enumerate(rows):
        top = HEAD_PX + panel_px * place
        draw.text((4, top + panel_px // 2), row, fill="black")
        for across, column in enumerate(columns):
            if (row, column) in points:
                canvas.paste(_panel(points[row, column].numpy(), circles, extent, panel_px), (label_px + panel_px * across, top))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _panel(points_N2: np.ndarray, circles: Sequence[Circle], extent: float, panel_px: int) -> Image.Image:
    inside_N = (np.abs(np.nan_to_num(points_N2, nan=np.inf)) < extent).all(1)
    column_N, row_N = (((points_N2[inside_N] * (1, -1) + extent) / (2 * extent)) * panel_px).astype(int).clip(0, panel_px - 1).T
    counts = np.zeros((panel_px, panel_px))
    np.add.at(counts, (row_N, column_N), 1)
    shade = 255 - np.minimum(255, 110 * counts).astype(np.uint8)
    panel = Image.fromarray(np.stack([shade, shade, np.maximum(shade, 160)], 2))
    draw = ImageDraw.Draw(panel)
    for circle in circles:
        (x, y), colour = circle.centre, circle.colour
        x_px, y_px, radius_px = ((v + extent) / (2 * extent) * panel_px for v in (x, -y, circle.radius - extent))
        draw.ellipse((x_px - radius_px, y_px - radius_px, x_px + radius_px, y_px + radius_px), outline=colour)
    draw.rectangle((0, 0, panel_px - 1, panel_px - 1), outline="#a0a0a0")
    outside = len(points_N2) - int(inside_N.sum())
    if outside:
        draw.text((4, panel_px - 14), f"{100 * outside / len(points_N2):.0f} % outside", fill="black")
    return panel
