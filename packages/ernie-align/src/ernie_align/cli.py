"""``ernie align pairs import|build|inspect``, ``cache-reference`` and ``report``. Light: a verb's work is imported when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ernie_align.pairs.verbs import add_pairs
from ernie_align.report.command import add_report

if TYPE_CHECKING:
    from ernie_core.api import App


def main(argv: Sequence[str], app: App) -> int:
    """Exit code 0: done, 1: failed, 2: wrong input."""
    parser = argparse.ArgumentParser(prog="ernie align", description="Fine-tuning and preference training.", allow_abbrev=False)
    groups = parser.add_subparsers(required=True, metavar="VERB")
    add_pairs(groups)
    add_cache_reference(groups)
    add_report(groups)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments, app)


def add_cache_reference(groups: argparse._SubParsersAction) -> None:
    parser = groups.add_parser(
        "cache-reference", help="compute the reference's errors that a run of method dpo will ask for, before it starts", allow_abbrev=False
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG.toml", help='the run\'s own, with reference.mode = "cached"')
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder: the run's reference.cache")
    parser.set_defaults(run=_cache_reference)


def _cache_reference(arguments: argparse.Namespace, app: App) -> int:
    from ernie_align.cache_command import run

    return run(arguments.configs, arguments.set, arguments.out, app)
