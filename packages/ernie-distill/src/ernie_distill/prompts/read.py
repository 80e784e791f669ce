"""Reads files of prompts. Every line is checked, and the first that cannot be used is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_core.api import DataError

STYLE = "prompt"
"""The caption style of a prompt that names none."""
TRAIN = "train"
KEYS = ("prompt", "style", "captions", "domain", "split")


@dataclass(frozen=True)
class Prompt:
    """``captions`` by style, at least one, none empty. ``domain`` "" is none. ``where``: file name and line."""

    captions: Mapping[str, str]
    domain: str
    split: str
    where: str


def read_prompts(paths: Sequence[str]) -> tuple[list[Prompt], str]:
    """All prompts in the order of files and lines, and the sha256 of the files' content.

    Raises:
        DataError: a file that is missing, no UTF-8 text or without prompts, or the first line that is no prompt.
    """
    prompts: list[Prompt] = []
    sums = []
    for path in map(Path, paths):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}; expected a file with prompts") from error
        sums.append(hashlib.sha256(data).hexdigest())
        found = _prompts(path, data)
        if not found:
            raise DataError(f"{path}: holds no prompt; expected one a line")
        prompts += found
    return prompts, hashlib.sha256(" ".join(sums).encode()).hexdigest()


def _prompts(path: Path, data: bytes) -> list[Prompt]:
    structured = path.suffix.lower() in (".jsonl", ".ndjson")
    found = []
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text (byte 0x{line[error.start]:02x}); save the file as UTF-8") from None
        if structured and text:
            found.append(_row(text, where, f"{path.name}:{number}"))
        elif text:
            found.append(Prompt({STYLE: text}, "", TRAIN, f"{path.name}:{number}"))
        elif not structured and number < len(lines):
            raise DataError(f"{where}: an empty prompt; remove the line")
    return found


def _row(text: str, where: str, name: str) -> Prompt:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected an object such as {{"prompt": "..."}}, found {type(row).__name__}')
    if unknown := sorted(set(row) - set(KEYS)):
        raise DataError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(KEYS)}")
    if ("prompt" in row) == ("captions" in row):
        raise DataError(f"{where}: expected either `prompt` or `captions`, found {'both' if 'prompt' in row else 'neither'}")
    if "captions" in row and "style" in row:
        raise DataError(f"{where}: `style` names that of `prompt`; `captions` have theirs as keys")
    style = _text(row.get("style", STYLE), f"{where}: `style`")
    captions = row.get("captions", {style: row.get("prompt")})
    if not isinstance(captions, dict) or not captions:
        raise DataError(f"{where}: `captions` must be an object from style to text with at least one, found {json.dumps(captions)[:60]}")
    captions = {
        style: _text(caption, f"{where}: " + ("`prompt`" if "prompt" in row else f"the caption of style `{style}`"))
        for style, caption in captions.items()
    }
    domain, split = (
        _text(row[key], f"{where}: `{key}`") if not _is_blank(row.get(key)) else default
        for key, default in (("domain", ""), ("split", TRAIN))
    )
    return Prompt(captions, domain, split, name)


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text, found {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{what} is empty; an empty prompt teaches a student nothing, remove the line")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise DataError(f"{what} holds half a surrogate pair, which no text has; write the letter itself")
    return value.strip()
