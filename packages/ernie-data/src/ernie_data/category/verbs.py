"""The arguments of ``ernie data taxonomy``. Light: the work is imported when a verb runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_data.category.entries import CategoryConfig

if TYPE_CHECKING:
    from ernie_core.api import App


def add_taxonomy(verbs: argparse._SubParsersAction) -> None:
    """Add ``taxonomy build|show`` to the verbs of ``ernie data``."""
    defaults = CategoryConfig()
    summary = "categories from embeddings: build a tree of them, and look at one"
    inner = verbs.add_parser("taxonomy", help=summary, description=summary).add_subparsers(required=True, metavar="VERB")

    summary = "cut the embeddings of a finished build into a tree of named categories"
    build = inner.add_parser("build", help=summary, description=summary)
    build.add_argument("--from", dest="source", type=Path, required=True, metavar="OUT", help="the output of `ernie data build`")
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist")
    for name, meaning in (
        ("leaves", "categories"),
        ("levels", "depth of the tree"),
        ("rows_per_leaf", "at most one leaf for so many pictures of the sample"),
        ("sample_rows", "learn from at most so many pictures"),
        ("iterations", "most rounds of k-means in each node"),
        ("seed", "of the sample and of k-means"),
    ):
        value = getattr(defaults, name)
        build.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, metavar="N", help=f"{meaning} (default {value})")
    build.add_argument("--no-normalise", dest="normalise", action="store_false", help="do not scale embeddings to length 1")
    build.add_argument("--json", action="store_true", help="print one JSON object")
    build.set_defaults(run=_build)

    summary = "the tree with sizes, names and example keys"
    show = inner.add_parser("show", help=summary, description=summary)
    show.add_argument("folder", type=Path, metavar="DIR")
    show.add_argument("--depth", type=_positive, metavar="N", help="levels to show (default: all)")
    show.add_argument(
        "--top", type=_positive, default=20, metavar="N", help="children of a node to list, the largest first (default %(default)s)"
    )
    show.add_argument("--json", action="store_true", help="print the whole tree as one JSON object")
    show.set_defaults(run=_show)


def _build(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.category.command import build

    return build(arguments, app)


def _show(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.category.command import show

    return show(arguments, app)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return value
