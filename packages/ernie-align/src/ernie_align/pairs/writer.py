"""Writing a folder of pairs, whole or not at all.

``OUT/{pairs.parquet, pictures-00000.tar, ..., manifest.json}``. Pictures are members of uncompressed tar files, which any program can list and unpack;
a row of the table knows the position of each, so that reading one needs no tar reader. A picture that several pairs share is stored once.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ernie_align.pairs.pair import NewPair, NewPicture, Pair, Picture, Reason, Unusable, check_new
from ernie_align.pairs.pictures import OversizedPicture, decode, pixel_sum, suffix_of
from ernie_core import io
from ernie_core.api import DataError

KIND, VERSION = "preference pairs", 1
TABLE = "pairs.parquet"
_BLOCK = 512
_EXAMPLES = 3
_PICTURE = pa.struct(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("pixel_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("scores", pa.string()),  # JSON: scorer to score
    ]
)
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("style", pa.string()),
        ("winner", _PICTURE),
        ("loser", _PICTURE),
        ("source", pa.string()),
        ("margin", pa.float64()),
        ("annotator", pa.string()),
        ("agreement", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


class PairWriter:
    """Takes pairs one by one, and counts those that cannot be used. ``about`` goes into the manifest."""

    def __init__(self, folder: io.FolderWriter, *, max_pixels: int, shard_bytes: int, rows_per_group: int) -> None:
        self.folder = folder
        self.about: dict[str, Any] = {}
        self.pairs = 0
        self.left_out: Counter[Reason] = Counter()
        self.examples: dict[Reason, list[str]] = {}
        self._max_pixels, self._shard_bytes, self._rows_per_group = max_pixels, shard_bytes, rows_per_group
        self._stored: dict[str, Picture] = {}
        self._shard: BinaryIO | None = None
        self._shards = 0
        self._waiting: list[dict[str, Any]] = []
        self._table: pq.ParquetWriter | None = None

    def add(self, pair: NewPair) -> bool:
        """Write a pair, or leave it out and count why. True if it was written."""
        try:
            self._add(pair)
        except Unusable as error:
            self.leave_out(error.reason, str(error))
            return False
        return True

    def leave_out(self, reason: Reason, detail: str, *, count: int = 1) -> None:
        self.left_out[reason] += count
        if len(examples := self.examples.setdefault(reason, [])) < _EXAMPLES:
            examples.append(detail.encode(errors="backslashreplace").decode())  # names of files need be no text

    def counts(self) -> dict[str, Any]:
        """What was seen is what was written and what was left out."""
        left_out = {str(reason): {"count": count, "examples": self.examples[reason]} for reason, count in sorted(self.left_out.items())}
        return {"seen": self.pairs + self.left_out.total(), "pairs": self.pairs, "left_out": left_out}

    def _add(self, pair: NewPair) -> None:
        check_new(pair)
        winner, loser = self._prepared(pair.winner), self._prepared(pair.loser)
        where = f"{pair.winner.where} and {pair.loser.where}"
        if (winner.width, winner.height) != (loser.width, loser.height):
            shapes = f"{winner.width} x {winner.height} and {loser.width} x {loser.height} px"
            raise Unusable(Reason.DIFFERENT_SHAPES, f"{where}: {shapes}")
        if winner.pixel_sha256 == loser.pixel_sha256:
            raise Unusable(Reason.SAME_PIXELS, f"{where}: different files of the same pixels")
        self._waiting.append(
            row_of(
                Pair(
                    pair.prompt,
                    pair.style,
                    self._stored_once(winner, pair.winner),
                    self._stored_once(loser, pair.loser),
                    pair.source,
                    float(pair.margin),
                    pair.annotator,
                    pair.agreement,
                )
            )
        )
        self.pairs += 1
        if len(self._waiting) >= self._rows_per_group:
            self._flush()

    def _prepared(self, new: NewPicture) -> Picture:
        """The picture as far as it can be known before it is stored; of one that was stored, where."""
        digest = hashlib.sha256(new.data).hexdigest()
        if digest in self._stored:
            return self._stored[digest]
        try:
            pixels_HW3 = decode(new.data, new.where, max_pixels=self._max_pixels)
        except OversizedPicture as error:
            raise Unusable(Reason.TOO_LARGE, str(error)) from error
        except DataError as error:
            raise Unusable(Reason.UNREADABLE, str(error)) from error
        height, width = pixels_HW3.shape[:2]
        return Picture("", 0, len(new.data), digest, pixel_sum(pixels_HW3), width, height)

    def _stored_once(self, picture: Picture, new: NewPicture) -> Picture:
        if picture.sha256 not in self._stored:
            shard, offset = self._write(f"{picture.sha256[:40]}.{suffix_of(new.data)}", new.data)
            self._stored[picture.sha256] = replace(picture, shard=shard, offset=offset)
        return replace(self._stored[picture.sha256], score=new.score, scores=new.scores)

    def _write(self, member: str, data: bytes) -> tuple[str, int]:
        if self._shard is not None and self._shard.tell() + len(data) > self._shard_bytes:
            self._finish_shard()
        if self._shard is None:
            self._shard = self._shard_path().open("wb")  # durable: inside commit_folder, fsynced by add_file when it is full
        header = tarfile.TarInfo(member)
        header.size = len(data)
        self._shard.write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._shard.tell()
        self._shard.write(data)
        self._shard.write(bytes(-len(data) % _BLOCK))
        return self._shard_path().name, offset

    def _shard_path(self) -> Path:
        return self.folder.folder / f"pictures-{self._shards:05d}.tar"

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._shard.write(bytes(2 * _BLOCK))
            self._shard.close()
            self.folder.add_file(self._shard_path().name, lambda path: None)
            self._shard = None
            self._shards += 1

    def _flush(self) -> None:
        if self._table is None:
            self._table = pq.ParquetWriter(self.folder.folder / TABLE, SCHEMA, compression="zstd")  # durable: see _write
        self._table.write_table(pa.Table.from_pylist(self._waiting, SCHEMA))
        self._waiting = []

    def finish(self) -> None:
        """Close the files. Called by ``write_pairs``.

        Raises:
            DataError: no pair could be used.
        """
        if not self.pairs:
            raise DataError(f"no pair can be used, nothing was written. {told(self.counts())}")
        self._finish_shard()
        self._flush()
        self.close()
        self.folder.add_file(TABLE, lambda path: None)
        self.folder.facts.update(about=self.about, **self.counts())

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
        if self._table is not None:
            self._table.close()


@contextmanager
def write_pairs(out: Path, *, max_pixels: int = 64_000_000, shard_bytes: int = 1 << 30, rows_per_group: int = 4096) -> Iterator[PairWriter]:
    """Write a folder of pairs, which appears whole when the context ends.

    Raises:
        StorageError: ``out`` exists, or the disk refused.
        DataError: no pair could be used.
    """
    with io.commit_folder(out, facts={"kind": KIND, "version": VERSION}) as folder:
        writer = PairWriter(folder, max_pixels=max_pixels, shard_bytes=shard_bytes, rows_per_group=rows_per_group)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def row_of(pair: Pair) -> dict[str, Any]:
    """A pair as a row of the table."""

    def plain(picture: Picture) -> dict[str, Any]:
        scores = {name: float(value) for name, value in picture.scores.items()}
        return {**asdict(picture), "scores": json.dumps(scores, sort_keys=True) if scores else None}

    size = {"width": pair.winner.width, "height": pair.winner.height}
    return {**asdict(pair), "winner": plain(pair.winner), "loser": plain(pair.loser), **size}


def told(counts: Mapping[str, Any]) -> str:
    """Counts as ``PairWriter.counts`` gives them, in a sentence with an example each."""
    left_out = [f"{fact['count']} x {reason} (such as {fact['examples'][0]})" for reason, fact in counts["left_out"].items()]
    return f"{counts['seen']} seen, {counts['pairs']} used" + (", left out: " + "; ".join(left_out) if left_out else "")
