"""The data source `folder`: a user's pictures, decoded, fitted into aspect buckets and, where they fit, kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError, DataSourceContext, Record, RecordRef, Stage
from ernie_data.buckets import bucket_sizes, nearest_bucket
from ernie_data.config import FolderConfig
from ernie_data.images import decode
from ernie_data.order import EpochOrder
from ernie_data.sources.scan import Picture, pictures_of


def build(config: FolderConfig, context: DataSourceContext) -> FolderSource:
    """
    Raises:
        DataError: see ``scan.pictures_of``.
    """
    return FolderSource(pictures_of(config), config, context)


class FolderSource:
    """Pictures of one folder. Row r < number of pictures is picture r; with ``flip``, row r + number of pictures is its mirror image."""

    def __init__(self, pictures: Sequence[Picture], config: FolderConfig, context: DataSourceContext) -> None:
        self.pictures = tuple(pictures)
        self.config = config
        self.context = context
        self._orders: dict[int, EpochOrder] = {}
        self._orders_lock = threading.Lock()
        self._cache = PixelCache(config.cache_mib << 20)

    def __len__(self) -> int:
        return len(self.pictures) * (2 if self.config.flip else 1)

    def order(self, size_px: int) -> EpochOrder:
        """The order of a stage of this size.

        Raises:
            ConfigError: no bucket fits the size.
        """
        with self._orders_lock:
            if size_px not in self._orders:
                sizes = bucket_sizes(size_px, multiple_px=self.context.size_multiple_px, max_aspect=self.config.max_aspect)
                rows: dict[tuple[int, int], list[int]] = {}
                for row in range(len(self)):
                    rows.setdefault(nearest_bucket(*self.pictures[row % len(self.pictures)].size_px, sizes), []).append(row)
                self._orders[size_px] = EpochOrder(rows, seed=self.context.seed, size_px=size_px)
            return self._orders[size_px]

    def batch(self, step: int, *, global_batch: int, stage: Stage) -> list[RecordRef]:
        bucket, rows = self.order(stage.size_px).batch(step, global_batch)
        return [RecordRef(self.pictures[row % len(self.pictures)].key, int(row), bucket) for row in rows]

    def fetch(self, refs: Sequence[RecordRef]) -> list[Record]:
        return [self._record(ref) for ref in refs]

    def _record(self, ref: RecordRef) -> Record:
        index = ref.row % len(self.pictures)
        picture = self.pictures[index]
        if picture.key != ref.key or ref.row >= len(self):
            raise DataError(f"{self.config.path}: record {ref.row} is {picture.key}, asked for was {ref.key}: the folder has changed")
        pixels = self._cache.get(index, ref.size_px)
        if pixels is None:
            path = Path(self.config.path) / picture.key
            pixels = decode(path, bucket=ref.size_px, max_pixels=self.config.max_megapixels * 1_000_000)
            self._cache.put(index, ref.size_px, pixels)
        if ref.row >= len(self.pictures):
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return Record(picture.key, pixels, picture.captions, ref.size_px, source=self.config.path)


class PixelCache:
    """Decoded pictures up to a number of bytes. What does not fit is not kept, and nothing is thrown out for it: an epoch asks for every picture
    once, where throwing out the oldest would never hit. Pictures of another resolution stage (area more than 10 % off) make room, since their
    stage is over.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: dict[tuple[int, int], dict[int, NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()

    def get(self, index: int, bucket: tuple[int, int]) -> NDArray[np.uint8] | None:
        with self._lock:
            return self._kept.get(bucket, {}).get(index)

    def put(self, index: int, bucket: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        pixels.setflags(write=False)  # shared by everyone who asks
        with self._lock:
            if self.used_bytes + pixels.nbytes > self.limit_bytes:
                self._drop_other_stages(bucket)
            mine = self._kept.setdefault(bucket, {})
            if index not in mine and self.used_bytes + pixels.nbytes <= self.limit_bytes:
                mine[index] = pixels
                self.used_bytes += pixels.nbytes

    def _drop_other_stages(self, bucket: tuple[int, int]) -> None:
        area = bucket[0] * bucket[1]
        for other in [b for b in self._kept if not 0.9 <= b[0] * b[1] / area <= 1.1]:
            self.used_bytes -= sum(p.nbytes for p in self._kept.pop(other).values())
