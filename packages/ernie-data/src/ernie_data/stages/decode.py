"""Decode, validate and normalise: the stage that lets a picture in or says why not. Made for hostile bytes: it runs in workers that may die.

Every picture is decoded whole (a cut-off file is damaged, never half grey), turned upright, converted to sRGB and blended over white, as
``ernie_data.images`` describes. ``pixel_sha256`` is of the stored size and the upright RGB bytes: equal pictures in other files have equal sums.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from typing import ClassVar

import PIL
from PIL import Image, UnidentifiedImageError, features

from ernie_core.api import DataStageContext
from ernie_data.engine.stage import Item, Kept, RecordStage, Refuse
from ernie_data.images import BROKEN, FORMATS, as_rgb, first_line, oriented
from ernie_data.reasons import ReasonCode
from ernie_data.stages.entries import DecodeConfig

_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif"}


def build(config: DecodeConfig, context: DataStageContext) -> Decode:
    return Decode(config)


class Decode(RecordStage):
    """Columns: ``width`` and ``height`` as stored and upright, ``source_width`` and ``source_height`` as decoded, ``format``, ``mode`` and
    ``frames`` of the source, ``pixel_sha256``, ``stored_as``.
    """

    stores_pictures: ClassVar = True
    columns: ClassVar = {
        "width": "int",
        "height": "int",
        "source_width": "int",
        "source_height": "int",
        "frames": "int",
        "format": "string",
        "mode": "string",
        "pixel_sha256": "string",
        "stored_as": "string",
    }

    def __init__(self, config: DecodeConfig) -> None:
        self.config = config
        codecs = [f"{name} {features.version(name)}" for name in ("jpg", "libjpeg_turbo", "zlib", "webp", "littlecms2")]
        self.code = " ".join(["2 pillow", PIL.__version__, *codecs])  # decoders decide about pixels: another version is another unit

    def one(self, item: Item) -> Kept:
        data = item.load()
        with self._open(data) as header:
            source = {"format": header.format, "mode": header.mode, "source_width": header.width, "source_height": header.height}
            try:
                frames = int(getattr(header, "n_frames", 1))
                picture = self._decoded(header)
            except BROKEN as error:
                raise Refuse(ReasonCode.PICTURE_DAMAGED, first_line(error)) from None
        columns = {**source, "frames": frames, "width": picture.width, "height": picture.height, "pixel_sha256": _pixel_sha256(picture)}
        if self.config.format == "original":
            return Kept({**columns, "stored_as": source["format"]}, data, _SUFFIX[str(source["format"])])
        stored = self.config.format.upper()
        return Kept({**columns, "stored_as": stored}, self._encoded(picture, stored), _SUFFIX[stored])

    def _open(self, data: bytes) -> Image.Image:
        if not data:
            raise Refuse(ReasonCode.EMPTY_FILE)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise Refuse(ReasonCode.NOT_A_PICTURE, f"begins with {data[:8].hex()}") from None
        except Image.DecompressionBombError as error:
            raise Refuse(ReasonCode.TOO_MANY_PIXELS, str(error)) from None
        except BROKEN as error:
            raise Refuse(ReasonCode.HEADER_DAMAGED, first_line(error)) from None
        try:
            self._check(*image.size)
        except Refuse:
            image.close()
            raise
        return image

    def _check(self, width: int, height: int) -> None:
        """Limits, from the header alone."""
        if width < 1 or height < 1:
            raise Refuse(ReasonCode.HEADER_DAMAGED, f"an empty picture of {width} x {height} px")
        if width * height > self.config.max_megapixels * 1_000_000:
            raise Refuse(ReasonCode.TOO_MANY_PIXELS, f"{width} x {height} px; the limit is {self.config.max_megapixels} megapixels")
        if min(width, height) < self.config.min_side_px:
            raise Refuse(ReasonCode.TOO_SMALL, f"{width} x {height} px; the shorter side must have {self.config.min_side_px}")
        if max(width, height) > self.config.max_aspect * min(width, height):
            raise Refuse(ReasonCode.TOO_LONG, f"{width} x {height} px; the longer side may be {self.config.max_aspect:g} times the shorter")

    def _decoded(self, image: Image.Image) -> Image.Image:
        """The upright sRGB picture, reduced if it must be."""
        scale = 1.0
        if self.config.shrink_to_px is not None:
            scale = min(1.0, self.config.shrink_to_px / math.sqrt(image.width * image.height))
        size = tuple(max(1, round(side * scale)) for side in image.size)
        if scale < 1 and image.format == "JPEG" and image.mode in ("RGB", "L"):
            image.draft(image.mode, tuple(2 * side for side in size))  # large photographs are decoded at 1/2, 1/4 or 1/8
        image.load()
        picture = as_rgb(image)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        return oriented(picture, image)

    def _encoded(self, picture: Image.Image, stored: str) -> bytes:
        buffer = io.BytesIO()
        if stored == "JPEG":
            picture.save(buffer, format="JPEG", quality=self.config.quality, subsampling=0)
        elif stored == "PNG":
            picture.save(buffer, format="PNG")
        else:
            picture.save(buffer, format="WEBP", lossless=True, quality=25, method=1)
        return buffer.getvalue()


def _pixel_sha256(picture: Image.Image) -> str:
    sums = hashlib.sha256(struct.pack("<II", *picture.size))
    sums.update(picture.tobytes())
    return sums.hexdigest()
