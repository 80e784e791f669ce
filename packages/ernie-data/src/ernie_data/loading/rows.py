"""What training must know of a record besides its picture: key, captions, category and scores, found by position.

A folder beside the sampling index, written once and whole. Numbers are little-endian.

| file | holds |
|---|---|
| ``rows.json`` | format, version, counts; captions by style, records by category |
| ``rows.bin`` | one JSON object per record, one after the other, in the order of the build |
| ``places.bin`` | per record: offset (``u8``), size (``u4``), the first 12 bytes of its BLAKE2b (``PLACE``) |
| ``pieces.bin`` | per piece of the build: number of its first record (``i8``) |

A record is (piece, number among the piece's accepted records): ``shard`` and ``position`` of the index. Each takes two reads of a few hundred bytes
and no memory, however many there are; a Parquet table would be read and decoded whole for one row. On disk it is about one hundredth of the pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from ernie_core.api import DataError
from ernie_core.io import FolderWriter, read_manifest

FORMAT, VERSION = "ernie-rows", 1
PLACE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("check", "V12")])
_CHECK_BYTES = 12
_NAMES = ("rows.json", "rows.bin", "places.bin", "pieces.bin")


class RowFacts(msgspec.Struct, frozen=True):
    """One record. ``sha256``: of its stored picture, in hex; it ties the text to the picture."""

    key: str
    sha256: str
    captions: dict[str, str]
    category: str = ""
    scores: dict[str, float] = {}


class RowsAbout(msgspec.Struct, frozen=True):
    """``rows.json``. ``styles``: captions by style; ``categories``: records by category, by falling number."""

    format: str
    version: int
    rows: int
    styles: dict[str, int]
    categories: dict[str, int]


def write_rows(folder: FolderWriter, pieces: Iterable[Iterable[RowFacts]]) -> RowsAbout:
    """Add the files of all pieces' records to a folder. Memory: one piece."""
    styles: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    firsts: list[int] = []
    count = 0

    def write(path: Path) -> None:
        nonlocal count
        # durable: both inside commit_folder, which syncs and renames
        with path.open("wb") as texts, path.with_name("places.bin").open("wb") as places:  # durable: inside commit_folder
            for piece in pieces:
                firsts.append(count)
                count += _write_piece(piece, texts, places, styles, categories)

    folder.add_file("rows.bin", write)
    folder.add_file("places.bin", lambda path: None)  # written above
    folder.add_bytes("pieces.bin", np.array([*firsts, count], "<i8").tobytes())
    about = RowsAbout(FORMAT, VERSION, count, dict(sorted(styles.items())), dict(sorted(categories.items(), key=lambda c: (-c[1], c[0]))))
    folder.add_json("rows.json", msgspec.to_builtins(about))
    return about


def _write_piece(rows: Iterable[RowFacts], texts: BinaryIO, places: BinaryIO, styles: Counter[str], categories: Counter[str]) -> int:
    encoder = msgspec.json.Encoder(order="sorted")
    offset, found, data = texts.tell(), [], []
    for row in rows:
        text = encoder.encode(row)
        found.append((offset, len(text), hashlib.blake2b(text, digest_size=_CHECK_BYTES).digest()))
        data.append(text)
        offset += len(text)
        styles.update(row.captions.keys())
        categories[row.category] += 1
    texts.write(b"".join(data))
    places.write(np.array(found, PLACE).tobytes())
    return len(found)


def read_about(folder: Path) -> RowsAbout:
    """
    Raises:
        DataError: missing, damaged, or of another version.
    """
    try:
        about = msgspec.json.decode((folder / "rows.json").read_bytes(), type=RowsAbout)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{folder / 'rows.json'}: cannot be read ({error}); run `ernie data build --verify` again") from error
    if (about.format, about.version) != (FORMAT, VERSION):
        raise DataError(
            f"{folder / 'rows.json'}: format {about.format!r} version {about.version}; this program reads {FORMAT!r} version {VERSION}"
        )
    return about


class RowStore:
    """Reads records by position; safe from several threads at once.

    Raises:
        DataError: not such a folder, or files of another size than were written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self.about = read_about(self.path)
        try:
            files = read_manifest(self.path)["files"]
            for name in _NAMES:
                if (found := (self.path / name).stat().st_size) != files[name]["bytes"]:
                    raise DataError(
                        f"{self.path / name}: {found} bytes, the manifest says {files[name]['bytes']}; run `ernie data build --verify`"
                    )
            self._text_bytes = int(files["rows.bin"]["bytes"])
            self.first_P = np.fromfile(self.path / "pieces.bin", "<i8")
            self._texts, self._places = (os.open(self.path / name, os.O_RDONLY) for name in ("rows.bin", "places.bin"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path}: cannot be read ({error}); run `ernie data build --verify`") from error
        self._decoder = msgspec.json.Decoder(RowFacts)

    def __len__(self) -> int:
        return self.about.rows

    def read(self, pieces_N: Sequence[int], positions_N: Sequence[int]) -> list[RowFacts]:
        """Records in the order asked for.

        Raises:
            DataError: one that does not exist, or whose bytes are not those that were written.
        """
        return [self._row(int(piece), int(position)) for piece, position in zip(pieces_N, positions_N, strict=True)]

    def _row(self, piece: int, position: int) -> RowFacts:
        if not 0 <= piece < len(self.first_P) - 1 or not 0 <= position < int(self.first_P[piece + 1] - self.first_P[piece]):
            raise DataError(f"{self.path}: there is no record {position} in piece {piece}")
        row = int(self.first_P[piece]) + position
        found: Any = np.frombuffer(os.pread(self._places, PLACE.itemsize, row * PLACE.itemsize), PLACE)
        if len(found) == 1 and int(found["offset"][0]) + int(found["size"][0]) <= self._text_bytes:  # damage must not ask for gigabytes
            text = os.pread(self._texts, int(found["size"][0]), int(found["offset"][0]))
            if hashlib.blake2b(text, digest_size=_CHECK_BYTES).digest() == bytes(found["check"][0]):
                return self._decoder.decode(text)
        raise DataError(f"{self.path}: record {position} of piece {piece} is damaged; run `ernie data build --verify` to write it again")

    def close(self) -> None:
        if self._texts >= 0:
            os.close(self._texts)
            os.close(self._places)
            self._texts = self._places = -1

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
