"""Captions as users write them: ``a.txt`` beside ``a.png``, or ``metadata.jsonl`` in the imagefolder convention."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ernie_core.api import DataError

CAPTION_MAX_BYTES = 16 * 1024
"""Longer than any prompt encoder reads; a longer caption file is some other file."""
METADATA_MAX_BYTES = 1 << 31
TEXT = "text"
"""The style of a caption without a named style."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""The categories Cc, but for newline and tab, and Cs."""


def read_caption_file(path: Path) -> str:
    """The whole file as one caption, without surrounding whitespace.

    Raises:
        DataError: naming the file: too large, not UTF-8, or with control characters.
    """
    size = path.stat().st_size
    if size > CAPTION_MAX_BYTES:
        raise DataError(f"{path}: {size} bytes is too long for a caption; the limit is {CAPTION_MAX_BYTES}")
    return check_caption(decode_text(path.read_bytes(), str(path)), str(path))


def decode_text(data: bytes, where: str) -> str:
    """UTF-8, with or without a byte order mark.

    Raises:
        DataError: naming the first byte that is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text (byte 0x{data[error.start]:02x} at position {error.start}); save it as UTF-8") from None


def check_caption(text: str, where: str) -> str:
    """
    Raises:
        DataError: naming the place: too long, a control character, or half of a surrogate pair.
    """
    text = text.replace("\r\n", "\n").strip()
    if found := _CONTROLS.search(text):
        kind = "half a surrogate pair" if "\ud800" <= found[0] <= "\udfff" else "a control character"
        raise DataError(f"{where}: {kind} (U+{ord(found[0]):04X}) at position {found.start()} of the caption; remove it")
    if len(text.encode()) > CAPTION_MAX_BYTES:
        raise DataError(f"{where}: {len(text.encode())} bytes is too long for a caption; the limit is {CAPTION_MAX_BYTES}")
    return text


def read_metadata(path: Path, unusable: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
    """``metadata.jsonl``: file name -> captions by style, in the file's order.

    A line is an object with ``file_name`` and ``text``, ``text_<style>`` columns, or a ``captions`` object from style to text; other keys are
    ignored. ``text`` becomes the style "text" unless it repeats the caption of a named style.

    Args:
        unusable: takes, by file name, why captions cannot be used, of files that then have none; without it that is an error.

    Raises:
        DataError: naming file and line.
    """
    if path.stat().st_size > METADATA_MAX_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes; the limit is {METADATA_MAX_BYTES}. Split it over sub-folders.")
    rows: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}:{number}"
        text = decode_text(line, where)
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON ({error}); expected one object per line") from None
        if not isinstance(row, dict):
            raise DataError(f'{where}: expected an object such as {{"file_name": "a.png", "text": "..."}}, found {type(row).__name__}')
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: `file_name` is missing or not a string; keys found: {', '.join(sorted(row)) or 'none'}")
        if name in rows:
            raise DataError(f"{where}: {name} is described twice, first in line {lines[name]}")
        lines[name] = number
        try:
            rows[name] = _captions(row, where)
        except DataError as error:
            if unusable is None:
                raise
            rows[name], unusable[name] = {}, str(error).removeprefix(f"{where}: ")
    return rows


def _captions(row: Mapping[str, object], where: str) -> dict[str, str]:
    styles = {key.removeprefix("text_"): value for key, value in row.items() if key.startswith("text_") and len(key) > len("text_")}
    nested = row.get("captions", {})
    if not isinstance(nested, dict):
        raise DataError(f"{where}: `captions` must be an object from style to text, found {type(nested).__name__}")
    for style in nested:
        if style in styles:
            raise DataError(f"{where}: style `{style}` is given twice, in `captions` and in `text_{style}`")
    styles.update(nested)
    found = {}
    for style, value in styles.items():
        if not isinstance(value, str):
            raise DataError(f"{where}: the caption of style `{style}` must be text, found {type(value).__name__}")
        found[style] = check_caption(value, where)
    if "text" in row:
        value = row["text"]
        if not isinstance(value, str):
            raise DataError(f"{where}: `text` must be text, found {type(value).__name__}")
        text = check_caption(value, where)
        if text not in found.values():
            found = {TEXT: text, **found}
    return found
