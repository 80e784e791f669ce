"""Pictures from untrusted files: headers, limits, decoding and fitting into a bucket. Pillow does the decoding.

What is accepted, and how it becomes 8-bit sRGB on white:
formats PNG, JPEG, WebP, BMP and GIF; of an animation the first frame; EXIF orientation is applied; transparency is blended over white;
16-bit grey is divided by 257 and 16-bit colour is read at 8 bits; CMYK is converted, with its ICC profile where it has a readable one, as are RGB
pictures (an unreadable profile is ignored, as browsers do). A truncated or damaged file is an error, never a partly grey picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from ernie_core.api import DataError
from ernie_data.buckets import crop_box

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError, OverflowError)
"""What Pillow's readers raise on damaged files. MemoryError is not among them: it is never swallowed."""


def read_size(path: Path, *, max_pixels: int) -> tuple[int, int]:
    """Width and height as shown, EXIF orientation applied, from the header alone.

    Raises:
        DataError: naming the file, when it cannot be opened, is of another format, or is larger than ``max_pixels``.
    """
    with _open(path, max_pixels, path) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
        except BROKEN:
            turned = False  # an unreadable EXIF block says nothing about orientation; decode() sees the same
        return (height, width) if turned else (width, height)


def decode(path: Path, *, bucket: tuple[int, int], max_pixels: int) -> NDArray[np.uint8]:
    """Decode, orient, convert to sRGB, resize (Lanczos, or the exact pixels when nothing changes) and crop the centre.

    Returns:
        uint8 pixels_HW3 of the bucket's (width, height).

    Raises:
        DataError: naming the file, when it cannot be decoded whole.
    """
    return _decoded(path, path, bucket, max_pixels)


def decode_bytes(data: bytes, where: str, *, bucket: tuple[int, int], max_pixels: int) -> NDArray[np.uint8]:
    """Like ``decode``, of a file's bytes; ``where`` names them in errors."""
    return _decoded(io.BytesIO(data), where, bucket, max_pixels)


def _decoded(file: Path | io.BytesIO, where: Path | str, bucket: tuple[int, int], max_pixels: int) -> NDArray[np.uint8]:
    with _open(file, max_pixels, where) as image:
        try:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (2 * max(bucket), 2 * max(bucket)))  # decodes large photographs at 1/2, 1/4 or 1/8 of their size
            image.load()
            picture = oriented(as_rgb(image), image)
        except BROKEN as error:
            raise DataError(
                f"{where}: the picture is damaged or cut off and was not used ({first_line(error)}). Replace or remove the file."
            ) from error
    if picture.size != bucket:
        picture = picture.resize(bucket, Image.Resampling.LANCZOS, box=crop_box(*picture.size, bucket))
    return np.asarray(picture, np.uint8)


def _open(file: Path | io.BytesIO, max_pixels: int, where: Path | str) -> Image.Image:
    """Open by header, refusing before anything is decoded."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process: damaged pictures would pass as whole ones. Unset it.")
    try:
        image = Image.open(file, formats=FORMATS)
    except FileNotFoundError:
        raise DataError(f"{where}: no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{where}: {_unidentified(file)}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: {error}; refused before decoding") from None
    except BROKEN as error:
        raise DataError(f"{where}: the header cannot be read ({first_line(error)})") from error
    width, height = image.size
    if width < 1 or height < 1:
        image.close()
        raise DataError(f"{where}: an empty picture of {width} x {height} px")
    if width * height > max_pixels:
        image.close()
        raise DataError(
            f"{where}: {width} x {height} px is more than the limit of {max_pixels / 1e6:.0f} megapixels; refused before decoding. "
            "Shrink it, or raise data.max_megapixels."
        )
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, np.float64)
        return Image.fromarray(np.rint(np.clip(grey / 257, 0, 255)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode in ("RGB", "CMYK") and (profile := image.info.get("icc_profile")):
        converted = _to_srgb(image, profile)
        if converted is not None:
            return converted
    return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert with the embedded profile; None when it is unreadable or belongs to another kind of picture."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def oriented(picture: Image.Image, header: Image.Image) -> Image.Image:
    try:
        orientation = header.getexif().get(_EXIF_ORIENTATION)
    except BROKEN:
        return picture
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _unidentified(file: Path | io.BytesIO) -> str:
    if (file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())) == 0:
        return "the file is empty"
    return f"not a picture in a supported format ({', '.join(FORMATS)}), whatever its name says"


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
