"""Read TOML files and ``--set a.b=value`` and merge them, keeping the origin of every value. Knows no struct.

Files count from left to right, then ``--set``. Tables are merged key by key; everything else, arrays included, is replaced. A table whose ``use`` names
another component than the table below it replaces that table: options belong to the component they were written for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ernie_core.config.locate import Path as Key
from ernie_core.config.locate import locate
from ernie_core.errors import Problem
from ernie_core.redact import holds_secret, redact, sounds_secret

_AT = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)\s*$")
_LONG_NUMBER = re.compile(r"\d[\d_]{4000,}")


@dataclass
class Merged:
    """The merged tables, where each value came from, and what could not be read."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False  # a source could not be parsed: every key of it would be reported as missing
    default: str = "config"

    def where(self, key: Key) -> str:
        """The origin of a value, or of the innermost table around it that was written anywhere."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key, self.default)


def read_sources(paths: Sequence[Path], overrides: Sequence[str] = ()) -> Merged:
    """Read and merge. Unreadable sources become problems; the rest is merged all the same, so that one run reports everything."""
    merged = Merged()
    for path in paths:
        values, lines, problems = _read(Path(path))
        merged.problems += problems
        merged.unreadable = merged.unreadable or bool(problems)
        merged.origins.setdefault((), f"{path}:1")
        merged.default = merged.origins[()]
        _merge(merged, (), values, {key: f"{path}:{line}" for key, line in lines.items()})
    for text in overrides:
        _override(merged, text)
    merged.problems += find_secrets(merged)
    return merged


def dotted(key: Key) -> str:
    """A path as a config would write it: ``stages[0].size_px``, with quotes where TOML needs them."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part))
    return text if len(text) <= 200 else text[:197] + "..."


def find_secrets(merged: Merged) -> Iterator[Problem]:
    """Values that must not stand in a config, because configs are copied into run folders. The value itself is not repeated."""
    for key, value in _leaves(merged.values, ()):
        name = next((part for part in reversed(key) if isinstance(part, str)), "")
        if isinstance(value, str) and ((value and sounds_secret(name)) or holds_secret(value)):
            advice = "a config must not hold secrets: remove it, revoke it if the file was shared, and put it into an environment variable"
            yield Problem(merged.where(key), f"`{dotted(key)}`: {advice}")


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, int], list[Problem]]:
    def broken(where: str, message: str) -> tuple[dict[str, Any], dict[Key, int], list[Problem]]:
        return {}, {}, [Problem(where, message)]

    try:
        data = path.read_bytes()
    except OSError as error:
        return broken(str(path), f"cannot be read: {error.strerror or error}")
    except ValueError as error:  # a NUL in the name
        return broken(ascii(str(path)), f"cannot be read: {error}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return broken(
            f"{path}:{data.count(10, 0, error.start) + 1}", f"not UTF-8 text: byte 0x{data[error.start]:02x}. Save the file as UTF-8."
        )
    try:
        values = tomllib.loads(text)
        return values, locate(text), []
    except tomllib.TOMLDecodeError as error:
        match = _AT.search(str(error))
        line = int(match[1]) if match and match[1] else text.count("\n") + 1
        reason = _AT.sub("", str(error))
        return broken(f"{path}:{line}", f"not valid TOML: {reason[:1].lower()}{reason[1:200]}")
    except RecursionError:
        return broken(f"{path}:{_deepest_line(text)}", "not valid TOML: nested too deeply")
    except ValueError as error:  # numbers that Python refuses to convert
        match = _LONG_NUMBER.search(text)
        return broken(f"{path}:{text.count(chr(10), 0, match.start()) + 1 if match else 1}", f"not valid TOML: {str(error)[:100]}")


def _deepest_line(text: str) -> int:
    counts = [line.count("[") + line.count("{") for line in text.split("\n")]
    return counts.index(max(counts)) + 1


