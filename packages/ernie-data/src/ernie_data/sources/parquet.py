"""Parquet as a source: one record per row, with the picture's bytes in a column, or its path. Foreign files: nothing about their schema is assumed.

Bytes may stand in a binary column, or in a struct with ``bytes`` and ``path`` as the `datasets` library writes it. Captions are string columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ernie_core.api import DataError
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import ParquetInput
from ernie_data.sources.captions import CAPTION_MAX_BYTES, TEXT, check_caption, decode_text
from ernie_data.sources.place import Place, stamp_of

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img")
PATH_COLUMNS = ("path", "file_name", "filename", "image_path")
CAPTION_COLUMNS = ("text", "caption", "prompt")
_BATCH_ROWS = 4096
_PICTURE_ROWS = 16
"""Pictures of a row group are decoded so many at a time: all at once take twice the memory."""


def parquet_files(source: ParquetInput) -> list[Path]:
    root = Path(source.path)
    return sorted(root.rglob("*.parquet")) if root.is_dir() else [root]


def list_parquet(source: ParquetInput) -> Iterator[Place]:
    """The rows of one file or of all ``*.parquet`` of a folder and below. Only captions, keys and paths are read here.

    Raises:
        DataError: a file that is no Parquet, without a column of pictures, or with row groups that workers cannot hold: says what was found and what
            was expected.
    """
    root = Path(source.path)
    for path in parquet_files(source):
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        yield from _rows(source, path, f"{source.name}/{name}")


def _rows(source: ParquetInput, path: Path, prefix: str) -> Iterator[Place]:
    stamp = stamp_of(path)
    with _opened(path) as file:
        schema = file.schema_arrow
        column, kind = image_column(schema, source.image, path)
        captions = caption_columns(schema, source.captions, path)
    if kind != "path":
        _check_groups(file.metadata, column, source, path)
    wanted = [*captions.values(), *([column] if kind == "path" else [])]
    row = 0
    with _opened(path, wanted) as file:
        for batch in _batches(file, wanted, path):
            table = {name: _texts(batch.column(name)) for name in wanted}
            for number in range(batch.num_rows):
                key = f"{prefix}/{row:09d}"
                texts, wrong = _captions({style: table[name][number] for style, name in captions.items()}, f"{path.name} row {row}")
                if kind == "path":
                    yield _named(source, path, key, table[column][number], texts, wrong)
                else:
                    yield Place(key, str(path), row, 0, stamp, texts, wrong, part=column if kind == "bytes" else f"{column}.bytes")
                row += 1


def _batches(file: pq.ParquetFile, columns: list[str], path: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({str(error).splitlines()[0]})") from None


def _texts(column: pa.DictionaryArray) -> list[bytes | int | None]:
    """The value of each row as bytes, which a foreign file need not have in UTF-8. Too long for a caption or a path: its length, since a few bytes of
    Parquet may stand for gigabytes of text.
    """
    stored = column.dictionary
    lengths = pc.binary_length(stored).to_pylist()
    stored = stored.cast(pa.large_binary() if pa.types.is_large_string(stored.type) else pa.binary())
    values = [stored[n].as_py() if size is not None and size <= CAPTION_MAX_BYTES else size for n, size in enumerate(lengths)]
    return [None if index is None else values[index] for index in column.indices.to_pylist()]


def _check_groups(metadata: pq.FileMetaData, column: str, source: ParquetInput, path: Path) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = [group.column(n) for n in range(group.num_columns)]
        size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] == column)
        if size > source.max_group_mib << 20:
            raise DataError(
                f"{path}: row group {number} has {size >> 20} MiB of pictures, and a worker reads a group whole; the limit is max_group_mib = "
                f"{source.max_group_mib}. Write the file with smaller groups (row_group_size of pyarrow), or raise max_group_mib of the source "
                "together with run.memory_mib, to five times as much and 500 more."
            )


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
            batches = file.iter_batches(batch_size=_PICTURE_ROWS, row_groups=[group], columns=[column], use_threads=False)
            return pa.chunked_array([batch.column(0) for batch in batches], file.schema_arrow.field(column).type)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: row group {group} is damaged ({str(error).splitlines()[0]})") from None


def _opened(path: Path, texts: Sequence[str] = ()) -> pq.ParquetFile:
    """``texts``: columns that are read as dictionaries: equal values are held once."""
    try:
        return pq.ParquetFile(path, read_dictionary=texts or None)
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


def _captions(values: dict[str, bytes | int | None], where: str) -> tuple[dict[str, str], str]:
    captions: dict[str, str] = {}
    for style, value in values.items():
        if value is not None:
            try:
                if isinstance(value, int):
                    raise DataError(f"{where}: {value} bytes is too long for a caption; the limit is {CAPTION_MAX_BYTES}")
                captions[style] = check_caption(decode_text(value, where), where)
            except DataError as error:
                return {}, str(error)
    return captions, ""


def _named(source: ParquetInput, path: Path, key: str, value: bytes | int | None, captions: dict[str, str], wrong: str) -> Place:
    """A record whose row names a file, which must lie in the Parquet file's folder or below."""
    if not value:
        return Place(key, error=str(ReasonCode.NO_PICTURE), detail="the row names no file")
    if isinstance(value, int):
        return Place(key, error=str(ReasonCode.NAME_REFUSED), detail=f"a name of {value} bytes")
    try:
        name = value.decode()
    except UnicodeDecodeError:
        return Place(key, error=str(ReasonCode.NAME_REFUSED), detail="the name is not UTF-8")
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
    except RuntimeError:  # before Python 3.13
        return Place(key, error=str(ReasonCode.UNREADABLE), detail="symbolic links in a circle")
    if status.st_size > source.max_file_mib << 20:
        return Place(key, error=str(ReasonCode.FILE_TOO_LARGE), detail=f"{status.st_size} bytes; the limit is {source.max_file_mib} MiB")
    return Place(key, str(target), 0, status.st_size, status.st_mtime_ns, captions, wrong)
