"""docs/hooks.md from ``ernie_core.plugins.hookspecs``: every hook with its arguments, its caller and its context.

python tools/hooks_doc.py [--check]
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator

from ernie_core.plugins import hookspecs
from generated import write_or_check
from workspace import ROOT

TARGET = ROOT / "docs" / "hooks.md"
VERSION_ADDED = re.compile(r"\.\. versionadded:: API (\d+\.\d+)")

HEAD = """\
# Hooks

Made from `ernie_core.plugins.hookspecs` by `python tools/hooks_doc.py`; a test keeps it so. The plugin API is {version}: a plugin writes
`ERNIE_API = {api}` and marks its functions with `ernie_core.api.hookimpl`. How to write one: [write-a-plugin.md](write-a-plugin.md).

Registration hooks (`ernie_register_...`) take no arguments, are called once per host before any config is decoded, and must not import torch.
They return or yield `Entry(name, summary, config, build, kind="")`; `build` names `"module:attribute"`, a callable `build(config, context)` that
is imported only when a config selects the entry. Names are global: two plugins that offer one name are an error that names both.
"""


def hooks() -> list[tuple[str, Callable[..., object]]]:
    return [(name, function) for name, function in vars(hookspecs.Hooks).items() if name.startswith("ernie_")]


def render() -> str:
    version = ".".join(map(str, hookspecs.API_VERSION))
    lines = [HEAD.format(version=version, api=hookspecs.API_VERSION), "## Table", ""]
    lines += ["| hook | arguments | what and when | context | since |", "|---|---|---|---|---|"]
    for name, function in hooks():
        arguments = [p for p in inspect.signature(function).parameters if p != "self"]
        text, since = documentation(function)
        context = ", ".join(f"[`{c}`](#{c.lower()})" for c in contexts(text)) or "-"
        arguments_text = ", ".join(f"`{argument}`" for argument in arguments) or "-"
        lines.append(f"| `{name}` | {arguments_text} | {_cell(text)} | {context} | {since} |")
    lines += ["", "## What `build(config, context)` receives", ""]
    for context in _context_classes():
        lines += [f"### {context.__name__}", "", *_struct(context), ""]
    lines += ["## What `ernie_doctor` returns", "", "### EnvironmentCheck", "", *_struct(hookspecs.EnvironmentCheck), ""]
    lines += ["## What observers receive", "", "### RunView", "", *_struct(hookspecs.RunView)]
    return "\n".join(lines) + "\n"


def documentation(function: Callable[..., object]) -> tuple[str, str]:
    """A hook's text as one paragraph, and the API version it came with.

    Raises:
        ValueError: the hook has no text, or does not say since when it exists.
    """
    text = inspect.getdoc(function) or ""
    added = VERSION_ADDED.search(text)
    if added is None or not text[: added.start()].strip():
        raise ValueError(f"{function.__name__}: a hook needs a docstring that ends in `.. versionadded:: API X.Y`")
    return " ".join(text[: added.start()].split()), added.group(1)


def contexts(text: str) -> list[str]:
    return [name for name in dict.fromkeys(re.findall(r"``(\w+Context)``", text)) if hasattr(hookspecs, name)]


def _context_classes() -> Iterator[type]:
    for name, value in vars(hookspecs).items():
        if name.endswith("Context") and dataclasses.is_dataclass(value):
            yield value


def _struct(struct: type) -> Iterator[str]:
    text = struct.__doc__ or ""
    if not text.startswith(f"{struct.__name__}("):  # a dataclass without a docstring gets its signature as one
        yield inspect.cleandoc(text).replace("``", "`")
        yield ""
    fields = dataclasses.fields(struct)
    if fields:
        yield "| field | type |"
        yield "|---|---|"
        for field in fields:
            yield f"| `{field.name}` | `{_cell(str(field.type))}` |"
    else:
        yield "No fields."


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(write_or_check(TARGET, render(), command="python tools/hooks_doc.py"))
