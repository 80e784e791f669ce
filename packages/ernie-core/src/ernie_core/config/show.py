"""A resolved config as TOML with the origin of every value behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ernie_core.config.locate import Path as Key
from ernie_core.config.toml import _key as to_key
from ernie_core.config.toml import _value as to_value


def with_origins(table: Mapping[str, Any], origin: Callable[[Key], str]) -> str:
    """TOML that reads back to ``table``; each value is followed by where it was written, or ``default``."""
    return "\n".join(_lines((), (), table, origin)).lstrip("\n")


def flat_origins(table: Mapping[str, Any], origin: Callable[[Key], str], key: Key = ()) -> Iterator[tuple[Key, str]]:
    """(path, origin) of every value that is no table."""
    for name, value in table.items():
        here = (*key, name)
        if isinstance(value, Mapping):
            yield from flat_origins(value, origin, here)
        elif _is_tables(value):
            for index, item in enumerate(value):
                yield from flat_origins(item, origin, (*here, index))
        else:
            yield here, origin(here)


def _lines(header: tuple[str, ...], key: Key, table: Mapping[str, Any], origin: Callable[[Key], str]) -> Iterator[str]:
    for name, value in table.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            yield f"{to_key(name)} = {to_value(value)}  # {origin((*key, name))}"
    for name, value in table.items():
        title = ".".join(map(to_key, (*header, name)))
        if isinstance(value, Mapping):
            yield from ("", f"[{title}]")
            yield from _lines((*header, name), (*key, name), value, origin)
        elif _is_tables(value):
            for index, item in enumerate(value):
                yield from ("", f"[[{title}]]")
                yield from _lines((*header, name), (*key, name, index), item, origin)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
