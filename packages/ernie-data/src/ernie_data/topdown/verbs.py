"""The arguments of ``ernie data sft``. Light: the work is imported when a verb runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ernie_core.api import App


def add_sft(verbs: argparse._SubParsersAction) -> None:
    """Add ``sft build`` to the verbs of ``ernie data``."""
    summary = "sets for supervised fine-tuning: domains, the best of each, captions in four prompt styles"
    inner = verbs.add_parser("sft", help=summary, description=summary).add_subparsers(required=True, metavar="VERB")
    summary = "build a set from a finished build; after a kill, the same command goes on"
    build = inner.add_parser(
        "build", help=summary, description=f"{summary}. The result is a build like any other: query, report and train from it."
    )
    build.add_argument("config", type=Path, metavar="CONFIG.toml")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--workers", type=_positive, metavar="N", help="processes (default: run.workers, or one per core)")
    build.add_argument("--verify", action="store_true", help="check the sha256 of everything that is there, and rebuild what is damaged")
    build.add_argument("--only", action="append", default=[], metavar="UNIT", help="throw this unit's output away and make it again")
    build.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of the config")
    build.add_argument("--json", action="store_true", help="print one JSON object")
    build.set_defaults(run=_build)


def _build(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.build_command import build_recipe
    from ernie_data.topdown.config import load_sft

    return build_recipe(load_sft(arguments.config, app, out=arguments.out, overrides=tuple(arguments.set)), arguments, app)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return value
