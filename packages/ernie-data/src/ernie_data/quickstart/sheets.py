"""Pictures side by side: ``samples.png`` for looking, and a sheet of verdicts for checking the verifier by eye."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ernie_data.quickstart.judging import Answer
from ernie_data.shapes.verify import SeenObject

_GAP_PX = 4
_INK, _WRONG = (30, 30, 30), (190, 0, 0)


def png(pixels_HW3: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels_HW3).save(data, format="PNG")
    return data.getvalue()


def sample_sheet(judged: Sequence[Answer], *, tile_px: int = 72) -> NDArray[np.uint8]:
    """One row per triple with its name, one column per caption: the first noise of each. Pictures are enlarged without smoothing."""
    rows: dict[str, list[Answer]] = {}
    for answer in judged:
        if answer.question.noise == 0:
            rows.setdefault(str(answer.question.triple), []).append(answer)
    label_px, step = 170, tile_px + _GAP_PX
    columns = max(map(len, rows.values()), default=0)
    sheet = Image.new("RGB", (label_px + columns * step, len(rows) * step + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (name, group) in enumerate(rows.items()):
        draw.text((6, y * step + tile_px // 2 - 4), name, fill=_INK, font=ImageFont.load_default(12))
        for x, answer in enumerate(group):
            sheet.paste(_enlarged(answer.pixels_HW3, tile_px), (label_px + x * step, y * step + _GAP_PX))
    return np.asarray(sheet)


def verdict_sheet(judged: Sequence[Answer], *, columns: int = 6, tile_px: int = 120) -> NDArray[np.uint8]:
    """Each picture with what was asked, what the verifier saw and its measures; what is wrong stands in red."""
    width, height = tile_px + 110, tile_px + 44
    rows = -(-len(judged) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for i, answer in enumerate(judged):
        left, top = (i % columns) * width + _GAP_PX, (i // columns) * height + _GAP_PX
        sheet.paste(_enlarged(answer.pixels_HW3, tile_px), (left, top))
        draw.text((left, top + tile_px + 2), f"{i}: {answer.question.triple}", fill=_INK, font=font)
        draw.text((left, top + tile_px + 15), seen_in_words(answer.seen), fill=_INK if answer.verdict.right else _WRONG, font=font)
        if len(answer.seen) == 1:
            (one,) = answer.seen
            draw.multiline_text((left + tile_px + 4, top), _measures(one), fill=_INK, font=font)
    return np.asarray(sheet)


def seen_in_words(seen: Sequence[SeenObject]) -> str:
    """What the verifier saw, such as "red circle, top left" or "2 objects"."""
    if len(seen) != 1:
        return "no object" if not seen else f"{len(seen)} objects"
    (one,) = seen
    return f"{one.colour or 'no colour'} {one.shape or 'no shape'}, {one.cell or 'no position'}"


def _measures(one: SeenObject) -> str:
    place = f"at {one.centre[0]:.2f} {one.centre[1]:.2f}\nsize {one.size:.2f}"
    return f"IoU {one.iou:.2f}\ncolour {one.colour_distance:.0f}\npurity {one.colour_purity:.2f}\n{place}"


def _enlarged(pixels_HW3: NDArray[np.uint8], side_px: int) -> Image.Image:
    return Image.fromarray(pixels_HW3).resize((side_px, side_px), Image.Resampling.NEAREST)
