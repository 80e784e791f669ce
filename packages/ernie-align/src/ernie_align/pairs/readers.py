"""Votes of people, from the layouts they are kept in. What cannot be used is counted under its reason, and never stops an import."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ernie_align.pairs.pair import NewPair, NewPicture, Reason, Unusable
from ernie_align.pairs.pictures import MAX_BYTES, OversizedPicture, read_picture_file
from ernie_core.api import DataError

_ROWS_AT_A_TIME = 32
_NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
_WELCOME = ("has_label", "image_0_uid", "image_1_uid", "best_image_uid")
_TIE_UIDS = ("tie", "")
_LABELS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Layout:
    """``read(path, annotator)`` gives for each row a pair, or why it is none."""

    summary: str
    annotator: str
    read: Callable[[Path, str], Iterator[NewPair | Unusable]]


def read_pick_a_pic(path: Path, annotator: str) -> Iterator[NewPair | Unusable]:
    """Pick-a-Pic (Kirstain et al. 2023): Parquet with a caption, two encoded pictures and labels of 1 and 0, or twice .5 for a tie.

    Args:
        path: a Parquet file, or a folder of them, read in the order of their names.

    Raises:
        DataError: no such file, not Parquet, or without the columns.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: a folder without Parquet files")
    for file in files:
        row = 0
        try:
            with pq.ParquetFile(file) as table:
                names = table.schema_arrow.names
                if missing := [name for name in _NEEDED if name not in names]:
                    raise DataError(f"{file}: no columns {', '.join(missing)}; expected {', '.join(_NEEDED)}, found {', '.join(names)}")
                columns = [name for name in (*_NEEDED, *_WELCOME) if name in names]
                for batch in table.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=columns):
                    for values in batch.to_pylist():
                        yield _vote(values, f"{file.name} row {row}", annotator)
                        row += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: not a Parquet file that can be read, at row {row} ({_line(error)})") from error


def read_jsonl(path: Path, annotator: str) -> Iterator[NewPair | Unusable]:
    """One JSON object a line: ``prompt``, ``winner``, ``loser`` (files relative to the folder of ``path``, and in it); and, where known, ``annotator``,
    ``margin`` (>= 0, default 1), ``agreement`` (of the voters, in [0, 1]), ``style``, ``source``.

    Raises:
        DataError: no such file.
    """
    try:
        lines = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    with lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _line_vote(line, path, f"{path.name}:{number}", annotator)


LAYOUTS = {
    "pickapic": Layout("Parquet with caption, jpg_0, jpg_1, label_0, label_1", "pick-a-pic", read_pick_a_pic),
    "jsonl": Layout("JSON lines with prompt, winner, loser (files), annotator", "votes", read_jsonl),
}


def _vote(values: dict[str, Any], where: str, annotator: str) -> NewPair | Unusable:
    labels = values["label_0"], values["label_1"]
    if values.get("has_label") is False or None in labels:
        return Unusable(Reason.NO_LABEL, f"{where}: no label")
    if not all(isinstance(label, (int, float)) and label in _LABELS for label in labels) or sum(labels) != 1:
        return Unusable(Reason.BAD_LABEL, f"{where}: labels {labels[0]} and {labels[1]}; expected 1 and 0, 0 and 1, or .5 and .5")
    if labels[0] == labels[1]:
        return Unusable(Reason.TIE, f"{where}: both labels are .5")
    uids = values.get("image_0_uid"), values.get("image_1_uid")
    chosen = 0 if labels[0] == 1 else 1
    best = values.get("best_image_uid")
    if best is not None and best not in _TIE_UIDS and uids[chosen] is not None and best != uids[chosen]:
        return Unusable(Reason.BAD_LABEL, f"{where}: label_{chosen} is 1, but best_image_uid is not that of picture {chosen}")
    if uids[0] is not None and uids[0] == uids[1]:
        return Unusable(Reason.SAME_FILE, f"{where}: both pictures have the uid {uids[0]}")
    data = [values["jpg_0"], values["jpg_1"]]
    for number, picture in enumerate(data):
        if not isinstance(picture, bytes) or not picture:
            return Unusable(Reason.MISSING_PICTURE, f"{where}: no jpg_{number}")
        if len(picture) > MAX_BYTES:
            return Unusable(Reason.TOO_LARGE, f"{where}: jpg_{number} of {len(picture)} bytes")
    if not isinstance(values["caption"], str):
        return Unusable(Reason.EMPTY_PROMPT, f"{where}: no caption")
    pictures = [NewPicture(picture, f"{where} jpg_{number}") for number, picture in enumerate(data)]
    return NewPair(values["caption"], pictures[chosen], pictures[1 - chosen], 1.0, annotator, where)


def _line_vote(line: str, path: Path, where: str, annotator: str) -> NewPair | Unusable:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unusable(Reason.BAD_ROW, f"{where}: not JSON ({_line(error)})")
    if not isinstance(values, dict):
        return Unusable(Reason.BAD_ROW, f"{where}: expected an object, found {type(values).__name__}")
    if not isinstance(values.get("prompt"), str):
        return Unusable(Reason.EMPTY_PROMPT, f"{where}: no prompt")
    margin, agreement = values.get("margin", 1.0), values.get("agreement")
    if not _number(margin):
        return Unusable(Reason.BAD_MARGIN, f"{where}: margin is {margin!r}, expected a number >= 0")
    if agreement is not None and not (_number(agreement) and 0 <= agreement <= 1):
        return Unusable(Reason.BAD_ROW, f"{where}: agreement is {agreement!r}, expected a number in [0, 1]")
    texts = {name: values.get(name) for name in ("annotator", "style", "source")}
    if wrong := [name for name, text in texts.items() if text is not None and not isinstance(text, str)]:
        return Unusable(Reason.BAD_ROW, f"{where}: {wrong[0]} is {texts[wrong[0]]!r}, expected a text")
    try:
        winner, loser = (_file_of(values.get(side), side, path.parent, where) for side in ("winner", "loser"))
    except Unusable as error:
        return error
    chosen_by, origin = texts["annotator"] or annotator, texts["source"] or where
    return NewPair(values["prompt"], winner, loser, float(margin), chosen_by, origin, texts["style"] or None, agreement)


def _file_of(name: object, side: str, folder: Path, where: str) -> NewPicture:
    if not isinstance(name, str) or not name or "\0" in name:
        raise Unusable(Reason.MISSING_PICTURE, f"{where}: {side} is {name!r}, expected the name of a file")
    file = folder / name
    try:
        is_inside, is_file = file.resolve().is_relative_to(folder.resolve()), file.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, is no text, or is a link to itself
        raise Unusable(Reason.MISSING_PICTURE, f"{where}: {side} {name[:100]!r}: cannot be looked up ({_line(error)})") from error
    if not is_inside:
        raise Unusable(Reason.MISSING_PICTURE, f"{where}: {side} {name} lies outside of {folder}; put the pictures beside the list")
    if not is_file:
        raise Unusable(Reason.MISSING_PICTURE, f"{where}: {side} {file}: no such file")
    try:
        return NewPicture(read_picture_file(file, str(file)), f"{where} {name}")
    except OversizedPicture as error:
        raise Unusable(Reason.TOO_LARGE, f"{where}: {error}") from error
    except DataError as error:
        raise Unusable(Reason.UNREADABLE, f"{where}: {error}") from error


def _number(value: object) -> bool:
    """Whether a float holds it; NaN is for the writer to refuse."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return not math.isinf(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
