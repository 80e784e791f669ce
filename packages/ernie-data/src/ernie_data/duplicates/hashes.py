"""Perceptual hash and small picture of every record, from the stored picture."""

from __future__ import annotations

import base64
from typing import ClassVar

import PIL

from ernie_core.api import DataStageContext
from ernie_data.duplicates.entries import HashesConfig
from ernie_data.duplicates.fingerprint import GRID_PX, fingerprint
from ernie_data.engine.stage import Item, Kept, RecordStage
from ernie_data.stages.picture import stored_picture


def build(config: HashesConfig, context: DataStageContext) -> Hashes:
    return Hashes()


class Hashes(RecordStage):
    """Columns: ``phash``, 16 hexadecimal digits, and ``thumb``, 16 x 16 RGB pixels in base64; see ``fingerprint``."""

    columns: ClassVar = {"phash": "string", "thumb": "string"}

    def __init__(self) -> None:
        self.code = f"1 pillow {PIL.__version__}"

    def one(self, item: Item) -> Kept:
        hashed, thumb_KKR = fingerprint(stored_picture(item, side_px=GRID_PX))
        return Kept({"phash": f"{hashed:016x}", "thumb": base64.b64encode(thumb_KKR.tobytes()).decode()})
