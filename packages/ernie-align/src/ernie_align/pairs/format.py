"""Reading a folder of pairs that ``pairs.writer`` wrote. No byte is used that does not have the sha256 it was stored under."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ernie_align.pairs.pair import Pair, Picture, Reason
from ernie_align.pairs.writer import KIND, SCHEMA, TABLE, VERSION
from ernie_core import io
from ernie_core.api import DataError

_SHOWN_ROWS = 5
_OUT_OF_PLACE = "picture outside of its shard"


class PairFolder:
    """An opened folder: the manifest, the table and the size of each shard are checked; pictures are when they are read.

    Raises:
        DataError: not a folder of pairs, damaged, or with pairs that cannot be trained on: how many and why.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.facts = _read_facts(self.path)
        self.identity = io.sha256_file(self.path / io.MANIFEST)
        self.table = _read_table(self.path, self.facts)
        _check_pairs(self.path, self.table, _shard_sizes(self.path, self.facts))
        self.margin_N: NDArray[np.float64] = self.table["margin"].to_numpy()
        self.size_px_N2: NDArray[np.int32] = np.stack([self.table["width"].to_numpy(), self.table["height"].to_numpy()], axis=1)

    def __len__(self) -> int:
        return self.table.num_rows

    def pair(self, row: int) -> Pair:
        """
        Raises:
            DataError: its scores are not what the format says.
        """
        (plain,) = self.table.slice(row, 1).to_pylist()
        sides = {side: _picture(plain.pop(side), f"{self.path / TABLE} row {row}: {side}") for side in ("winner", "loser")}
        del plain["width"], plain["height"]
        return Pair(**plain, **sides)

    def bytes_of(self, picture: Picture) -> bytes:
        """A picture's file.

        Raises:
            DataError: it cannot be read, or is not what was stored.
        """
        path = self.path / picture.shard
        where = f"{path} at {picture.offset}"
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                data = os.pread(descriptor, picture.size, picture.offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror})") from error
        if (found := hashlib.sha256(data).hexdigest()) != picture.sha256:
            raise DataError(
                f"{where}: the picture is not what was stored (expected sha256 {picture.sha256[:12]}..., found {found[:12]}...). Write the folder again, "
                "or copy it again from where it is whole."
            )
        return data


def _read_facts(path: Path) -> dict[str, Any]:
    manifest = path / io.MANIFEST
    try:
        facts = json.loads(manifest.read_bytes())
        kind, version = facts["kind"], facts["version"]
    except FileNotFoundError:
        found = "no such folder" if not path.exists() else "a file" if path.is_file() else f"a folder without {io.MANIFEST}"
        raise DataError(f"{path}: {found}; expected a folder that `ernie align pairs import` or `build` has finished") from None
    except NotADirectoryError:
        raise DataError(f"{path}: a file; expected a folder that `ernie align pairs import` or `build` has finished") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: not the manifest of a folder of pairs ({type(error).__name__}: {error})") from error
    if kind != KIND or version != VERSION:
        raise DataError(f"{manifest}: found {kind} in version {version}, expected {KIND} in version {VERSION}")
    files = facts.get("files")
    if not (isinstance(files, dict) and TABLE in files):
        raise DataError(f"{manifest}: names no {TABLE}; write the folder again")
    for name, fact in files.items():
        if Path(name).name != name:
            raise DataError(f"{manifest}: names the file {name!r}; expected files of this folder alone. Nothing was read.")
        if not (isinstance(fact, dict) and isinstance(fact.get("bytes"), int) and isinstance(fact.get("sha256"), str)):
            raise DataError(f"{manifest}: {name} lacks its bytes or its sha256; write the folder again")
    return facts


