"""JSON out of a model's answer, which may stand in a code fence, between sentences, or break off. Nothing is ever evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ernie_core.errors import AnswerError
from ernie_core.redact import redact

CANDIDATES = 32  # places at which an answer is tried; a hostile one may be full of brackets
SCANNED_CHARACTERS = 1 << 16  # looked through for a closing bracket: beyond it the answer is given up
SHOWN_CHARACTERS = 120
JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def parse_json_answer(text: str, wanted: type | Mapping[str, Any]) -> Any:
    """The first JSON object (or array, where one is wanted) in the text that fits.

    Args:
        wanted: a type that msgspec converts to, such as a struct; or a JSON schema, of which ``type``, ``enum``, ``properties``, ``required``,
            ``additionalProperties: false`` and ``items`` are checked.

    Raises:
        AnswerError: ``reason`` "half_json" if the text breaks off inside a value, "garbage" if it holds none or none that fits.
    """
    opening = "[" if _is_array(wanted) else "{"
    kind = "array" if opening == "[" else "object"
    values, breaks_off = _values(text, opening)
    problem = ""
    for value in values:
        try:
            return _fitted(value, wanted)
        except (msgspec.ValidationError, _Misfit) as error:
            problem = problem or str(error)
    if breaks_off:
        raise AnswerError(
            f"the answer breaks off inside its JSON after {len(text)} characters; it began {_shown(text)}; a larger `max_tokens` may help",
            reason="half_json",
        )
    if problem:
        raise AnswerError(f"the answer's JSON does not fit: {redact(problem)[:300]}; it began {_shown(text)}", reason="garbage")
    raise AnswerError(f"the answer holds no {'valid ' if opening in text else ''}JSON {kind}; it began {_shown(text)}", reason="garbage")


def _is_array(wanted: type | Mapping[str, Any]) -> bool:
    schema = wanted if isinstance(wanted, Mapping) else msgspec.json.schema(wanted)
    return schema.get("type") == "array"


def _values(text: str, opening: str) -> tuple[list[Any], bool]:
    """Decoded values from left to right, none out of a larger one that is malformed; and whether the text breaks off inside one."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    values: list[Any] = []
    place = text.find(opening)
    for _ in range(CANDIDATES):
        if place < 0:
            break
        try:
            value, after = decoder.raw_decode(text, place)
            values.append(value)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and _at_the_end(text, error):
                return values, True
            after = _after_bracket(text, place)
        place = text.find(opening, after)
    return values, False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _at_the_end(text: str, error: json.JSONDecodeError) -> bool:
    """Whether decoding failed because the text was over: in a string, between two tokens, or in a literal or an escape cut in half."""
    rest = text[error.pos :].strip()
    return (
        error.msg.startswith("Unterminated string")
        or not rest
        or (error.msg.startswith("Expecting value") and any(literal.startswith(rest) for literal in ("true", "false", "null", "-")))
        or (error.msg.startswith("Invalid \\") and len(rest) < len(r"\uXXXX"))
    )


def _after_bracket(text: str, place: int) -> int:
    """Behind the bracket that closes the one at ``place``; right behind that one if none does; the end if that is too far away."""
    end = place + SCANNED_CHARACTERS
    depth, inside = 0, False
    for token in re.compile(r'\\.|["{}\[\]]', re.DOTALL).finditer(text, place, end):
        match token.group():
            case '"':
                inside = not inside
            case "{" | "[" if not inside:
                depth += 1
            case "}" | "]" if not inside:
                depth -= 1
                if depth == 0:
                    return token.end()
    return place + 1 if end >= len(text) else len(text)


def _shown(text: str) -> str:
    return repr(redact(text[: 4 * SHOWN_CHARACTERS])[:SHOWN_CHARACTERS])


class _Misfit(Exception):
    pass


def _fitted(value: Any, wanted: type | Mapping[str, Any]) -> Any:
    if not isinstance(wanted, Mapping):
        return msgspec.convert(value, wanted)
    _check(value, wanted, "$")
    return value


def _check(value: Any, schema: Mapping[str, Any], where: str) -> None:
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if kinds and not any(_is_kind(value, kind) for kind in kinds):
        raise _Misfit(f"expected {' or '.join(kinds)}, found {type(value).__name__} at `{where}`")
    if "enum" in schema and value not in schema["enum"]:
        raise _Misfit(f"expected one of {schema['enum']!r:.100}, found {value!r:.50} at `{where}`")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if missing := [name for name in schema.get("required", ()) if name not in value]:
            raise _Misfit(f"`{missing[0]}` is missing at `{where}`")
        for name, item in value.items():
            if name in properties:
                _check(item, properties[name], f"{where}.{name}")
            elif schema.get("additionalProperties") is False:
                raise _Misfit(f"unknown key {name!r:.50} at `{where}`")
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for number, item in enumerate(value):
            _check(item, schema["items"], f"{where}[{number}]")


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, JSON_TYPES.get(kind, ()))
