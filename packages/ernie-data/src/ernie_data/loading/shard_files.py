"""Bytes out of many shards by position, with a bounded number of open files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ernie_core.api import DataError

OPEN_FILES = 128


class _File:
    """An open descriptor, closed when nobody holds the object any more: a thread that still reads keeps it open while the cache lets it go."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.number).st_size

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class ShardFiles:
    """Safe from several threads at once. Nothing is verified: the caller knows the sha256.

    Args:
        names: of the shards, below ``root``.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names
        self._file = lru_cache(maxsize=OPEN_FILES)(lambda number: _File(self.path(number)))

    def path(self, number: int) -> Path:
        """
        Raises:
            DataError: there is no such shard.
        """
        if not 0 <= number < len(self.names):
            raise DataError(f"{self.root}: the index names shard {number}; there are {len(self.names)}. Build the index again.")
        return self.root / self.names[number]

    def read(self, number: int, offset: int, size: int) -> bytes:
        """
        Raises:
            DataError: the shard cannot be read, or ends before.
        """
        path = self.path(number)
        try:
            file = self._file(number)
            if offset + size > file.size:  # also keeps a damaged size from asking for gigabytes
                raise DataError(
                    f"{path}: {file.size} bytes, the index names bytes {offset} to {offset + size}; run `ernie data build --verify`"
                )
            return os.pread(file.number, size, offset)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); run `ernie data build --verify`") from error
