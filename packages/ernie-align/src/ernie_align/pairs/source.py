"""The data source `pairs`: chosen and rejected pictures of one prompt, in one shape."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from ernie_align.pair_config import PairsConfig
from ernie_align.pairs.buckets import bucket_of
from ernie_align.pairs.format import PairFolder
from ernie_align.pairs.order import PairOrder
from ernie_align.pairs.pair import Picture
from ernie_align.pairs.pictures import decode, fitted
from ernie_align.pairs.record import PairRecord
from ernie_core.api import ConfigError, DataError, DataSourceContext, RecordRef, Stage

STYLE = "prompt"
"""The caption style of prompts that have none of their own."""


def build(config: PairsConfig, context: DataSourceContext) -> PairSource:
    return PairSource(config, context)


class PairSource:
    """Row r is the r-th pair whose margin is at least ``min_margin``, of all folders in their order.

    Raises:
        DataError: see ``PairFolder``; or no pair has the margin that is asked for.
        ConfigError: a folder that is named twice, or a stage whose size no pair can have.
    """

    def __init__(self, config: PairsConfig, context: DataSourceContext) -> None:
        paths = [config.path] if isinstance(config.path, str) else list(config.path)
        places = [Path(path).resolve() for path in paths]
        if twice := [path for number, path in enumerate(paths) if places[number] in places[:number]]:
            raise ConfigError(f"data.path names {twice[0]} more than once: its pairs would count twice. Name each folder once.")
        self.config, self.context = config, context
        self.folders = [PairFolder(path) for path in paths]
        self._first_ids = np.cumsum([0, *map(len, self.folders)])
        margin_N = np.concatenate([folder.margin_N for folder in self.folders])
        self.pair_ids = np.flatnonzero(margin_N >= (config.min_margin or 0.0))
        if not len(self.pair_ids):
            raise DataError(
                f"data.min_margin = {config.min_margin}: none of the {len(margin_N)} pairs of {', '.join(paths)} has such a margin; "
                f"the largest is {margin_N.max():g}"
            )
        self._size_px_N2 = np.concatenate([folder.size_px_N2 for folder in self.folders])
        self._decoder = f"centre 1 pillow {PIL.__version__} jpeg {features.version('libjpeg_turbo') or features.version('jpg')}"
        self._orders: dict[int, PairOrder] = {}
        self._lock = threading.Lock()
        for stage in context.stages:
            self.order(stage.size_px)  # a size that does not fit should be known now

    def __len__(self) -> int:
        return len(self.pair_ids)

    def identity(self) -> str:
        """Of the folders' content, in their order; not of where they are."""
        return f"pairs {hashlib.sha256(' '.join(folder.identity for folder in self.folders).encode()).hexdigest()}"

    def order(self, size_px: int) -> PairOrder:
        """The order of a stage of this size.

        Raises:
            ConfigError: no bucket fits the size.
        """
        with self._lock:
            if size_px not in self._orders:
                shapes, shape_N = np.unique(self._size_px_N2[self.pair_ids], axis=0, return_inverse=True)
                rows: dict[tuple[int, int], list[int]] = {}
                for number, (width, height) in enumerate(shapes.tolist()):
                    bucket = bucket_of(width, height, size_px=size_px, multiple_px=self.context.size_multiple_px)
                    rows.setdefault(bucket, []).extend(np.flatnonzero(shape_N.reshape(-1) == number).tolist())
                in_order = {bucket: sorted(bucket_rows) for bucket, bucket_rows in rows.items()}
                self._orders[size_px] = PairOrder(in_order, seed=self.context.seed, size_px=size_px)
            return self._orders[size_px]

    def batch(self, step: int, *, global_batch: int, stage: Stage) -> list[RecordRef]:
        bucket, rows = self.order(stage.size_px).batch(step, global_batch)
        return [RecordRef(self._key(int(row)), int(row), bucket) for row in rows]

    def fetch(self, refs: Sequence[RecordRef]) -> list[PairRecord]:
        return [self._record(ref) for ref in refs]

    def _place(self, row: int) -> tuple[PairFolder, int]:
        """The folder of a row, and the row's number in it."""
        pair_id = int(self.pair_ids[row])
        number = int(np.searchsorted(self._first_ids, pair_id, side="right")) - 1
        return self.folders[number], pair_id - int(self._first_ids[number])

    def _key(self, row: int) -> str:
        folder, at = self._place(row)
        return f"{folder.path.name}/{at}"

    def _record(self, ref: RecordRef) -> PairRecord:
        if not 0 <= ref.row < len(self) or self._key(ref.row) != ref.key:
            raise DataError(
                f"pairs: asked for was record {ref.row} as {ref.key}, which is not in {self.config.path}: the folders have changed"
            )
        folder, at = self._place(ref.row)
        pair = folder.pair(at)
        pixels, lose_pixels = (self._pixels(folder, picture, ref) for picture in (pair.winner, pair.loser))
        return PairRecord(
            ref.key,
            pixels,
            {pair.style or STYLE: pair.prompt},
            ref.size_px,
            scores=dict(pair.winner.scores),
            source=str(folder.path),
            pixels_id=self._pixels_id(pair.winner, ref),
            lose_pixels=lose_pixels,
            lose_pixels_id=self._pixels_id(pair.loser, ref),
            margin=pair.margin,
            annotator=pair.annotator,
            pair_id=int(self.pair_ids[ref.row]),
        )

    def _pixels(self, folder: PairFolder, picture: Picture, ref: RecordRef) -> np.ndarray:
        where = f"{folder.path / picture.shard} at {picture.offset} (pair {ref.key})"
        pixels_HW3 = decode(folder.bytes_of(picture), where, max_pixels=self.config.max_megapixels * 1_000_000)
        height, width = pixels_HW3.shape[:2]
        if (width, height) != (picture.width, picture.height):
            raise DataError(f"{where}: {width} x {height} px, the table says {picture.width} x {picture.height}; write the folder again")
        return fitted(pixels_HW3, ref.size_px)

    def _pixels_id(self, picture: Picture, ref: RecordRef) -> str:
        return f"{picture.sha256} {ref.size_px[0]}x{ref.size_px[1]} {self._decoder}"
