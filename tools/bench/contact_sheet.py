"""A contact sheet: a row per model, a column per prompt and noise, the same in all rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

PICTURE_PX, GAP_PX, LABEL_PX, HEAD_PX = 48, 2, 150, 30
STEP = 17
"""Values are rounded to multiples of it, 16 levels of each colour, which keeps the sheet small enough for the repository and moves none by more than 8."""


def sheet(rows: Sequence[tuple[str, Path]], names: Sequence[str], heads: Sequence[str]) -> bytes:
    """The PNG's bytes.

    Args:
        rows: label and folder of pictures.
        names: of the pictures' files, without ending.
        heads: what was asked for, a line or two per column.
    """
    cell = PICTURE_PX + GAP_PX
    canvas = Image.new("RGB", (LABEL_PX + cell * len(names), HEAD_PX + cell * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        draw.text((LABEL_PX + cell * column, 2), head, fill="black", font_size=9)
    for row, (label, folder) in enumerate(rows):
        top = HEAD_PX + cell * row
        draw.text((4, top + PICTURE_PX // 2 - 14), label, fill="black", font_size=11)
        for column, name in enumerate(names):
            file = folder / f"{name}.png"
            if not file.exists():  # `ernie eval` leaves the number of the noise out where there is only one
                file = folder / f"{name.removesuffix('-0')}.png"
            picture = Image.open(file).convert("RGB").resize((PICTURE_PX, PICTURE_PX), Image.Resampling.NEAREST)
            canvas.paste(picture, (LABEL_PX + cell * column, top))
    buffer = io.BytesIO()
    canvas.point(lambda value: (value + STEP // 2) // STEP * STEP).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
