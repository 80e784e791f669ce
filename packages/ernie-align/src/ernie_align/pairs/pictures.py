"""Pictures from untrusted files: limits before decoding, and fitting into an aspect bucket. Pillow decodes.

Accepted are PNG, JPEG and WebP of 8 bits per channel. EXIF orientation is applied, transparency is blended over white, colour profiles are ignored:
pairs are pictures of generators, which write sRGB. A damaged or cut-off file is an error, never a partly grey picture.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ernie_core.api import DataError

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
MAX_BYTES = 1 << 28
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError, OverflowError)


class OversizedPicture(DataError):
    """Refused by its header, before anything was decoded."""


def decode(data: bytes, where: str, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a whole picture.

    Returns:
        pixels_HW3, sRGB.

    Raises:
        OversizedPicture: more than ``max_pixels``, by its header.
        DataError: naming ``where``, when it is of another format, damaged or cut off.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process: damaged pictures would pass as whole ones. Unset it.")
    with _opened(data, where, max_pixels) as image:
        try:
            image.load()
            picture = ImageOps.exif_transpose(image)
            if picture.has_transparency_data:
                layer = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return np.array(picture.convert("RGB"), np.uint8)
        except _BROKEN as error:
            raise DataError(f"{where}: the picture is damaged or cut off ({first_line(error)})") from error


def suffix_of(data: bytes) -> str:
    """The file suffix of a picture that ``decode`` has accepted."""
    with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
        return FORMATS[str(image.format)]


def pixel_sum(pixels_HW3: NDArray[np.uint8]) -> str:
    """sha256 of the shape and the pixels: equal pictures have it in common, however they are encoded."""
    return hashlib.sha256(f"{pixels_HW3.shape}".encode() + np.ascontiguousarray(pixels_HW3).tobytes()).hexdigest()


def fitted(pixels_HW3: NDArray[np.uint8], bucket: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (Lanczos) to cover the bucket (width, height) and crop the centre; the exact pixels when nothing changes."""
    height, width = pixels_HW3.shape[:2]
    if (width, height) == bucket:
        return pixels_HW3
    scale = min(width / bucket[0], height / bucket[1])
    box_width, box_height = min(bucket[0] * scale, width), min(bucket[1] * scale, height)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return np.array(Image.fromarray(pixels_HW3).resize(bucket, Image.Resampling.LANCZOS, box=box), np.uint8)


def png(pixels_HW3: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, "PNG")
    return buffer.getvalue()


def read_picture_file(path: Path, where: str) -> bytes:
    """The bytes of a file of at most 256 MiB.

    Raises:
        OversizedPicture: a larger one.
        DataError: it cannot be read.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise OversizedPicture(f"{where}: {size} bytes, more than the limit of {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _opened(data: bytes, where: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except UnidentifiedImageError:
        what = f"not a picture in a supported format ({', '.join(FORMATS)})" if data else "the file is empty"
        raise DataError(f"{where}: {what}") from None
    except Image.DecompressionBombError as error:
        raise OversizedPicture(f"{where}: {error}; refused before decoding") from None
    except _BROKEN as error:
        raise DataError(f"{where}: the header cannot be read ({first_line(error)})") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise OversizedPicture(
            f"{where}: {width} x {height} px is more than the limit of {max_pixels / 1e6:g} megapixels; refused before decoding"
        )
    if image.mode not in MODES:
        image.close()
        raise DataError(f"{where}: pixels of kind {image.mode}; expected 8 bits per channel")
    return image
