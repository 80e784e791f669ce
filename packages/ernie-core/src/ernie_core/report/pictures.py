"""A run's sample grids inside the page: some steps from the first to the last, large ones made smaller."""

from __future__ import annotations

import base64
import io as bytes_io
from collections.abc import Sequence
from html import escape
from pathlib import Path

_SHOWN = 8
_PROMPTS_SHOWN = 24
_LARGE_BYTES = 300_000
_SIDE_PX = 1024
_SMALL_PX = 400
"""Grids up to this side are shown with hard pixels."""


def grids_section(samples: Sequence[tuple[int, Path]], prompts: Sequence[str]) -> str:
    """Empty without grids."""
    if not samples:
        return ""
    last = len(samples) - 1
    places = list(dict.fromkeys(round(k * last / max(_SHOWN - 1, 1)) for k in range(_SHOWN)))
    grids = "".join(_figure(*samples[i]) for i in places)
    more = f" {len(samples)} grids in all." if len(samples) > len(places) else ""
    items = "".join(f"<li>{escape(prompt)}</li>" for prompt in prompts[:_PROMPTS_SHOWN])
    rest = f'<p class="small">and {len(prompts) - _PROMPTS_SHOWN} more prompts</p>' if len(prompts) > _PROMPTS_SHOWN else ""
    return f'<div class="grids">{grids}</div><p class="small">Prompts in reading order:{more}</p><ol>{items}</ol>{rest}'


def _figure(step: int, path: Path) -> str:
    try:
        uri, side = _embedded(path)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's of a damaged PNG are all three
        return f'<figure><p class="alarm">{escape(path.name)} cannot be read: {escape(type(error).__name__)}</p><figcaption>step {step:,}</figcaption></figure>'
    kind = ' class="px"' if side <= _SMALL_PX else ""
    return f'<figure><img{kind} src="{uri}" alt="samples at step {step:,}"><figcaption>step {step:,}</figcaption></figure>'


def _embedded(path: Path) -> tuple[str, int]:
    """A data URI, and the longer side in pixels."""
    from PIL import Image

    data, kind = path.read_bytes(), "png"
    with Image.open(bytes_io.BytesIO(data), formats=["PNG"]) as picture:
        picture.load()
        side = max(picture.size)
        if len(data) > _LARGE_BYTES:
            small = picture.convert("RGB")
            small.thumbnail((_SIDE_PX, _SIDE_PX))
            buffer = bytes_io.BytesIO()
            small.save(buffer, "JPEG", quality=85)
            data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode(), side
