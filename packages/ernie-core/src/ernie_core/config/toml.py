"""Writes plain values as TOML: what a run folder keeps as its resolved config. The standard library only reads TOML."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(plain: Mapping[str, Any]) -> str:
    """Tables as ``[a.b]``, arrays of tables as ``[[a]]``, tables that name a component (``use``) inline. None is left out: TOML has no null.

    Raises:
        TypeError: a value that TOML cannot hold.
    """
    return "\n".join(_table((), plain)).lstrip("\n") + "\n"


def inline(value: Any) -> str:
    """One value as the right side of ``key = value``, or of ``--set key=value``.

    Raises:
        TypeError: TOML cannot hold it.
    """
    return _value(value)


def _table(path: tuple[str, ...], table: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, value in table.items():
        if value is not None and not _is_table(value) and not _is_tables(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        inner = (*path, key)
        name = ".".join(map(_key, inner))
        if _is_table(value):
            lines += ["", f"[{name}]", *_table(inner, value)]
        elif _is_tables(value):
            for one in value:
                lines += ["", f"[[{name}]]", *_table(inner, one)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and "use" not in value


def _is_tables(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0 and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    raise TypeError(f"TOML cannot hold {type(value).__name__}: {value!r}")
