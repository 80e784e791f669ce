"""ShapeBench-like pictures read from stored bytes: what the CPU backends of the stages are built on."""

from __future__ import annotations

import hashlib

import numpy as np

from ernie_core.api import DataError
from ernie_data.shapes.reader import Reading, read_picture
from ernie_data.vision.model import VisionError
from ernie_data.vision.pictures import open_picture

READER_CODE = "shapes 1"
"""Changes whenever the reader reads anything differently: part of the units' names."""
_READ_SIDE_PX = 512
_WORDINGS = 16


def read_stored(data: bytes) -> Reading | str:
    """What a stored picture shows, or why it cannot be read."""
    picture = open_picture(data, side_px=_READ_SIDE_PX)
    if isinstance(picture, VisionError):
        return str(picture)
    try:
        return read_picture(np.asarray(picture, np.uint8))
    except DataError as error:
        return str(error)


def wording_of(key: str) -> int:
    """Which of the wordings a record's captions take: spread evenly, a function of its key alone."""
    return hashlib.blake2b(key.encode(), digest_size=2).digest()[0] % _WORDINGS
