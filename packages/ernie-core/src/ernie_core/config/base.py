"""The base of every config struct, and the table that names a component. Light: msgspec only."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Marks a ``Selection`` field with the registry it chooses from, e.g. ``From("codecs")``, and the kind of entry it takes: ``From("losses", "pair")``."""

    def __init__(self, registry: str, kind: str = "") -> None:
        self.registry, self.kind = registry, kind

    def __repr__(self) -> str:
        return f"From({self.registry!r})"


PositiveInt = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]

C = TypeVar("C", bound=Config)


def recheck(config: C) -> C:
    """Validate a config that was built in code: msgspec checks types and ranges only when it decodes.

    A ``Selection`` without options stands for the component's defaults and is accepted; which components exist is the host's to know.

    Raises:
        ConfigError: every problem, with the field and what was expected.
    """
    problems = list(_wrong(config, type(config).__name__))
    if problems:
        raise ConfigError(problems)
    return config


def _wrong(config: Config, where: str) -> Iterator[Problem]:
    good = True
    for field in msgspec.structs.fields(type(config)):
        for problem in _wrong_value(getattr(config, field.name), field.type, f"{where}.{field.name}"):
            good = False
            yield problem
    hook = getattr(config, "__post_init__", None)
    if good and hook is not None:
        try:
            hook()
        except (ValueError, TypeError) as error:
            yield Problem(where, str(error))


def _wrong_value(value: Any, field_type: Any, where: str) -> Iterator[Problem]:
    inner = [value, *(value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ())]
    nested = [v for v in inner if isinstance(v, (Config, Selection))]
    for item in nested:
        if isinstance(item, Config):
            yield from _wrong(item, where)
        elif item.options is not None:
            yield from _wrong(item.options, where)
    try:
        # Structs inside pass through as they are when the type fits; plain values are checked against types and ranges.
        msgspec.convert(value if nested else msgspec.to_builtins(value), field_type)
    except (msgspec.ValidationError, TypeError) as error:
        yield Problem(where, str(error))
