"""docs/config.md from the config structs: every table and key of a training config, with its type, default and meaning.

    python tools/config_doc.py [--check]

Meanings are the string literals under the fields (attribute docstrings), read from the source; types and defaults come from the structs.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from ernie_core.config.base import Config, From, Selection
from ernie_core.config.plain import to_table
from ernie_core.config.run import TrainConfig
from ernie_core.config.toml import inline
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import REGISTRIES
from ernie_core.plugins.host import BUILTIN
from generated import write_or_check
from workspace import ROOT, read_members

TARGET = ROOT / "docs" / "config.md"

HEAD = """\
# Training config

Made from the config structs by `python tools/config_doc.py`; a test keeps it so. A config is TOML: `ernie train a.toml b.toml --set run.seed=1 --out DIR`
reads the files from left to right, then the overrides. Unknown keys are errors. `ernie config check FILE` prints every problem at once,
`ernie config show FILE` prints every value with its origin.

A component is chosen by a table `{ use = "name", ... }`; the other keys are its own options, listed under [Components](#components).
"""


def render() -> str:
    lines = [HEAD]
    lines += ["## Tables", "", *_table(TrainConfig, "")]
    for header, struct in _tables(TrainConfig):
        lines += ["", f"### `{header}`", "", *_summary(struct, header), *_table(struct, header)]
    lines += ["", "## Components", ""]
    for registry in (name for name in REGISTRIES if name != "commands"):
        entries = _entries(registry)
        if entries:
            lines += [f"### {registry}", ""]
            for package, entry in entries:
                lines += [f"**`{entry.name}`** ({package}): {entry.summary}", "", *_table(entry.config, entry.name)]
                lines += [""] if entry.config.__struct_fields__ else []
                for header, struct in _tables(entry.config):
                    inner = header.strip("[]")
                    lines += [f"`{entry.name}`, {'each of ' if header.startswith('[[') else ''}`{inner}`:", ""]
                    lines += [*_summary(struct, inner), *_table(struct, inner), ""]
    return "\n".join(lines).rstrip() + "\n"


def _tables(struct: type[Config]) -> Iterator[tuple[str, type[Config]]]:
    """``[name]``, ``[[name]]`` and ``[name.KEY]`` tables below a struct, in order of its fields, each followed by what is nested in it."""
    for name, hint in typing.get_type_hints(struct, include_extras=True).items():
        nested, form = _nested(hint)
        if nested is not None:
            header = form.format(name)
            yield header, nested
            for inner, deeper in _tables(nested):
                bare = inner.strip("[]")
                yield inner.replace(bare, f"{name}.{bare}"), deeper


def _nested(hint: Any) -> tuple[type[Config] | None, str]:
    """The struct that a field's tables hold, and how such a table's header is written."""
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Config):
        return hint, "[{}]"
    if origin in {types.UnionType, typing.Union}:
        found = [_nested(argument) for argument in arguments if argument is not types.NoneType]
        return found[0] if len(found) == 1 else (None, "")
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis and _nested(arguments[0])[0]:
        return arguments[0], "[[{}]]"
    if origin is dict and _nested(arguments[1])[0]:
        return arguments[1], "[{}.NAME]"
    return None, ""


def _summary(struct: type[Config], header: str) -> list[str]:
    text = inspect.cleandoc(struct.__doc__ or "").replace("``", "`")
    for opening in (f"`{header}`:", f"`{header}`"):
        text = text.removeprefix(opening).strip()
    return [text[0].upper() + text[1:], ""] if text else []


def _table(struct: type[Config], header: str) -> Iterator[str]:
    fields = msgspec.structs.fields(struct)
    if not fields:
        return
    hints, meanings = typing.get_type_hints(struct, include_extras=True), meanings_of(struct)
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for field in fields:
        row = (f"`{field.encode_name}`", _type(hints[field.name]), _default(field), meanings.get(field.name, ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def meanings_of(struct: type[Config]) -> dict[str, str]:
    """Attribute docstrings of a struct and of the structs it inherits from: the string literal that follows a field."""
    found: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        if owner is Config or not (isinstance(owner, type) and issubclass(owner, Config)):
            continue
        (body,) = (node for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner)))) if isinstance(node, ast.ClassDef))
        for before, after in pairwise(body.body):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(text, str):
                found[before.target.id] = " ".join(text.split()).replace("``", "`")
    return found


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        registries = [note.registry for note in arguments[1:] if isinstance(note, From)]
        if registries:
            return f"one of [{registries[0]}](#{registries[0]})"
        bounds = [_bounds(note) for note in arguments[1:] if isinstance(note, msgspec.Meta)]
        return " ".join([_type(arguments[0]), *bounds])
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(_type(argument) for argument in arguments if argument is not types.NoneType)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return (
            f"list of {len(arguments)}: {_type(arguments[0])}" if len(set(arguments)) == 1 else "list: " + ", ".join(map(_type, arguments))
        )
    if origin is dict:
        return f"tables of {_type(arguments[1])}"
    if hint is Selection:
        return "a component"
    if isinstance(hint, type) and issubclass(hint, Config):
        return "table"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def _bounds(meta: msgspec.Meta) -> str:
    parts = [
        (">=", meta.ge),
        (">", meta.gt),
        ("<=", meta.le),
        ("<", meta.lt),
        ("length >=", meta.min_length),
        ("length <=", meta.max_length),
    ]
    return ", ".join(f"{sign} {value}" for sign, value in parts if value is not None)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None or value == () or value == {}:
        return "-"
    if isinstance(value, Selection):
        return f'`{{ use = "{value.use}" }}`'
    if isinstance(value, Config):
        return "as below"
    if isinstance(value, tuple) and all(isinstance(item, Config) for item in value):
        return f"`{inline(to_table(value))}`"
    return f"`{json.dumps(value)}`"


def _entries(registry: str) -> list[tuple[str, Entry]]:
    """The entries of the workspace's packages, in their order. Other installed plugins stay out of the repository's pages."""
    found = []
    for name in (*BUILTIN, *_plugins()):
        hook = vars(import_module(name)).get(f"ernie_register_{registry}")
        found += [(name.partition(".")[0].replace("_", "-"), entry) for entry in (hook() if hook else ())]
    return found


def _plugins() -> Iterator[str]:
    for member in read_members(ROOT):
        project = tomllib.loads(member.pyproject.read_text(encoding="utf-8"))["project"]
        yield from project.get("entry-points", {}).get("ernie", {}).values()


if __name__ == "__main__":
    raise SystemExit(write_or_check(TARGET, render(), command="python tools/config_doc.py"))
