"""Pictures as models take them: upright sRGB of at most a given side, without metadata."""

from __future__ import annotations

import io

from PIL import Image

from ernie_data.images import BROKEN, FORMATS, as_rgb, first_line, oriented
from ernie_data.vision.model import VisionError, VisionReason

LOSSLESS_PIXELS = 512 * 512
JPEG_QUALITY = 95


def open_picture(data: bytes, *, side_px: int) -> Image.Image | VisionError:
    """Decoded, turned upright, and reduced until the longer side is at most ``side_px``; the ratio is kept to a pixel."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (2 * side_px, 2 * side_px))  # decodes large photographs at 1/2, 1/4 or 1/8 of their size
            image.load()
            picture = oriented(as_rgb(image), image)
    except (*BROKEN, Image.DecompressionBombError) as error:
        return VisionError(VisionReason.PICTURE, f"not a whole picture of a known format ({first_line(error)})")
    longer = max(picture.size)
    if longer > side_px:
        width, height = (max(1, round(side * side_px / longer)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture


def encode_picture(picture: Image.Image) -> bytes:
    """PNG for small pictures, else JPEG at full colour resolution."""
    data = io.BytesIO()
    if picture.width * picture.height <= LOSSLESS_PIXELS:
        picture.save(data, format="PNG")
    else:
        picture.save(data, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return data.getvalue()
