"""A stored picture as stages look at it."""

from __future__ import annotations

import io

from PIL import Image

from ernie_data.engine.stage import Item, Refuse
from ernie_data.images import BROKEN, FORMATS, as_rgb, first_line, oriented
from ernie_data.reasons import ReasonCode


def stored_picture(item: Item, *, side_px: int | None = None) -> Image.Image:
    """Upright sRGB. ``side_px``: large JPEG files may be decoded at 1/2, 1/4 or 1/8 of their size, at no less than twice this side.

    Raises:
        Refuse: no longer a whole picture, although it was one when it was stored.
    """
    try:
        with Image.open(io.BytesIO(item.load()), formats=FORMATS) as image:
            if side_px is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (2 * side_px, 2 * side_px))
            image.load()
            return oriented(as_rgb(image), image)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise Refuse(ReasonCode.PICTURE_DAMAGED, first_line(error)) from None
