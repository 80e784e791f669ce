"""An SQL expression over one record's columns: checked against their names and types before any work, then evaluated over rows.

Whether a record is selected must not depend on the records beside it, on the time or on chance, or the same recipe would select others when work is
cut differently. DuckDB's own parser gives the expression as a tree, in which such parts are looked for; its binder checks names and types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from ernie_core.api import ConfigError
from ernie_data.sql import locked_connection, sql_message
from ernie_data.tables import KEY, Row, table_of

_TABLE = "rows"
_OTHER_ROWS = {"SUBQUERY": "a subquery", "WINDOW": "a window function", "STAR": "`*`", "PARAMETER": "a parameter"}
_UNSTEADY = """
SELECT DISTINCT function_name, function_type = 'aggregate' FROM duckdb_functions()
WHERE function_type IN ('aggregate', 'window') OR coalesce(stability, 'CONSISTENT') <> 'CONSISTENT'
"""
_MACROS = "SELECT function_name, macro_definition FROM duckdb_functions() WHERE function_type = 'macro'"


class Condition:
    """
    Args:
        where: the expression.
        columns: names and types (``ernie_data.tables.TYPES``) of the columns there are; ``key`` is always one.

    Raises:
        ConfigError: no single expression, unknown columns, wrong types, no truth value, or something that is not a record's own.
    """

    def __init__(self, where: str, columns: Mapping[str, str]) -> None:
        self.where = where
        self.known = {KEY: "string", **columns}
        tree = self._tree()
        self.used = self._used(tree)
        self._check_functions(tree)
        self.evaluate([{}])  # the binder checks types; no value is needed

    def evaluate(self, rows: Sequence[Row]) -> list[bool]:
        """Whether the expression holds for each row; null counts as false.

        Raises:
            ConfigError: it fails for a value, such as a text that is cast to a number and is none.
        """
        query = f"SELECT ({self.where}\n) FROM {_TABLE}"  # the expression may end in a line comment
        names = dict.fromkeys((KEY, *self.used))  # with `key`, since a table without columns has no rows
        table = table_of([{name: row[name] for name in names if name in row} for row in rows], {name: self.known[name] for name in names})
        try:
            with locked_connection({_TABLE: table}) as connection:
                found = connection.execute(query)
                kind = str(found.description[0][1]) if found.description else ""
                answers = [row[0] is True for row in found.fetchall()]
        except duckdb.Error as error:
            raise self._error(sql_message(error)) from None
        if kind != "BOOLEAN":
            raise self._error(f"expected a truth value, found {kind}")
        return answers

    def _tree(self) -> Any:
        with locked_connection({}) as connection:
            text = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT ({self.where}\n) FROM {_TABLE}"]).fetchone()
        parsed = json.loads(text[0]) if text else {"error": True}
        if parsed["error"]:
            raise self._error(parsed.get("error_message", "it cannot be read"))
        statements = parsed["statements"]
        if len(statements) != 1 or len(statements[0]["node"]["select_list"]) != 1 or _has_clauses(statements[0]["node"]):
            raise self._error("expected a single expression")
        return statements[0]["node"]["select_list"][0]

    def _used(self, tree: Any) -> tuple[str, ...]:
        nodes = list(_nodes(tree))
        for node in nodes:
            if what := _OTHER_ROWS.get(node["class"]):
                raise self._error(f"{what} is not a record's own: whether a record is selected must not depend on others")
        bound = {name for node in nodes if node["class"] == "LAMBDA" for name in _first_names(node["lhs"])}
        named = dict.fromkeys(node["column_names"][0] for node in nodes if node["class"] == "COLUMN_REF")
        by_case = {name.lower(): name for name in self.known}
        if unknown := sorted(name for name in named if name.lower() not in by_case and name not in bound):
            raise self._error(f"there is no column {', '.join(unknown)}")
        return tuple(dict.fromkeys(by_case[name.lower()] for name in named if name.lower() in by_case))

    def _check_functions(self, tree: Any) -> None:
        with locked_connection({}) as connection:
            unsteady = dict(connection.execute(_UNSTEADY).fetchall())
            macros = {name: text for name, text in connection.execute(_MACROS).fetchall() if text}
            for name, text in macros.items():
                parsed = json.loads(connection.execute("SELECT json_serialize_sql(?)", [f"SELECT ({text})"]).fetchone()[0])
                called = {node["function_name"] for node in _nodes(parsed) if node["class"] == "FUNCTION"}
                others = any(node["class"] in _OTHER_ROWS for node in _nodes(parsed))
                if others or parsed["error"] or called & unsteady.keys():
                    unsteady.setdefault(name, False)
        for name in (node["function_name"] for node in _nodes(tree) if node["class"] == "FUNCTION"):
            if name in unsteady:
                why = "looks at several records" if unsteady[name] else "depends on chance, on the time or on the session"
                raise self._error(f"the function `{name}` {why}: whether a record is selected must depend on its columns alone")

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"the stage `select`: `where`: {self.where!r}: {message}. Columns: {', '.join(sorted(self.known))}")


def _has_clauses(node: Mapping[str, Any]) -> bool:
    """Whether something follows the expression that belongs to another part of a query, which a closing bracket in it would allow."""
    table = node.get("from_table") or {}
    filled = [node.get(name) for name in ("where_clause", "group_expressions", "having", "qualify", "sample", "modifiers")]
    return table.get("type") != "BASE_TABLE" or table.get("table_name") != _TABLE or any(filled)


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every expression of a tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _first_names(tree: Any) -> Iterator[str]:
    return (node["column_names"][0] for node in _nodes(tree) if node["class"] == "COLUMN_REF")
