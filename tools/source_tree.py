"""Python sources as trees: the modules of the workspace, what each imports and when, and its strings. Nothing is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workspace import Member


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule and its place."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Import:
    """``from target import names`` or ``import target`` (no names).

    ``lazy``: inside a function, so it runs when that is called. ``typing_only``: under ``if TYPE_CHECKING``, so it never runs.
    """

    target: str
    names: tuple[str, ...]
    line: int
    lazy: bool
    typing_only: bool

    def targets(self, modules: Mapping[str, object]) -> list[str]:
        """The modules meant: ``from a import b`` means ``a.b`` where that is a module, else ``a``."""
        if not self.names:
            return [self.target]
        return list(dict.fromkeys(f"{self.target}.{name}" if f"{self.target}.{name}" in modules else self.target for name in self.names))


@dataclass(frozen=True)
class Module:
    """One source file of a member. ``inside`` is its path below the package folder, e.g. ``config/base.py``."""

    name: str
    root: Path
    path: Path
    inside: str
    member: Member
    text: str
    tree: ast.Module

    def finding(self, line: int, message: str) -> Finding:
        return Finding(self.path.relative_to(self.root).as_posix(), line, message)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        return tuple(_imports(self.tree.body, package, lazy=False, typing_only=False))

    def strings(self) -> Iterator[tuple[int, str]]:
        """Every string constant that is not a docstring, with its line."""
        plain = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain:
                yield node.lineno, node.value

    def excuse(self, node: ast.stmt | ast.expr, word: str) -> bool:
        """Whether a comment ``# word: reason`` stands on the node's lines or on the line above them."""
        lines = self.text.splitlines()[max(node.lineno - 2, 0) : node.end_lineno]
        return any(re.search(rf"#\s*{word}:\s*\S", line) for line in lines)


def read_modules(root: Path, members: Iterable[Member]) -> dict[str, Module]:
    """Every module of every member by dotted name.

    Raises:
        SyntaxError: a file does not parse.
    """
    modules = {}
    for member in members:
        for path in sorted(member.source.rglob("*.py")):
            inside = path.relative_to(member.source)
            parts = inside.with_suffix("").parts
            name = ".".join((member.import_name, *(parts[:-1] if parts[-1] == "__init__" else parts)))
            text = path.read_text(encoding="utf-8")
            modules[name] = Module(name, root, path, inside.as_posix(), member, text, ast.parse(text, filename=str(path)))
    return modules


def _imports(nodes: Iterable[ast.AST], package: str, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node.lineno, lazy, typing_only)
        elif isinstance(node, ast.ImportFrom):
            yield Import(_absolute(node, package), tuple(alias.name for alias in node.names), node.lineno, lazy, typing_only)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imports(node.decorator_list, package, lazy=lazy, typing_only=typing_only)
            yield from _imports(node.body, package, lazy=True, typing_only=typing_only)
        elif isinstance(node, ast.Lambda):
            yield from _imports([node.body], package, lazy=True, typing_only=typing_only)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _imports(node.body, package, lazy=lazy, typing_only=True)
            yield from _imports(node.orelse, package, lazy=lazy, typing_only=typing_only)
        else:
            if isinstance(node, ast.Call) and (name := _import_call(node)):
                yield Import(name, (), node.lineno, lazy, typing_only)
            yield from _imports(ast.iter_child_nodes(node), package, lazy=lazy, typing_only=typing_only)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - (node.level - 1)]
    return ".".join([*above, *([node.module] if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _import_call(node: ast.Call) -> str:
    """The module of ``importlib.import_module("x")`` or ``__import__("x")``, or ""."""
    if ast.unparse(node.func) in {"importlib.import_module", "import_module", "__import__"} and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return ""
