"""What a config field's type is to the decoder: its shape, in words and as checks. Light: msgspec only."""

from __future__ import annotations

import datetime
import types
import typing
from typing import Annotated, Any

import msgspec
from msgspec import inspect as shapes

from ernie_core.config.base import Config, From, Selection
from ernie_core.redact import redact


class TypeProblem(Exception):
    """A config struct that no TOML table could ever be decoded into."""


def selection_of(field_type: Any) -> From | None:
    """The ``From`` of an ``Annotated[Selection, From(...)]``, else None."""
    if typing.get_origin(field_type) is Annotated:
        base, *notes = typing.get_args(field_type)
        if base is Selection:
            return next((note for note in notes if isinstance(note, From)), None)
    return None


def without_none(field_type: Any) -> tuple[Any, bool]:
    """``X | None`` as (X, True), anything else as it is."""
    if typing.get_origin(field_type) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(field_type) if m is not type(None)]
        if len(members) < len(typing.get_args(field_type)):
            return typing.Union[tuple(members)], True  # noqa: UP007 - built at run time
    return field_type, False


def bare(field_type: Any) -> Any:
    """The type without ``Annotated``."""
    return typing.get_args(field_type)[0] if typing.get_origin(field_type) is Annotated else field_type


def is_struct(field_type: Any) -> bool:
    return isinstance(field_type, type) and issubclass(field_type, msgspec.Struct) and field_type is not Selection


def items_of(field_type: Any) -> tuple[str, tuple[Any, ...]] | None:
    """("each", (X,)) for lists and open tuples, ("fixed", (X, Y)) for closed tuples, ("table", (X,)) for dicts with text keys, else None."""
    origin, arguments = typing.get_origin(bare(field_type)), typing.get_args(bare(field_type))
    if origin in (list, set, frozenset) and len(arguments) == 1:
        return "each", arguments
    if origin is tuple and arguments:
        return ("each", arguments[:1]) if len(arguments) == 2 and arguments[1] is Ellipsis else ("fixed", arguments)
    if origin is dict and arguments[0] is str:
        return "table", arguments[1:]
    return None


def describe(field_type: Any) -> str:
    """What a value must be, in words: "an integer >= 1"."""
    inner, optional = without_none(field_type)
    if optional:
        return describe(inner) + (", or false for none" if not admits_bool(inner) else "")
    registry = selection_of(field_type)
    if registry is not None or inner is Selection:
        return 'a table { use = "name", ... }'
    if is_struct(bare(field_type)):
        return "a table"
    items = items_of(field_type)
    if items is not None:
        kind, arguments = items
        words = [describe(a) for a in arguments]
        if kind == "fixed":
            return f"a list of {len(words)} values ({'; '.join(words)})"
        return f"a list with {words[0]} each" if kind == "each" else f"a table with {words[0]} each"
    return _in_words(shapes.type_info(field_type))


def admits_bool(field_type: Any) -> bool:
    info = shapes.type_info(field_type)
    members = info.types if isinstance(info, shapes.UnionType) else (info,)
    return any(isinstance(m, (shapes.BoolType, shapes.AnyType)) for m in members)


def check_struct(struct: type[msgspec.Struct], seen: frozenset[type] = frozenset()) -> None:
    """Find out, before any config is read, whether a struct can be decoded at all.

    Raises:
        TypeProblem: naming the field and what is wrong with its type.
    """
    if struct in seen:
        return
    try:
        fields = msgspec.structs.fields(struct)
        shapes.type_info(struct)
    except Exception as error:  # unresolved names, contradicting types: whatever typing or msgspec raise for foreign code
        raise TypeProblem(f"config {struct.__name__} cannot be decoded: {error}") from error
    for field in fields:
        where = f"config {struct.__name__}, field `{field.name}`"
        if field.encode_name == "use" and not seen:
            raise TypeProblem(f"{where}: the key `use` is reserved for the component's name")
        _check_type(field.type, where, seen | {struct})


def _check_type(field_type: Any, where: str, seen: frozenset[type]) -> None:
    inner, optional = without_none(field_type)
    if optional:
        return _check_type(inner, where, seen)
    if selection_of(field_type) is not None:
        return None
    if bare(field_type) is Selection:
        raise TypeProblem(f'{where}: a Selection needs its registry, as in Annotated[Selection, From("losses")]')
    if is_struct(bare(field_type)):
        if not issubclass(bare(field_type), Config):
            raise TypeProblem(f"{where}: {bare(field_type).__name__} must be a subclass of ernie_core.api.Config")
        return check_struct(bare(field_type), seen)
    items = items_of(field_type)
    if items is not None:
        for argument in items[1]:
            _check_type(argument, where, seen)
        return None
    for info in _leaves(shapes.type_info(field_type)):
        if isinstance(info, (shapes.CustomType, shapes.RawType, shapes.ExtType)):
            raise TypeProblem(f"{where}: a TOML value cannot become {field_type}")
        if isinstance(info, shapes.StructType):
            raise TypeProblem(f"{where}: {field_type} mixes tables with other types; use one Config struct")
    return None


def _leaves(info: Any) -> list[Any]:
    if isinstance(info, shapes.UnionType):
        return [leaf for member in info.types for leaf in _leaves(member)]
    if isinstance(info, shapes.Metadata):
        return _leaves(info.type)
    return [info]


def _in_words(info: Any) -> str:
    if isinstance(info, shapes.Metadata):
        return _in_words(info.type)
    if isinstance(info, shapes.UnionType):
        return " or ".join(_in_words(m) for m in info.types if not isinstance(m, shapes.NoneType))
    if isinstance(info, shapes.LiteralType):
        return " or ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in info.values)
    if isinstance(info, shapes.EnumType):
        return " or ".join(f'"{m.value}"' for m in info.cls)
    if isinstance(info, shapes.IntType):
        return "an integer" + _range(info)
    if isinstance(info, shapes.FloatType):
        return "a number" + _range(info)
    if isinstance(info, shapes.StrType):
        return "text" + (f" matching {info.pattern}" if info.pattern else "") + _length(info)
    plain = {
        shapes.BoolType: "true or false",
        shapes.DictType: "a table",
        shapes.DateTimeType: "a date and time",
        shapes.DateType: "a date",
    }
    if isinstance(info, (shapes.ListType, shapes.VarTupleType, shapes.TupleType, shapes.SetType, shapes.FrozenSetType)):
        return "a list"
    return plain.get(type(info), type(info).__name__.removesuffix("Type").lower())


def _range(info: Any) -> str:
    bounds = [
        f"{sign} {value:g}" for sign, value in ((">=", info.ge), (">", info.gt), ("<=", info.le), ("<", info.lt)) if value is not None
    ]
    return " " + " and ".join(bounds) if bounds else ""


def _length(info: Any) -> str:
    bounds = [f"{words} {n}" for words, n in (("at least", info.min_length), ("at most", info.max_length)) if n is not None]
    return f" of {' and '.join(bounds)} characters" if bounds else ""


def show(value: Any) -> str:
    """A value as a config file would write it, shortened, for messages. Secrets are hidden before the shortening could cut one in two."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in redact(value)) + '"'
    elif isinstance(value, dict):
        return "a table"
    elif isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    elif isinstance(value, (datetime.date, datetime.time)):
        return f"the date or time {value.isoformat()}"
    elif isinstance(value, int) and abs(value) >= 2**63:
        return "an integer of more than 64 bits"
    else:
        text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
