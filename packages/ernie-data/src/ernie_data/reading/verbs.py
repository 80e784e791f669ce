"""The arguments of ``ernie data query`` and ``ernie data report``, and those of ``inspect`` for a build's output. Light."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

PLAN = "plan.json"

if TYPE_CHECKING:
    from ernie_core.api import App


def add_reading(verbs: argparse._SubParsersAction) -> None:
    """Add ``query`` and ``report`` to the verbs of ``ernie data``."""
    summary = "SQL over all columns of a build: the views items, rejected, stages, units and one per stage"
    query = verbs.add_parser("query", help=summary, description=f"{summary}. One SELECT; nothing outside the views can be reached.")
    query.add_argument("folder", type=Path, metavar="DIR")
    query.add_argument("sql", metavar="SQL", help='e.g. "SELECT bucket, count(*) FROM items GROUP BY ALL"')
    form = query.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per row, all rows")
    form.add_argument("--csv", action="store_true", help="CSV with a header, all rows")
    query.add_argument("--limit", type=_count, metavar="N", help="at most N rows (default: 40 as a table, else all)")
    query.add_argument("--memory", type=_count, default=2048, metavar="MIB", help="what the query may use (default %(default)s)")
    query.set_defaults(run=_query)

    summary = "write one HTML page about a build: counts, rejections, distributions, duplicates, samples"
    report = verbs.add_parser("report", help=summary, description=f"{summary}. It loads nothing and can be sent around as one file.")
    report.add_argument("folder", type=Path, metavar="DIR")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="default: report.html in DIR")
    report.add_argument("--truth", type=Path, metavar="truth.jsonl", help="planted defects, as `ernie data shapes --defects` writes them")
    report.add_argument("--config", type=Path, metavar="SAMPLING.toml", help="how training will sample; default: sampling's own defaults")
    report.add_argument("--draws", type=_count, default=0, metavar="T", help="draws of the whole run, for caps and repeats")
    report.set_defaults(run=_report)


def add_build_inspection(inspect: argparse.ArgumentParser) -> None:
    """What ``inspect`` can be asked about a build's output."""
    group = inspect.add_argument_group("of a build's output")
    group.add_argument("--key", metavar="KEY", help="print everything that is known of one record")
    group.add_argument("--save", type=Path, metavar="FILE", help="with --key: save its stored picture")
    group.add_argument("--unit", metavar="NAME", help="print a unit's rows as JSON lines")


def asks_about_a_build(arguments: argparse.Namespace) -> bool:
    """Whether ``inspect`` was pointed at a build's output, or asked for what only one has."""
    return (Path(arguments.folder) / PLAN).is_file() or any(value is not None for value in (arguments.key, arguments.unit, arguments.save))


def _query(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.reading.query_command import run

    return run(arguments, app)


def _report(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.report.command import run

    return run(arguments, app)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text}")
    return value