def _read_table(path: Path, facts: dict[str, Any]) -> pa.Table:
    file = path / TABLE
    try:
        found = io.sha256_file(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    if found != (expected := facts["files"][TABLE]["sha256"]):
        raise DataError(
            f"{file}: sha256 differs from the manifest (expected {expected[:12]}..., found {found[:12]}...). Write the folder again."
        )
    try:
        table = pq.read_table(file).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a Parquet file that can be read ({error})") from error
    names = {field.name: field.type for field in table.schema}
    if wrong := [f"{field.name} ({field.type})" for field in SCHEMA if names.get(field.name) != field.type]:
        raise DataError(f"{file}: expected the columns {', '.join(wrong)}; found {', '.join(f'{n} ({t})' for n, t in names.items())}")
    if not table.num_rows:
        raise DataError(f"{file}: holds no pairs")
    return table.select(SCHEMA.names)


def _shard_sizes(path: Path, facts: dict[str, Any]) -> dict[str, int]:
    """Bytes of each shard, compared with the manifest: a lost or cut-off shard should be known before training."""
    sizes = {name: fact["bytes"] for name, fact in facts["files"].items() if name.endswith(".tar")}
    for name, expected in sizes.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != expected:
            raise DataError(f"{path / name}: {'missing' if found is None else f'{found} bytes'}, the manifest says {expected} bytes")
    return sizes


def _check_pairs(path: Path, table: pa.Table, shard_sizes: dict[str, int]) -> None:
    """
    Raises:
        DataError: counts and first rows of every kind of pair that cannot be trained on.
    """
    winner, loser = table["winner"].combine_chunks(), table["loser"].combine_chunks()

    def both(name: str) -> tuple[Any, Any]:
        return pc.struct_field(winner, name), pc.struct_field(loser, name)

    def differ(name: str) -> Any:
        return pc.not_equal(*both(name))

    def outside(side: Any) -> Any:
        limit = pa.array([shard_sizes.get(name, -1) for name in pc.struct_field(side, "shard").to_pylist()], pa.int64())
        begin, size = pc.struct_field(side, "offset"), pc.struct_field(side, "size")
        return pc.or_(
            pc.or_(pc.less(begin, 0), pc.less_equal(size, 0)), pc.greater(size, pc.subtract(limit, begin))
        )  # no sum: it may overflow

    widths, heights = both("width"), both("height")
    small = pc.or_(pc.less(pc.min_element_wise(*widths), 1), pc.less(pc.min_element_wise(*heights), 1))
    own = pc.or_(pc.not_equal(table["width"].combine_chunks(), widths[0]), pc.not_equal(table["height"].combine_chunks(), heights[0]))
    margin = table["margin"].combine_chunks()
    wrong: dict[str, Any] = {
        Reason.EMPTY_PROMPT: pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(table["prompt"].combine_chunks())), 0), True),
        Reason.DIFFERENT_SHAPES: pc.or_(pc.or_(differ("width"), differ("height")), pc.or_(own, small)),
        Reason.SAME_FILE: pc.equal(*both("sha256")),
        Reason.SAME_PIXELS: pc.and_(pc.equal(*both("pixel_sha256")), differ("sha256")),
        Reason.BAD_MARGIN: pc.invert(pc.and_(pc.is_finite(margin), pc.greater_equal(margin, 0))),
        Reason.WRONG_SIGN: pc.fill_null(pc.invert(pc.greater(*both("score"))), False),
        _OUT_OF_PLACE: pc.or_(outside(winner), outside(loser)),
    }
    found = []
    for reason, mask in wrong.items():
        rows = np.flatnonzero(pc.fill_null(mask, True).to_numpy(zero_copy_only=False))
        if len(rows):
            shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", ..." if len(rows) > _SHOWN_ROWS else "")
            found.append(f"{len(rows)} x {reason} (rows {shown})")
    if found:
        raise DataError(
            f"{path / TABLE}: of {table.num_rows} pairs cannot be used: {'; '.join(found)}. Remove them and write the folder again."
        )


def _picture(plain: dict[str, Any], where: str) -> Picture:
    try:
        scores = {name: float(score) for name, score in json.loads(plain["scores"] or "{}").items()}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(f"{where}: scores are {str(plain['scores'])[:80]!r}; expected a JSON object of numbers") from error
    return Picture(**{**plain, "scores": scores})
