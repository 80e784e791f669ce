"""JSON Schema (2020-12) of a config, with every installed component's options. For editors, and for people who ask what a table may hold."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from ernie_core.config.base import Selection
from ernie_core.config.kinds import admits_bool, bare, describe, is_struct, items_of, selection_of, without_none
from ernie_core.config.plain import to_plain
from ernie_core.plugins.host import PluginHost
from ernie_core.plugins.registry import noun

Schema = dict[str, Any]


def config_schema(struct: type[msgspec.Struct], host: PluginHost) -> Schema:
    """The schema of one root table. Components are those of ``host``: another plugin set gives another schema."""
    builder = _Builder(host)
    root = builder.struct(struct)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": struct.__name__, **root, "$defs": builder.definitions}


class _Builder:
    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self.definitions: dict[str, Schema] = {}

    def _reference(self, struct: type[msgspec.Struct]) -> Schema:
        return self._define(f"{struct.__module__}.{struct.__qualname__}", lambda: self.struct(struct))

    def _define(self, name: str, make: typing.Callable[[], Schema]) -> Schema:
        if name not in self.definitions:
            self.definitions[name] = {}  # a struct that contains itself finds the name taken
            self.definitions[name] = make()
        return {"$ref": f"#/$defs/{name}"}

    def struct(self, struct: type[msgspec.Struct], extra: Mapping[str, Schema] | None = None) -> Schema:
        fields = msgspec.structs.fields(struct)
        properties = dict(extra or {})
        for field in fields:
            schema = self.of(field.type)
            if not field.required:
                default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
                schema = {**schema, "default": to_plain(default)}
            properties[field.encode_name] = {**schema, "description": describe(field.type)}
        required = [*(extra or {}), *(f.encode_name for f in fields if f.required)]
        text = inspect.cleandoc(struct.__doc__ or "")
        words = {"description": text} if text and not text.startswith(struct.__name__ + "(") else {}
        return {"type": "object", **words, "properties": properties, "required": required, "additionalProperties": False}

    def of(self, field_type: Any) -> Schema:
        inner, optional = without_none(field_type)
        if optional:
            return {"anyOf": [self.of(inner), *([] if admits_bool(inner) else [{"const": False}])]}
        registry = selection_of(field_type)
        if registry is not None:
            return self._define(registry.registry, lambda: self._components(registry.registry))
        if is_struct(bare(field_type)):
            return self._reference(bare(field_type))
        items = items_of(field_type)
        if items is None or bare(field_type) is Selection:
            return msgspec.json.schema(field_type)
        kind, types = items
        if kind == "table":
            return {"type": "object", "additionalProperties": self.of(types[0])}
        if kind == "fixed":
            return {"type": "array", "prefixItems": [self.of(t) for t in types], "minItems": len(types), "maxItems": len(types)}
        return {"type": "array", "items": self.of(types[0])}

    def _components(self, registry: str) -> Schema:
        choices = [
            {**self.struct(entry.config, {"use": {"const": name}}), "title": name, "description": entry.summary}
            for name, entry in self.host.entries(registry).items()
        ]
        return {"title": noun(registry), "oneOf": choices} if choices else {"title": noun(registry), "not": {}}
