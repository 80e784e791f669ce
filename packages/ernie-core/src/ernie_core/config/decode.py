"""Merged tables to config structs, field by field, collecting every problem. Two phases in one walk: a struct's own fields strictly, and each
``{ use = "name", ... }`` table by the struct of the component it names. msgspec alone would stop at the first problem and knows no lines.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ernie_core.config.base import Config, Selection
from ernie_core.config.kinds import admits_bool, bare, describe, is_struct, items_of, selection_of, show, without_none
from ernie_core.config.locate import Path as Key
from ernie_core.config.plain import holds_selection, to_plain
from ernie_core.config.source import dotted
from ernie_core.errors import ErnieError, Problem
from ernie_core.plugins.entry import Entry

INT_BITS = 63  # TOML 1.0 integers are 64-bit and signed
BAD = object()  # stands for a value whose problems are already noted


@dataclass
class Decoder:
    """Decodes and collects ``problems``.

    Args:
        entry: ``(registry, name) -> Entry``; raises an ErnieError that says who offers what.
        where: the place of a key in the sources, such as "run.toml:14".
        noun: what one component of a registry is called.
    """

    entry: Callable[[str, str], Entry]
    where: Callable[[Key], str]
    noun: Callable[[str], str]
    problems: list[Problem] = field(default_factory=list)

    def struct(self, struct: type[msgspec.Struct], values: Any, key: Key, skip: tuple[str, ...] = ()) -> Any:
        """Decode a table; ``BAD`` if anything in it is wrong. ``skip`` are keys that belong to the caller."""
        if not isinstance(values, Mapping):
            return self._refuse(key, f"expected a table, found {show(values)}")
        fields = {f.encode_name: f for f in msgspec.structs.fields(struct)}
        good = True
        for name in values:
            if name not in fields and name not in skip:
                good = False
                self._unknown(name, key, [*fields, *skip])
        decoded = {}
        for name, spec in fields.items():
            at = (*key, name)
            if name in values:
                value = self.value(spec.type, values[name], at)
            elif spec.required:
                value = self._refuse(key, f"missing key `{dotted(at)}`: expected {describe(spec.type)}", prefix=False)
            else:
                value = self._default(spec, at)
            good = good and value is not BAD
            decoded[spec.name] = value
        if not good:
            return BAD
        try:
            return struct(**decoded)
        except Exception as error:  # a __post_init__ of any author refuses the combination
            reason = str(error) if isinstance(error, (ValueError, ErnieError)) else f"{type(error).__name__}: {error}"
            return self._refuse(key, reason)

    def value(self, field_type: Any, value: Any, key: Key) -> Any:
        """Decode one value; ``BAD`` if it does not fit."""
        inner, optional = without_none(field_type)
        if optional:
            if value is None or (value is False and not admits_bool(inner)):
                return None
            if selection_of(inner) is None and not is_struct(bare(inner)) and items_of(inner) is None:
                return self._leaf(field_type, value, key)
            return self.value(inner, value, key)
        registry = selection_of(field_type)
        if registry is not None:
            return self._selection(registry.registry, registry.kind, value, key)
        if is_struct(bare(field_type)):
            return self.struct(bare(field_type), value, key)
        items = items_of(field_type)
        if items is None:
            return self._leaf(field_type, value, key)
        return self._items(field_type, *items, value, key)

    def _items(self, field_type: Any, kind: str, types: tuple[Any, ...], value: Any, key: Key) -> Any:
        if kind == "table":
            if not isinstance(value, Mapping):
                return self._refuse(key, f"expected {describe(field_type)}, found {show(value)}")
            table = {name: self.value(types[0], item, (*key, name)) for name, item in value.items()}
            return BAD if any(item is BAD for item in table.values()) else self._finish(field_type, table, key)
        if not isinstance(value, (list, tuple)) or (kind == "fixed" and len(value) != len(types)):
            return self._refuse(key, f"expected {describe(field_type)}, found {show(value)}")
        wanted = types if kind == "fixed" else types * len(value)
        decoded = [self.value(t, item, (*key, number)) for number, (t, item) in enumerate(zip(wanted, value, strict=True))]
        return BAD if any(item is BAD for item in decoded) else self._finish(field_type, decoded, key)

    def _finish(self, field_type: Any, items: Any, key: Key) -> Any:
        """Give the decoded items their container and check its own constraints, such as a least length. Decoded structs pass through as they are."""
        try:
            return msgspec.convert(items, field_type)
        except msgspec.ValidationError as error:
            return self._refuse(
                key, f"{str(error)[:1].lower()}{str(error)[1:]}".replace("`array`", "a list").replace("`object`", "a table")
            )

    def _selection(self, registry: str, kind: str, value: Any, key: Key) -> Any:
        noun = self.noun(registry)
        if isinstance(value, str):
            hint = f"write {dotted(key).rpartition('.')[2]} = {{ use = {show(value)} }}"
            return self._refuse(key, f'expected a table {{ use = "name", ... }} that names a {noun}, found {show(value)}; {hint}')
        if not isinstance(value, Mapping):
            return self._refuse(key, f'expected a table {{ use = "name", ... }} that names a {noun}, found {show(value)}')
        if "use" not in value:
            close = difflib.get_close_matches("use", [k for k in value if isinstance(k, str)], n=1, cutoff=0.6)
            hint = f"; did you mean `use` instead of `{close[0]}`?" if close else ""
            return self._refuse(key, f"missing key `{dotted((*key, 'use'))}`: expected the name of a {noun}{hint}", prefix=False)
        name = value["use"]
        if not isinstance(name, str):
            return self._refuse((*key, "use"), f"expected the name of a {noun}, found {show(name)}")
        try:
            entry = self.entry(registry, name)
        except ErnieError as error:
            return self._refuse((*key, "use"), str(error))
        if kind and entry.kind != kind:
            found = f'is one of kind "{entry.kind}"' if entry.kind else "is of no kind"
            return self._refuse((*key, "use"), f'expected a {noun} of kind "{kind}", but "{name}" {found}')
        options = self.struct(entry.config, {k: v for k, v in value.items() if k != "use"}, key)
        return BAD if options is BAD else Selection(name, options)

    def _leaf(self, field_type: Any, value: Any, key: Key) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return self._refuse(key, f"expected {describe(field_type)}, found {show(value)}, which is not finite")
        if type(value) is int and abs(value) >> INT_BITS:
            return self._refuse(key, f"expected {describe(field_type)}, found {show(value)}")
        try:
            return msgspec.convert(value, field_type)
        except (msgspec.ValidationError, OverflowError):
            wanted = describe(field_type)
            hint = ""
            if isinstance(value, str):
                close = difflib.get_close_matches(value[:80], [w.strip('"') for w in wanted.split(" or ") if w.startswith('"')], n=1)
                hint = f'; did you mean "{close[0]}"?' if close else ""
            return self._refuse(key, f"expected {wanted}, found {show(value)}{hint}")

    def _default(self, spec: Any, key: Key) -> Any:
        value = spec.default if spec.default_factory is msgspec.NODEFAULT else spec.default_factory()
        if isinstance(value, (Selection, Config, tuple, list, dict)) and holds_selection(value):
            return self.value(spec.type, to_plain(value), key)
        return value

    def _unknown(self, name: object, key: Key, known: list[str]) -> None:
        close = difflib.get_close_matches(str(name)[:80], known, n=1, cutoff=0.6)
        if close:
            hint = f"; did you mean `{close[0]}`?"
        else:
            hint = f"; known here: {', '.join(f'`{k}`' for k in sorted(known))}" if known else "; no option is known here"
        self._refuse((*key, str(name)), f"unknown key `{dotted((*key, str(name)))}`{hint}", prefix=False)

    def _refuse(self, key: Key, message: str, *, prefix: bool = True) -> Any:
        self.problems.append(Problem(self.where(key), f"`{dotted(key)}`: {message}" if prefix and key else message))
        return BAD
