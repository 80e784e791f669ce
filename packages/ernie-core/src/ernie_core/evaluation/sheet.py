"""A contact sheet: the worst pictures above, the best below, each with its id, prompt and values."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ernie_core.evaluation.folder import Verdict, read_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

COLUMNS, ROWS = 6, 2  # of the worst, and as many of the best
TILE_PX, TEXT_PX, GAP_PX = 160, 76, 8
LINE = 30
_INK, _MISSING, _PAPER = (30, 30, 30), (190, 190, 190), (255, 255, 255)


def ranked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """From the worst to the best: by the prompt's first metric, then by the mean of all, then in order."""

    def key(item: tuple[int, Verdict]) -> tuple[float, float, int]:
        number, verdict = item
        values = list(verdict.metrics.values())
        return values[0], sum(values) / len(values), number

    return [verdict for _, verdict in sorted(enumerate(verdicts), key=key)]


def contact_sheet(verdicts: Sequence[Verdict], files: Mapping[str, Path | None]) -> NDArray[np.uint8]:
    """Pixels [H, W, 3]. No picture is shown twice."""
    from PIL import Image, ImageDraw, ImageFont

    order, wanted = ranked(verdicts), COLUMNS * ROWS
    best = order[max(len(order) // 2, len(order) - wanted) :][::-1]
    worst = order[: min(wanted, len(order) - len(best))]
    blocks = [(name, shown) for name, shown in (("worst", worst), ("best", best)) if shown]
    cell_w, cell_h, head = TILE_PX + GAP_PX, TILE_PX + TEXT_PX, 22
    height = sum(head + -(-len(shown) // COLUMNS) * cell_h for _, shown in blocks)
    sheet = Image.new("RGB", (COLUMNS * cell_w + GAP_PX, height), _PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for name, shown in blocks:
        draw.text((GAP_PX, top + 4), name, fill=_INK, font=ImageFont.load_default(13))
        top += head
        for i, verdict in enumerate(shown):
            x, y = GAP_PX + i % COLUMNS * cell_w, top + i // COLUMNS * cell_h
            tile = _tile(files[verdict.id])
            sheet.paste(tile, (x + (TILE_PX - tile.width) // 2, y + (TILE_PX - tile.height) // 2))
            draw.multiline_text((x, y + TILE_PX + 2), _words(verdict), fill=_INK, font=ImageFont.load_default(10), spacing=2)
        top += -(-len(shown) // COLUMNS) * cell_h
    return np.asarray(sheet)


def _tile(file: Path | None) -> Image.Image:
    from PIL import Image

    pixels_HW3 = read_picture(file)[0] if file is not None else None
    if pixels_HW3 is None:
        return Image.new("RGB", (TILE_PX, TILE_PX), _MISSING)
    picture = Image.fromarray(pixels_HW3)
    scale = TILE_PX / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _words(verdict: Verdict) -> str:
    """Id, two lines of the prompt, two of values; Pillow's own font knows Latin letters alone."""
    values = " ".join(f"{name} {value:.3g}" for name, value in verdict.metrics.items())
    lines = [verdict.id[:LINE] if verdict.state == "judged" else f"{verdict.state}: {verdict.id}"[:LINE]]
    for text in (verdict.prompt, values):
        wrapped = textwrap.wrap(text, LINE, max_lines=2, placeholder=" ...")
        lines += [*wrapped, *[""] * (2 - len(wrapped))]
    return "\n".join(lines).encode("latin-1", "replace").decode("latin-1")
