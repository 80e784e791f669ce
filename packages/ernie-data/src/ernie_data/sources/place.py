"""Where one source record's bytes are, and reading them: a file, or a part of a tar, by position. Light."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from ernie_core.api import DataError
from ernie_data.engine.stage import Refuse
from ernie_data.reasons import ReasonCode


class Carried(msgspec.Struct, frozen=True):
    """Columns of one row of another build: ``tables`` of its stages, the row's number, names and types, and the hash of the values."""

    tables: list[str]
    row: int
    columns: dict[str, str]
    sha256: str


class Place(msgspec.Struct, frozen=True):
    """One source record.

    Args:
        key: unique over all sources: ``<source>/<path inside it>``.
        path: the file that holds it. Not part of any output, so that a source may move.
        stamp: the file's time of change in ns; with ``offset`` and ``size`` it stands for the content until that was hashed.
        captions: by style; ``caption_error`` says why there are none although there was something.
        part: for a row of a Parquet file, its column; ``offset`` is the row then, and the size is not known.
        error: refused while listing, with a reason code and a detail.
        sha256: of the bytes, where the source knows it.
        carried: columns that come with the record.
    """

    key: str
    path: str = ""
    offset: int = 0
    size: int = 0
    stamp: int = 0
    captions: dict[str, str] = {}
    caption_error: str = ""
    error: str = ""
    detail: str = ""
    part: str = ""
    sha256: str = ""
    carried: Carried | None = None

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"key": self.key, "captions": self.captions}
        if self.carried is not None:
            from ernie_data.sources.origin import carried_values  # only where it is needed

            row |= carried_values(self.carried)
        return {**row, "caption_error": self.caption_error} if self.caption_error else row

    def identity(self) -> list[Any]:
        """What the scan's output depends on, as far as it is known without reading the bytes."""
        known = [self.key, self.offset, self.size, self.stamp, self.captions, self.caption_error, self.error, self.detail, self.part]
        return [*known, self.sha256, [] if self.carried is None else [self.carried.columns, self.carried.sha256]]


def stamp_of(path: Path) -> int:
    """The time of change of a file of records.

    Raises:
        DataError: it cannot be looked at, or has a name that no key can hold.
    """
    try:
        str(path).encode()
        return path.stat().st_mtime_ns
    except UnicodeEncodeError:
        raise DataError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def read_place(place: Place, *, expected_sha256: str | None) -> bytes:
    """The record's bytes.

    Raises:
        Refuse: the listing refused it, the file cannot be read, or its bytes are not those that were scanned.
    """
    if place.error:
        raise Refuse(ReasonCode(place.error), place.detail)
    data = _row(place) if place.part else _span(place)
    expected_sha256 = expected_sha256 or place.sha256 or None
    if (not place.part and len(data) != place.size) or (
        expected_sha256 is not None and hashlib.sha256(data).hexdigest() != expected_sha256
    ):
        raise Refuse(ReasonCode.SOURCE_CHANGED, "the file changed while the build was running")
    return data


def _row(place: Place) -> bytes:
    from ernie_data.sources.parquet import read_row  # only where it is needed

    try:
        data = read_row(place)
    except DataError as error:
        raise Refuse(ReasonCode.UNREADABLE, str(error).removeprefix(f"{place.path}: ")) from None
    if data is None:
        raise Refuse(ReasonCode.NO_PICTURE, f"column `{place.part}` is null")
    return data


def _span(place: Place) -> bytes:
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_NONBLOCK)  # a fifo must not hold the worker
        try:
            return os.pread(descriptor, place.size, place.offset)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Refuse(ReasonCode.MISSING_FILE, "no such file") from None
    except OSError as error:
        raise Refuse(ReasonCode.UNREADABLE, error.strerror or type(error).__name__) from None
