"""Pictures in uncompressed tar shards (the WebDataset layout) with an index, read by position and never extracted.

A shard's bytes depend on its content alone: members sorted by name, time, owner and mode fixed. The index has one row per picture: its key, member
name, offset, size and sha256; a reader returns no byte that it has not verified.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ernie_core.api import DataError
from ernie_data.tables import encode_rows, read_rows

SHARD = "pictures.tar"
INDEX = "index.parquet"
INDEX_COLUMNS = {"key": "string", "name": "string", "offset": "int", "size": "int", "sha256": "string"}
BLOCK = 512
_END = bytes(2 * BLOCK)
_MEMBER_BYTES = 8**11 - 1  # what eleven octal digits hold


@dataclass(frozen=True)
class Sample:
    """One picture with what a reader of the tar alone should know of it (written as JSON beside the picture)."""

    key: str
    picture: bytes
    suffix: str
    about: Mapping[str, Any]


def member_id(key: str) -> str:
    """The member name of a key without its suffix. Keys are paths of any length in any script; WebDataset splits names at the first dot."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_shard(samples: Sequence[Sample], file: BinaryIO) -> list[dict[str, Any]]:
    """Write a tar and return its index rows, ordered by member name."""
    return write_ordered(sorted(samples, key=lambda s: member_id(s.key)), file)


def write_ordered(samples: Iterable[Sample], file: BinaryIO) -> list[dict[str, Any]]:
    """The same of samples that come in the order of their ``member_id``, one at a time in memory."""
    index, position = [], 0
    for sample in samples:
        name = member_id(sample.key)
        about = json.dumps({"key": sample.key, **sample.about}, sort_keys=True, ensure_ascii=True).encode()
        # Readers group members by name up to the first dot; sorted by suffix as well, so that the order is the whole name's.
        for suffix, data in sorted([(sample.suffix, sample.picture), ("json", about)]):
            member = f"{name}.{suffix}"
            file.write(_header(member, len(data)))
            position += BLOCK
            if data is sample.picture:
                digest = hashlib.sha256(data).hexdigest()
                index.append({"key": sample.key, "name": member, "offset": position, "size": len(data), "sha256": digest})
            padding = -len(data) % BLOCK
            file.write(data)
            file.write(bytes(padding))
            position += len(data) + padding
    file.write(_END)
    return index


def index_bytes(index: Sequence[Mapping[str, Any]]) -> bytes:
    return encode_rows(index, INDEX_COLUMNS)


def _header(name: str, size: int) -> bytes:
    """A POSIX ustar header (IEEE 1003.1-1988) of a regular file, mode 0644, owner 0, time 0."""
    if size > _MEMBER_BYTES:
        raise DataError(f"{name}: {size} bytes are more than a tar member holds ({_MEMBER_BYTES})")
    fields = (
        name.encode().ljust(100, b"\0")
        + b"0000644\0"
        + b"0000000\0" * 2
        + b"%011o\0" % size
        + b"00000000000\0"
        + b" " * 8  # the sum counts itself as blanks
        + b"0"
        + bytes(100)
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\0" * 2
    ).ljust(BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


class ShardReader:
    """Reads pictures of one shard by key, with pread: safe from several threads at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SHARD
        self.index = {row["key"]: row for row in read_rows(folder / INDEX)}
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error.strerror}); run `ernie data build` again") from error

    def read(self, key: str) -> bytes:
        """The picture's bytes.

        Raises:
            DataError: the key is not in the shard, or its bytes are not those that were written.
        """
        row = self.index.get(key)
        if row is None:
            raise DataError(f"{self.path}: holds no picture with the key {key!r}")
        data = os.pread(self._descriptor, row["size"], row["offset"])
        found = hashlib.sha256(data).hexdigest()
        if found != row["sha256"]:
            raise DataError(
                f"{self.path}: sha256 of {key!r} differs from the index (expected {row['sha256'][:12]}..., found {found[:12]}...). "
                "The picture was not used; run `ernie data build --verify` to rebuild the shard."
            )
        return data

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
