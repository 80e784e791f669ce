"""A run's sample grids inside the page: some steps from the first to the last, large ones made smaller."""

from __future__ import annotations

import base64
import io as bytes_io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

_SHOWN = 8
_PROMPTS_SHOWN = 24
_LARGE_BYTES = 300_000
_SIDE_PX = 1024
SMALL_PX = 400
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
    kind = ' class="px"' if side <= SMALL_PX else ""
    return f'<figure><img{kind} src="{uri}" alt="samples at step {step:,}"><figcaption>step {step:,}</figcaption></figure>'


def embedded_pixels(pixels_HW3: NDArray[np.uint8], *, most_px: int, large_bytes: int = 60_000) -> tuple[str, int]:
    """A data URI, and the longer side in pixels. A picture of many bytes becomes a JPEG of at most ``most_px``."""
    from PIL import Image

    picture, buffer = Image.fromarray(pixels_HW3), bytes_io.BytesIO()
    picture.save(buffer, "PNG")
    return _uri(picture, buffer.getvalue(), most_px=most_px, large_bytes=large_bytes), max(picture.size)


def _embedded(path: Path) -> tuple[str, int]:
    """A data URI, and the longer side in pixels."""
    from PIL import Image

    data = path.read_bytes()
    with Image.open(bytes_io.BytesIO(data), formats=["PNG"]) as picture:
        picture.load()
        return _uri(picture, data, most_px=_SIDE_PX, large_bytes=_LARGE_BYTES), max(picture.size)


def _uri(picture: Image.Image, png: bytes, *, most_px: int, large_bytes: int) -> str:
    data, kind = png, "png"
    if len(png) > large_bytes:
        small = picture.convert("RGB")
        small.thumbnail((most_px, most_px))
        buffer = bytes_io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
