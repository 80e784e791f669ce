"""The base of every config struct, and the table that names a component. Light: msgspec only."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ernie_core.errors import ConfigError, Problem


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all config structs: frozen, keyword-only, unknown keys refused."""


class Selection(msgspec.Struct, frozen=True):
    """A decoded ``{ use = "name", ... }`` table: the component's name and its own options, decoded by the component's struct.

    Written as a field's type together with the hook it selects from: ``codec: Annotated[Selection, From("codecs")]``.
    """

    use: str
    options: Config | None = None  # None only in defaults, before decoding


class From:
    """Marks a ``Selection`` field with the registry it chooses from, e.g. ``From("codecs")``."""

    def __init__(self, registry: str) -> None:
        self.registry = registry

    def __repr__(self) -> str:
        return f"From({self.registry!r})"


PositiveInt = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

C = TypeVar("C", bound=Config)


def recheck(config: C) -> C:
    """Validate a config that was built in code: msgspec checks types and ranges only when it decodes.

    Raises:
        ConfigError: naming the field and what was expected.
    """
    for name in config.__struct_fields__:
        value: Any = getattr(config, name)
        if isinstance(value, Config):
            recheck(value)
        elif isinstance(value, Selection):
            recheck(value.options)
    try:
        plain = {f: getattr(config, f) for f in config.__struct_fields__}
        for field in msgspec.structs.fields(type(config)):
            value = plain[field.name]
            if not _holds_selection(value):
                msgspec.convert(msgspec.to_builtins(value), field.type)
        hook = getattr(config, "__post_init__", None)
        if hook is not None:
            hook()
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ConfigError([Problem(type(config).__name__, str(error))]) from error
    return config


def _holds_selection(value: Any) -> bool:
    if isinstance(value, Selection):
        return True
    if isinstance(value, Config):
        return any(_holds_selection(getattr(value, f)) for f in value.__struct_fields__)
    if isinstance(value, (list, tuple)):
        return any(_holds_selection(v) for v in value)
    if isinstance(value, dict):
        return any(_holds_selection(v) for v in value.values())
    return False