def _override(merged: Merged, text: str) -> None:
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in redact(text))
    where = f"--set {shown if len(shown) <= 80 else shown[:77] + '...'}"
    name, equals, raw = text.partition("=")
    try:
        keys = _key(name) if equals else ()
    except (ValueError, RecursionError):
        keys = ()
    if not keys:
        merged.problems.append(Problem(where, "expected `key.name=value`"))
        return
    try:
        value = _value(raw)
    except (ValueError, RecursionError) as error:
        merged.problems.append(Problem(where, f"the value is not valid TOML: {_AT.sub('', str(error))[:200]}"))
        return
    parent, done = merged.values, ()
    for part in keys[:-1]:
        child = _step(parent, part)
        if child is None and isinstance(parent, dict):
            child = parent[part] = {}
            merged.origins[(*done, part)] = where
        if not isinstance(child, (dict, list)):
            if isinstance(parent, list):
                what = f"`{dotted(done)}` has {len(parent)} elements, found no table {part!r} in it"
                merged.problems.append(Problem(where, what))
                return
            _forget(merged, (*done, part))
            child = parent[part] = {}
            merged.origins[(*done, part)] = where
        key: str | int = int(part) if isinstance(parent, list) else part
        parent, done = child, (*done, key)
    if isinstance(parent, list):
        if _step(parent, keys[-1]) is None:
            merged.problems.append(Problem(where, f"`{dotted(done)}` has {len(parent)} elements, found no element {keys[-1]!r}"))
            return
        _forget(merged, (*done, int(keys[-1])))
        parent[int(keys[-1])] = value
        merged.origins[(*done, int(keys[-1]))] = where
    else:
        if done and keys[-1] == "use" and parent.get("use", value) != value:
            for name in parent:
                _forget(merged, (*done, name))
            parent.clear()  # as a table in a file with another `use` would
        _merge(merged, done, {keys[-1]: value}, {(keys[-1],): where})


def _step(parent: Any, part: str) -> Any:
    if isinstance(parent, list):
        return parent[int(part)] if part.isdecimal() and len(part) < 10 and int(part) < len(parent) else None
    return parent.get(part)


def _key(name: str) -> tuple[str, ...]:
    tree: Any = tomllib.loads(f"{name.strip()} = 0") if "\n" not in name and "\r" not in name else {}
    keys = []
    while isinstance(tree, dict) and len(tree) == 1:
        ((key, tree),) = tree.items()
        keys.append(key)
    return tuple(keys) if tree == 0 and type(tree) is int else ()


def _value(raw: str) -> Any:
    """A TOML value; what TOML cannot read and does not look like a quoted string, array or table is a bare word."""
    try:
        tree = tomllib.loads(f"value = {raw}")
        if list(tree) == ["value"]:
            return tree["value"]
    except tomllib.TOMLDecodeError:
        if raw.lstrip()[:1] in ("[", "{", '"', "'"):
            raise
    return raw


def _merge(merged: Merged, base: Key, values: dict[str, Any], origins: dict[Key, str]) -> None:
    """Merge a table over ``merged.values`` at ``base``. ``origins`` are relative to the table; what has none takes its parent's."""
    target = merged.values
    for part in base:
        target = target[part]
    for name, value in values.items():
        key = (*base, name)
        own = origins.get((name,), origins.get((), merged.where(base)))
        below = {k[1:]: w for k, w in origins.items() if k[0:1] == (name,)}
        old = target.get(name)
        same = isinstance(old, dict) and isinstance(value, dict) and not ("use" in old and "use" in value and old["use"] != value["use"])
        if same:
            merged.origins[key] = own
            _merge(merged, key, value, below)
        else:
            _forget(merged, key)
            target[name] = value
            merged.origins[key] = own
            merged.origins.update({(*key, *k): w for k, w in below.items() if k})


def _forget(merged: Merged, key: Key) -> None:
    for known in [k for k in merged.origins if k[: len(key)] == key]:
        del merged.origins[known]


def _leaves(value: Any, key: Key) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*key, name))
            if holds_secret(name):
                yield (*key, name), name
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*key, index))
    else:
        yield key, value
