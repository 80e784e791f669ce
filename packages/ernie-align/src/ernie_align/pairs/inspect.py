"""What a folder of pairs holds, in numbers and as a contact sheet."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ernie_align.pairs.format import PairFolder
from ernie_align.pairs.pictures import decode

_TILE_PX, _TEXT_PX, _GAP_PX, _COLUMNS = 160, 66, 10, 3
_LINE = 54
_INK, _GOOD, _BAD, _PAPER = (30, 30, 30), (30, 130, 60), (190, 50, 40), (255, 255, 255)
_MAX_PIXELS = 1 << 28


def summary(folder: PairFolder) -> dict[str, Any]:
    """Counts, margins, shapes and annotators, as JSON values."""
    margin_N = folder.margin_N
    agreement = [value for value in folder.table["agreement"].to_pylist() if value is not None]
    shapes = Counter(f"{width}x{height}" for width, height in folder.size_px_N2.tolist())
    marks = {"least": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "greatest": 1.0}
    return {
        "pairs": len(folder),
        "prompts": len(folder.table["prompt"].unique()),
        "seen": folder.facts["seen"],
        "left_out": folder.facts["left_out"],
        "margin": {name: float(np.quantile(margin_N, mark)) for name, mark in marks.items()},
        "agreement": float(np.mean(agreement)) if agreement else None,
        "shapes": dict(shapes.most_common()),
        "annotators": dict(Counter(folder.table["annotator"].to_pylist()).most_common()),
        "styles": dict(Counter(style or "" for style in folder.table["style"].to_pylist()).most_common()),
        "about": folder.facts["about"],
        "identity": folder.identity,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The summary for people."""
    margin = "  ".join(f"{name} {value:.4g}" for name, value in found["margin"].items())
    told = [
        f"pairs       {found['pairs']} of {found['seen']} seen, {found['prompts']} prompts",
        *(f"left out    {fact['count']} x {reason}" for reason, fact in found["left_out"].items()),
        f"margin      {margin}",
        f"shapes      {_first(found['shapes'])}",
        f"annotators  {_first(found['annotators'])}",
    ]
    return told if found["agreement"] is None else [*told, f"agreement   {found['agreement']:.3f} (mean)"]


def verify(folder: PairFolder) -> None:
    """Read and decode every picture.

    Raises:
        DataError: the first that is not what was stored.
    """
    for row in range(len(folder)):
        pair = folder.pair(row)
        for picture in (pair.winner, pair.loser):
            decode(folder.bytes_of(picture), f"{folder.path / picture.shard} at {picture.offset}", max_pixels=_MAX_PIXELS)


def contact_sheet(folder: PairFolder, *, count: int = 12) -> NDArray[np.uint8]:
    """Pixels [H, W, 3]: pairs from the greatest to the smallest margin, evenly spaced in rank, each with the winner on the left and its prompt."""
    order = np.argsort(-folder.margin_N, kind="stable")
    rows = [int(order[place]) for place in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    cell_w, cell_h = 2 * _TILE_PX + 2 + _GAP_PX, _TILE_PX + _TEXT_PX
    sheet = Image.new("RGB", (min(_COLUMNS, len(rows)) * cell_w + _GAP_PX, -(-len(rows) // _COLUMNS) * cell_h + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        x, y = _GAP_PX + number % _COLUMNS * cell_w, _GAP_PX + number // _COLUMNS * cell_h
        pair = folder.pair(row)
        for side, picture in enumerate((pair.winner, pair.loser)):
            tile = _tile(decode(folder.bytes_of(picture), f"{folder.path} pair {row}", max_pixels=_MAX_PIXELS))
            left = x + side * (_TILE_PX + 2)
            sheet.paste(tile, (left + (_TILE_PX - tile.width) // 2, y + (_TILE_PX - tile.height) // 2))
            score = "" if picture.score is None else f" {picture.score:.4g}"
            draw.text((left, y + _TILE_PX + 2), ("loser" if side else "winner") + score, fill=_BAD if side else _GOOD, font=_font(11))
        words = textwrap.wrap(pair.prompt, _LINE, max_lines=2, placeholder=" ...")
        text = "\n".join([f"pair {row}, margin {pair.margin:.4g}, by {pair.annotator}"[:_LINE], *words])
        draw.multiline_text((x, y + _TILE_PX + 17), _latin(text), fill=_INK, font=_font(10), spacing=2)
    return np.asarray(sheet)


def _tile(pixels_HW3: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(pixels_HW3)
    scale = _TILE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _latin(text: str) -> str:
    """Pillow's own font knows Latin letters alone."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _first(counts: dict[str, int], *, most: int = 6) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")
