"""Labels from a file: a JSON object with ``key`` and ``label`` per line, or Parquet with these columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ernie_core import io
from ernie_core.api import DataError
from ernie_data.tables import read_table

LABEL_CHARACTERS = 200


def read_labels(path: Path) -> dict[str, str]:
    """Label by key.

    Raises:
        DataError: unreadable; a line that is not as expected, by number; two labels for one key; fewer than two labels.
    """
    labels: dict[str, str] = {}
    for where, key, label in _lines(path):
        if not isinstance(key, str) or not isinstance(label, str):
            raise DataError(f'{where}: expected {{"key": text, "label": text}}, found key {key!r:.60} and label {label!r:.60}')
        label = one_line(label)
        if not label:
            raise DataError(f"{where}: the label of {key!r} is empty")
        if labels.setdefault(key, label) != label:
            raise DataError(f"{where}: {key!r} is labelled {label!r:.60} here and {labels[key]!r:.60} before")
    if len(set(labels.values())) < 2:
        raise DataError(f"{path}: {len(set(labels.values()))} different labels; a head needs two at least")
    return labels


def labels_sha256(path: Path) -> str:
    """
    Raises:
        DataError: unreadable.
    """
    try:
        return io.sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a .jsonl or .parquet file of `key` and `label`") from None


def one_line(text: str) -> str:
    """As a name of a category: blanks made single, cut at ``LABEL_CHARACTERS``."""
    return " ".join(text.split())[:LABEL_CHARACTERS].strip()


def _lines(path: Path) -> Iterator[tuple[str, Any, Any]]:
    if path.suffix == ".parquet":
        table = read_table(path, ["key", "label"])
        if "label" not in table.column_names:
            raise DataError(f"{path}: expected the columns `key` and `label`; there is no `label`")
        for number, (key, label) in enumerate(zip(table.column("key").to_pylist(), table.column("label").to_pylist()), 1):
            yield f"{path}: row {number}", key, label
        return
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f'{path}:{number}: expected {{"key": text, "label": text}}, found {value!r:.60}')
        yield f"{path}:{number}", value.get("key"), value.get("label")
