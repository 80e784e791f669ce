"""The arguments of ``ernie data sampling``. Light: the work is imported when a verb runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_core.api import App


def _filters(text: str) -> tuple[tuple[int, float], ...]:
    """E.g. "256:3.5,640:4.5"."""
    pairs = [pair.partition(":") for pair in text.split(",")]
    return tuple((int(size), float(score)) for size, _, score in pairs)


def _domains(text: str) -> dict[str, float]:
    """E.g. "nature*=55,design*=27"."""
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    return {pattern: float(share) for pattern, _, share in pairs}


OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "draws": (int, "draws of the whole run: steps times pictures per batch"),
    "strategy": (str, "hierarchical, uniform-image, class-balanced, hard-threshold, dual-axis or staged-filters"),
    "alpha": (float, "power of a category's size, 1 natural to 0 flat"),
    "tau_c": (float, "temperature between categories"),
    "tau_i": (float, "temperature within a category"),
    "uniform": (float, "share of the uniform distribution within a category"),
    "kappa": (float, "pictures of the overall mean added to each category's mean"),
    "floor": (float, "least weight of a category relative to the heaviest"),
    "max_repeats": (float, "cap on the expected epochs of a picture; inf: none"),
    "min_score": (float, "least mean raw score of a kept bin, for hard-threshold"),
    "filters": (_filters, "for staged-filters: SIDE:SCORE,... least raw score of each stage by its side in pixels"),
    "size_px": (int, "for staged-filters: side in pixels of the stage that is sampled for"),
    "domains": (_domains, "for staged-filters: PATTERN=SHARE,... share of the draws of categories by name"),
}


def add_sampling(verbs: argparse._SubParsersAction) -> None:
    """Add ``sampling plan`` to the verbs of ``ernie data``."""
    summary = "which pictures are drawn how often"
    inner = verbs.add_parser("sampling", help=summary, description=summary).add_subparsers(required=True, metavar="VERB")
    summary = "expected epochs per picture, effective categories, repeats and what each knob does, before any training"
    plan = inner.add_parser("plan", help=summary, description=summary)
    plan.add_argument("source", type=Path, metavar="CONFIG.toml|INDEX", help="a sampling config, or the folder of a build or of an index")
    for name, (kind, meaning) in OPTIONS.items():
        plan.add_argument(f"--{name.replace('_', '-')}", dest=name, type=kind, metavar="T" if name == "draws" else "X", help=meaning)
    plan.add_argument(
        "--top", type=_count, default=10, metavar="N", help="how many repeated bins and categories to list (default %(default)s)"
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace, app: App) -> int:
    from ernie_data.sampling.command import plan

    return plan(arguments, app)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text}")
    return value
