"""The prompts that pairs are sampled for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ernie_align.pairs.pair import is_text
from ernie_core.api import DataError


@dataclass(frozen=True)
class Prompt:
    text: str
    style: str | None = None


def read_prompts(path: Path) -> tuple[list[Prompt], int]:
    """Prompts of a text file, one a line, or of a ``.jsonl`` file with ``prompt`` and, where there is one, ``style``. Empty lines are passed over.

    Returns:
        each distinct prompt once, in order, and how many repetitions were dropped.

    Raises:
        DataError: no such file, not text, a line without a prompt, or no prompt at all.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: no prompts; expected one a line")
    structured = path.suffix.lower() in (".jsonl", ".ndjson")
    prompts = [_parsed(line, f"{path}:{number}") if structured else Prompt(line) for number, line in lines]
    distinct = list(dict.fromkeys(prompts))
    return distinct, len(prompts) - len(distinct)


def _parsed(line: str, where: str) -> Prompt:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    prompt = values.get("prompt") if isinstance(values, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f'{where}: expected {{"prompt": "..."}}, with "style" if it has one')
    style = values.get("style")
    if style is not None and not (isinstance(style, str) and style):
        raise DataError(f"{where}: style is {style!r}, expected a name")
    if not is_text(prompt + (style or "")):
        raise DataError(f"{where}: holds half of a surrogate pair, which is no text")
    return Prompt(prompt.strip(), style)
