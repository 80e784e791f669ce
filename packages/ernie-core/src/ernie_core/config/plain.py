"""Config structs to plain tables and lists, for JSON, TOML and manifests. Light."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from ernie_core.config.base import Selection


def to_plain(value: Any) -> Any:
    """A config as tables and lists of plain values, selections as ``{"use": name, **options}``: what JSON and TOML can hold."""
    if isinstance(value, Selection):
        return {"use": value.use, **(to_plain(value.options) if value.options is not None else {})}
    if isinstance(value, msgspec.Struct):
        return {f.encode_name: to_plain(getattr(value, f.name)) for f in msgspec.structs.fields(type(value))}
    if isinstance(value, dict):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(item) for item in value)
    return msgspec.to_builtins(value)


def to_json(value: Any) -> Any:
    """Like ``to_plain`` for JSON, which has no infinite numbers: they become TOML's words ``"inf"`` and ``"-inf"``."""

    def finite(plain: Any) -> Any:
        if isinstance(plain, dict):
            return {name: finite(item) for name, item in plain.items()}
        if isinstance(plain, list):
            return [finite(item) for item in plain]
        return str(plain) if isinstance(plain, float) and math.isinf(plain) else plain

    return finite(to_plain(value))


def to_table(value: Any) -> Any:
    """Like ``to_plain`` for TOML, which has no null: an optional value that is switched off is ``false`` where its default is another, else left out."""
    if isinstance(value, Selection):
        return {"use": value.use, **(to_table(value.options) if value.options is not None else {})}
    if isinstance(value, msgspec.Struct):
        items = {f.encode_name: (getattr(value, f.name), f.default) for f in msgspec.structs.fields(type(value))}
        return {
            name: False if item is None else to_table(item)
            for name, (item, default) in items.items()
            if item is not None or default is not None
        }
    if isinstance(value, dict):
        return {name: to_table(item) for name, item in value.items()}
    return [to_table(item) for item in value] if isinstance(value, (list, tuple)) else to_plain(value)


def holds_selection(value: Any) -> bool:
    if isinstance(value, Selection):
        return True
    if isinstance(value, msgspec.Struct):
        return any(holds_selection(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, dict):
        return any(map(holds_selection, value.values()))
    return isinstance(value, (list, tuple)) and any(map(holds_selection, value))
