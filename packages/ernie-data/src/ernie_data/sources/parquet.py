"""Parquet as a source: one record per row, with the picture's bytes in a column, or its path. Foreign files: nothing about their schema is assumed.

Bytes may stand in a binary column, or in a struct with ``bytes`` and ``path`` as the `datasets` library writes it. Captions are string columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ernie_core.api import DataError
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import ParquetInput
from ernie_data.sources.captions import TEXT, check_caption
from ernie_data.sources.place import Place

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img")
PATH_COLUMNS = ("path", "file_name", "filename", "image_path")
CAPTION_COLUMNS = ("text", "caption", "prompt")
_BATCH_ROWS = 4096


def parquet_files(source: ParquetInput) -> list[Path]:
    root = Path(source.path)
    return sorted(root.rglob("*.parquet")) if root.is_dir() else [root]


def list_parquet(source: ParquetInput) -> Iterator[Place]:
    """The rows of one file or of all ``*.parquet`` of a folder and below. Only captions, keys and paths are read here.

    Raises:
        DataError: a file that is no Parquet, or without a column of pictures: says what was found and what was expected.
    """
    root = Path(source.path)
    for path in parquet_files(source):
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        yield from _rows(source, path, f"{source.name}/{name}")


def _rows(source: ParquetInput, path: Path, prefix: str) -> Iterator[Place]:
    stamp = path.stat().st_mtime_ns
    with _opened(path) as file:
        schema = file.schema_arrow
        column, kind = image_column(schema, source.image, path)
        captions = caption_columns(schema, source.captions, path)
        wanted = [*captions.values(), *([column] if kind == "path" else [])]
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            table = batch.to_pydict()
            for number in range(batch.num_rows):
                key = f"{prefix}/{row:09d}"
                texts, wrong = _captions({style: table[name][number] for style, name in captions.items()}, f"{path.name} row {row}")
                if kind == "path":
                    yield _named(source, path, key, table[column][number], texts, wrong)
                else:
                    yield Place(key, str(path), row, 0, stamp, texts, wrong, part=column if kind == "bytes" else f"{column}.bytes")
                row += 1


def image_column(schema: pa.Schema, asked: str, path: Path) -> tuple[str, str]:
    """The column of pictures and how they stand there: "bytes", "struct" or "path".

    Raises:
        DataError: there is none, or the one asked for has another type.
    """
    kinds = {field.name: _kind(field) for field in schema}
    if asked:
        if kinds.get(asked) is None:
            raise DataError(
                f"{path}: `image = {asked!r}`: expected a column of bytes, of structs with `bytes`, or of paths. {_found(schema)}"
            )
        return asked, str(kinds[asked])
    for names, allowed in ((IMAGE_COLUMNS, ("bytes", "struct")), (PATH_COLUMNS, ("path",))):
        for name in names:
            if kinds.get(name) in allowed:
                return name, str(kinds[name])
    raise DataError(
        f"{path}: no column of pictures. {_found(schema)} Expected bytes in one of {', '.join(IMAGE_COLUMNS)}, or a path in one of "
        f"{', '.join(PATH_COLUMNS)}; name another with `image`."
    )


def caption_columns(schema: pa.Schema, asked: tuple[str, ...], path: Path) -> dict[str, str]:
    """Style -> column. ``text_<style>`` columns are found by their name; of ``text``, ``caption`` and ``prompt`` the first.

    Raises:
        DataError: a column asked for is missing or no text.
    """
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    if missing := [name for name in asked if name not in texts]:
        raise DataError(f"{path}: `captions`: expected columns of text, found none called {missing[0]!r}. {_found(schema)}")
    if asked:
        return {TEXT if name in CAPTION_COLUMNS else name.removeprefix("text_"): name for name in asked}
    plain = next((name for name in CAPTION_COLUMNS if name in texts), None)
    return {**({TEXT: plain} if plain else {}), **{name.removeprefix("text_"): name for name in texts if name.startswith("text_")}}


def read_row(place: Place) -> bytes | None:
    """The picture's bytes of one row; None where the row has none. Rows of one group are decoded together and kept for the next call.

    Raises:
        DataError: the file is damaged, or has fewer rows.
    """
    column, _, field = place.part.partition(".")
    first, values = _group_of(place.path, place.stamp, column, place.offset)
    value = values[place.offset - first].as_py()
    if field:
        value = None if value is None else value.get(field)
    return bytes(value) if value is not None else None


def _group_of(path: str, stamp: int, column: str, row: int) -> tuple[int, pa.ChunkedArray]:
    first = 0
    for group, rows in enumerate(_group_rows(path, stamp)):
        if row < first + rows:
            return first, _group(path, stamp, column, group)
        first += rows
    raise DataError(f"{path}: has {first} rows, row {row} was expected; the file changed, run the same command again")


@lru_cache(maxsize=8)
def _group_rows(path: str, stamp: int) -> tuple[int, ...]:
    with _opened(Path(path)) as file:
        return tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))


@lru_cache(maxsize=1)
def _group(path: str, stamp: int, column: str, group: int) -> pa.ChunkedArray:
    with _opened(Path(path)) as file:
        try:
            return file.read_row_group(group, columns=[column]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: row group {group} is damaged ({str(error).splitlines()[0]})") from None


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _kind(field: pa.Field) -> str | None:
    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_struct(kind) and any(child.name == "bytes" and _kind(child) == "bytes" for child in kind):
        return "struct"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "path"
    return None


def _found(schema: pa.Schema) -> str:
    return f"Found: {', '.join(f'{field.name} ({field.type})' for field in schema) or 'no column'}."


def _captions(values: dict[str, Any], where: str) -> tuple[dict[str, str], str]:
    captions: dict[str, str] = {}
    for style, value in values.items():
        if value is not None:
            try:
                captions[style] = check_caption(value, where)
            except DataError as error:
                return {}, str(error)
    return captions, ""


def _named(source: ParquetInput, path: Path, key: str, name: Any, captions: dict[str, str], wrong: str) -> Place:
    """A record whose row names a file, which must lie in the Parquet file's folder or below."""
    if not name:
        return Place(key, error=str(ReasonCode.NO_PICTURE), detail="the row names no file")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
        return Place(key, error=str(ReasonCode.NAME_REFUSED), detail="rows may name files beside the Parquet file and below it only")
    target = path.parent / name
    try:
        if not target.resolve().is_relative_to(path.parent.resolve()):
            return Place(key, error=str(ReasonCode.LINK_OUTSIDE), detail="a symbolic link that leads out of the folder")
        status = target.stat()
    except FileNotFoundError:
        return Place(key, error=str(ReasonCode.MISSING_FILE), detail=name[:200])
    except OSError as error:
        return Place(key, error=str(ReasonCode.UNREADABLE), detail=error.strerror or "")
    if status.st_size > source.max_file_mib << 20:
        return Place(key, error=str(ReasonCode.FILE_TOO_LARGE), detail=f"{status.st_size} bytes; the limit is {source.max_file_mib} MiB")
    return Place(key, str(target), 0, status.st_size, status.st_mtime_ns, captions, wrong)
